"""What an app's triggers and constraints do that one would not expect."""

from collections.abc import Iterator

from tests.apps.traits import Traits

_FUNCTION = "create function {schema}.{name}() returns trigger language plpgsql as $$ begin {body} end $$;\n"


def quirks_of(traits: Traits) -> Iterator[str]:
    """Create them, after the tables."""
    t = traits

    def trigger(name: str, body: str, when: str, of: str = "row") -> str:
        """Write a function, and the trigger that runs it."""
        late = "deferrable initially deferred " if "constraint" in when else ""
        return _FUNCTION.format(schema=t.schema, name=name, body=body) + (
            f"create {when} on {t.full_table} {late}for each {of} execute function {t.schema}.{name}();\n"
        )

    if "machine" in t.quirks:
        failed, active = _words(t, "error", "timeout"), _words(t, "queued", "processing")
        status = t.sql("status")
        refusal = f"if old.{status} in ({failed}) and new.{status} in ({active}) then raise 'no way back'; end if;"
        yield trigger("machine", f"{refusal} return new;", "trigger machine before update")
    if "extensions" in t.quirks:
        yield _EXTENSIONS
        yield trigger("short", "perform short_code(); return new;", "trigger short before update")
    if "deferred" in t.quirks:
        yield trigger("late", "perform 1; return null;", "constraint trigger late after update")
    if "notify" in t.quirks:
        yield trigger(
            "inform", "perform pg_notify('news', 'x'); return null;", "trigger notify after update", "statement"
        )


def link_of(traits: Traits) -> str:
    """Create the check that what is done has its result; old rows may do without."""
    t = traits
    result = f"{t.sql('answer')} is not null and {t.sql('finished_at')} is not null"
    if t.result != "row":
        result = f"{t.sql('session_id')} is not null"
    check = f"{t.sql('status')} not in ({_words(t, 'success')}) or {result}"
    return f"alter table {t.full_table} add constraint linked check ({check}) not valid;\n"


def _words(traits: Traits, *ours: str) -> str:
    return ", ".join(f"'{word}'" for each in ours for word in traits.words[each])


_EXTENSIONS = """
create schema extensions;
grant usage on schema extensions to public;
create function extensions.short_code() returns text language sql as $$ select 'x' $$;
"""
