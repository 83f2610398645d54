"""Apps composed at random from the traits of real ones.

``composed(seed)`` gives the same app for the same seed, with all that its story needs, and what may get in the way of
binding it, if anything does.
"""

import json
import random
from collections.abc import Iterator
from typing import Final

from tests.apps.book import App
from tests.apps.composed_schema import Schema
from tests.apps.quirks import link_of
from tests.apps.traits import Traits, drawn, now

_OUTPUT: Final = {"title": "A title", "minutes": 45, "parts": [{"text": "it's 100 %"}], "about": {"level": "easy"}}


def composed(seed: int) -> tuple[App, Traits]:
    """Compose an app; the same seed gives the same one."""
    rng = random.Random(f"apps {seed}")
    traits = drawn(rng)
    composer = _Composer(traits, rng)
    sections = composer.sections()
    app = App(
        name=f"composed {seed}",
        flags=composer.flags(),
        has_legacy_privileges=traits.legacy,
        asks="tea at five",
        old=composer.old,
        users=20 if traits.one_active or traits.one_planned else 5,
        sections=sections,
    )
    return app, traits


class _Composer:
    """Writes an app with these traits."""

    def __init__(self, traits: Traits, rng: random.Random) -> None:
        self.t, self.rng = traits, rng
        self.old: dict[str, int] = {}

    def sections(self) -> dict[str, list[str]]:
        """All that its story needs."""
        t = self.t
        sections = {
            "schema": ["".join(Schema(t).statements())],
            "rows": [self._rows(), *([link_of(t)] if "linked" in t.quirks else [])],
            "call as service_role": [self._call()],
            "output": [json.dumps(_OUTPUT)],
            "expect migrated": [self._expected("The rows are there.", f"count(*) = {self.rows}", "true")],
            "expect failed": ["".join(self._failed())],
            "expect succeeded": ["".join(self._succeeded())],
            "expect accepted": [self._accepted()],
            "expect queued": [self._expected("It is done.", self._is("success"), self._this)],
            "expect recovered": [
                self._expected(
                    "All are done.", f"bool_and({self._is('success')})", f"{t.sql('id')} = any(:generations)"
                )
            ],
        }
        if t.status != "none":
            failed = f"update {t.full_table} set {t.sql('status')} = '{t.words['error'][-1]}' where {self._this};\n"
            sections["fail as service_role"] = [failed]
        if t.refund:
            sections["user"] = ["insert into public.purses values (:user, 10);\n"]
        if t.hiding:
            value = "now()" if t.hiding == "deleted_at" else "true"
            hide = f"update {t.full_table} set {t.sql(t.hiding)} = {value} where {self._this};\n"
            sections["hide as service_role"] = [hide]
        if t.one_planned:
            sections["cure"] = [f"update {t.sessions_table} set planned = false where {t.sql('user_id')} = :user;\n"]
        if t.one_active:
            other = "'00000000-0000-4000-8000-000000000201'"
            sections["busy as service_role"] = [self._insert(t.words["processing"][0], id_=other)]
            sections["free as service_role"] = [f"delete from {t.full_table} where {t.sql('id')} = {other};\n"]
        return sections

    # Rows, and the app's own call

    def _prompt(self) -> dict[str, str]:
        t = self.t
        if t.prompt == "columns":
            return {t.sql("prompt_text"): "'tea at five'", t.sql("tone"): "'calm'"}
        return {t.sql("prompt_data"): """'{"messages": [{"role": "user", "content": "tea at five"}]}'"""}

    def _insert(self, word: str | None, *, user: str = ":user", id_: str | None = None, **more: str) -> str:
        t = self.t
        values = self._prompt() | {t.sql(name): value for name, value in more.items()}
        if t.obstacle != "no owner":
            values[t.sql(t.owner)] = user
        if t.status != "none":
            values[t.sql("status")] = "null" if word is None else f"'{word}'"
        if t.model:
            values[t.sql("model")] = "'small'"
        if "required" in t.quirks:
            values["kind"] = "'text'"
        if id_ is None and "no default" in t.quirks:
            id_ = "gen_random_uuid()"
        if id_:
            values[t.sql("id")] = id_
        return f"insert into {t.full_table} ({', '.join(values)}) values ({', '.join(values.values())});\n"

    def _rows(self) -> str:
        t = self.t
        self.rows = 0
        user = "'00000000-0000-4000-8000-00000000000a'"
        statements = ["insert into auth.users (id) values ('00000000-0000-4000-8000-00000000000a');\n"]
        if t.refund:
            statements.append(f"insert into public.purses values ({user}, 10);\n")
        words: list[tuple[str, str | None]] = [(ours, word) for ours, known in t.words.items() for word in known]
        words += [(t.null_is, None)] if t.null_is else []
        if t.status == "none":
            words = [("error", None), ("error", None)]
        if t.one_active:
            words = [each for each in words if each[0] not in ("queued", "processing")]
        for ours, word in words:
            then = f"{now(t.created)} - interval '{self.rng.randint(2, 30)} days'"
            statements.append(self._insert(word, user=user, created_at=then))
            self.old[ours] = self.old.get(ours, 0) + 1
            self.rows += 1
        return "".join(statements)

    def _call(self) -> str:
        word = self.t.words["processing"][-1]
        return self._insert(word).rstrip(";\n") + f" returning {self.t.sql('id')};\n"

    # What it expects

    @property
    def _this(self) -> str:
        return f"{self.t.sql('id')} = :generation"

    def _is(self, ours: str) -> str:
        t = self.t
        if t.status == "none":
            column = t.sql("answer") if t.result == "row" else t.sql("session_id")
            return f"{column} is {'not ' if ours == 'success' else ''}null"
        return f"{t.sql('status')} = '{t.words[ours][0]}'"

    def _is_failed(self) -> str:
        """Whichever of the words for it: what says so already need not be written."""
        t = self.t
        if t.status == "none":
            return self._is("error")
        words = ", ".join(f"'{word}'" for word in t.words["error"])
        return f"({t.sql('status')} in ({words}) or {t.sql('status')} is null)"

    def _expected(self, promise: str, query: str, where: str) -> str:
        return f"-- {promise}\nselect {query} from {self.t.full_table} where {where};\n"

    def _failed(self) -> Iterator[str]:
        t = self.t
        yield self._expected("It failed, by a word of the app's.", self._is_failed(), self._this)
        if t.logs in ("bound", "identity"):
            yield f"-- Both are logged.\nselect count(*) = 2 from {t.logs_table} where generation_id = :generation;\n"
        if t.logs == "required":
            yield f"-- The log is left out.\nselect count(*) = 0 from {t.logs_table};\n"
        if t.events in ("bound", "serial"):
            yield f"-- Two events.\nselect count(*) = 2 from {t.events_table} where user_id = :user;\n"
        if t.refund:
            yield "-- One coin came back.\nselect coins = 11 from public.purses where user_id = :user;\n"

    def _succeeded(self) -> Iterator[str]:
        t = self.t
        yield self._expected("It is done, by the app's word.", self._is("success"), self._this)
        output = json.dumps(_OUTPUT).replace("'", "''")
        if t.result == "row":
            done = f"{t.sql('answer')} = '{output}' and {t.sql('finished_at')} is not null"
            yield self._expected("The answer is in the row.", done, self._this)
        else:
            content = f"s.body = '{output}'"
            if t.result == "columns":
                content = (
                    "s.title = 'A title' and s.minutes = 45 and s.level = 'easy'"
                    """ and s.parts = '[{"text": "it''s 100 %"}]'"""
                )
            yield (
                f"-- The session is the user's, with its content.\nselect {content} and s.{t.sql('user_id')} = :user"
                f" from {t.full_table} g join {t.sessions_table} s on s.id::text = g.{t.sql('session_id')}::text"
                f" where g.{self._this};\n"
            )
        if t.duration:
            yield self._expected("It says how long it took.", f"{t.sql('duration_ms')} is not null", self._this)
        if t.updated == "timestamp":
            clock = f"{t.sql('updated_at')} between {now('timestamp')} - interval '1 hour' and {now('timestamp')}"
            yield self._expected("It was written by Tokyo's clock.", clock, self._this)
        if t.refund:
            yield "-- No further coin.\nselect coins = 11 from public.purses where user_id = :user;\n"
        if t.events == "calendar":
            yield "-- The calendar is empty.\nselect count(*) = 0 from public.events;\n"

    def _accepted(self) -> str:
        if self.t.writes_status:
            return self._expected("It waits, by the app's word.", self._is("queued"), self._this)
        if self.t.status == "none":
            return self._expected("It waits, unseen.", self._is("error"), self._this)
        return self._expected("It waits, unseen.", self._is_failed(), self._this)

    # How init is called

    def flags(self) -> list[str]:
        """Say everything that can't be guessed, and much that can."""
        t = self.t
        if t.bare:
            return ["--yes"]
        columns = {
            "id": t.column("id"),
            "user_id": t.column(t.owner),
            "status": "none" if t.status == "none" else t.column("status"),
            "model": t.column("model") if t.model else "none",
            "prompt_data": ",".join(
                map(t.column, ("prompt_text", "tone") if t.prompt == "columns" else ("prompt_data",))
            ),
            "session_id": "none" if t.result == "row" else t.column("session_id"),
            "duration_ms": t.column("duration_ms") if t.duration else "none",
            "created_at": t.column("created_at"),
            "updated_at": t.column("updated_at") if t.updated else "none",
        }
        if t.obstacle == "no owner":
            del columns["user_id"]
        given: list[tuple[str, str]] = [
            ("generations", f"{t.schema}.{t.table}"),
            ("sessions", "none" if t.result == "row" else f"{t.sessions_table}"),
            ("error-logs", "none" if t.logs == "none" else f"{t.logs_table}"),
            ("events", f"{t.events_table}" if t.events in ("bound", "serial") else "none"),
            *(("column", f"{name}={column}") for name, column in columns.items()),
            *self._more(),
        ]
        return [part for name, value in given for part in (f"--{name}", value)] + ["--yes"]

    def _more(self) -> Iterator[tuple[str, str]]:
        t = self.t
        if t.status != "none":
            for ours, words in t.words.items():
                known = [*words, *(["null"] if t.null_is == ours else [])]
                silent = ["none"] if not t.writes_status and ours in ("queued", "processing") else []
                yield "status", f"{ours}={','.join([*silent, *known])}"
        if t.result == "function":
            yield "session-function", f"{t.schema}.make_it"
        sets: dict[str, str] = {
            "table": {"body": "output"},
            "columns": {
                "title": "output.title",
                "minutes": "output.minutes",
                "level": "output.about.level",
                "parts": "output.parts",
            },
            "function": {},
            "row": {t.column("answer"): "output", t.column("finished_at"): "now"},
        }[t.result]
        for column, value in sets.items():
            yield "set", f"{column}={value}"
        if t.hiding == "deleted_at":
            yield "soft-delete", t.column("deleted_at")
        elif t.hiding:
            yield "hidden", t.sql("archived")
        if "timestamp" in (t.created, t.updated):
            yield "time-zone", "Asia/Tokyo"
