"""The reference of the Python package, from its docstrings."""

import re
from collections.abc import Iterator, Mapping, Sequence

import griffe

import ai_retry
from ai_retry.domain import errors
from tools.pages.markdown import code, notice, one_line, page, prose, table
from tools.pages.sources import meaning, member

_WIDTH = 80
_STARS = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
_INTERNAL = {("ai_retry.bootstrap.connect", "doctor")}  # parameters that ``ai_retry.connect`` passes itself
_USE = f"""# Python: use it

{notice("docstrings; tools/pages/python_api.py says what is on which page")}

What an app, an operator or a notebook calls, and what it gets back. Providers, readers, storages and the pure functions
are in [Python: extend it](python-extend.md).

`import ai_retry` loads almost nothing; each name loads when it is used. What is on neither page may change in any
version. Instants are aware and in UTC, durations are `timedelta`.
"""
_EXTEND = f"""# Python: extend it

{notice("docstrings; tools/pages/python_api.py says what is on which page")}

For apps that bring their own provider, prompt reader, storage or tests, or that call the pure functions. What an app
calls is in [Python: use it](python-use.md).
"""
_ABOUT_ERRORS = """\
Every error is an `AiRetryError` and is imported from `ai_retry`. [Errors](errors.md) says for each code what it means,
and what to do.
"""

USE: Mapping[str, Sequence[str]] = {
    "Start": ("bootstrap.connect", "config.Settings", "bootstrap.verifier", "bootstrap.settle", "bootstrap.worker"),
    "Client": ("client.Client",),
    "What a client returns": (
        "domain.model.RetryResult",
        "domain.outlook.Outlook",
        "domain.listing.GenerationPage",
        "domain.recovery.UnreadableRow",
        "domain.queue_model.QueuedRetry",
        "domain.queue_model.QueueState",
        "domain.queue_model.RouteState",
        "recovery.methods.Diagnosis",
        "storage.spool.SpoolReport",
    ),
    "Operators": (
        "operate.operator.Operator",
        "operate.operator.NotAllowed",
        "operate.operations.Operations",
        "operate.views.Failures",
        "operate.views.Timeline",
        "operate.views.Moment",
        "operate.views.UserState",
        "operate.alarms.alarms",
        "operate.alarms.Alarm",
        "domain.operation.Overview",
        "domain.operation.Period",
        "domain.operation.RouteReport",
        "domain.operation.FailureCount",
        "domain.operation.AttemptRecord",
        "domain.operation.Override",
        "domain.operation.Action",
    ),
    "Recovery": (
        "recovery.found.Found",
        "recovery.generation.FoundGeneration",
        "recovery.summary.Summary",
        "recovery.plan.Plan",
        "recovery.plan.Estimates",
        "recovery.report.Report",
        "recovery.report.ReportLine",
        "domain.recovery.Decision",
        "recovery.why.Explanation",
    ),
    "Over HTTP": (
        "flask.create_blueprint",
        "flask.first_calls.Prompt",
        "flask.create_console",
        "auth.TokenVerifier",
        "problem",
        "problems.Problem",
    ),
    "Workers and events": ("worker.Worker", "events.Event"),
    "Rules": ("domain.policy.RetryPolicy", "domain.model.QuotaRule", "domain.model.Waiver"),
    "Values": (
        "domain.model.Generation",
        "domain.model.GenerationStatus",
        "domain.model.Attempt",
        "domain.model.Outcome",
        "domain.model.FailureCode",
        "domain.model.Quota",
        "domain.model.Usage",
    ),
}
ERRORS = tuple(name for name in ai_retry.__all__ if hasattr(errors, name) and name != "Failure")
EXTEND: Mapping[str, Sequence[str]] = {
    "Prompts": (
        "domain.reader.ContextFrom",
        "domain.model.Context",
        "domain.context.stored_context",
        "domain.model.ResponseFormat",
    ),
    "Providers": (
        "domain.ports.AiProvider",
        "domain.model.Answer",
        "domain.model.Failure",
        "providers.function.FunctionProvider",
        "providers.http.HttpAiProvider",
        "providers.reask.ReaskProvider",
        "providers.fallback.FallbackProvider",
    ),
    "Pure functions": (
        "domain.first_call.generate",
        "domain.retry.retry_generation",
        "domain.retry.retry_status",
        "domain.policy.admit",
        "domain.model.Snapshot",
    ),
    "Ports": (
        "domain.ports.Storage",
        "domain.ports.QueueStorage",
        "domain.recovery.RecoveryStorage",
        "domain.operation.OperatorStorage",
        "domain.ports.Clock",
        "clock.SystemClock",
        "storage.spool.Spool",
    ),
    "Changes": (
        "domain.change.Begin",
        "domain.change.CloseOver",
        "domain.change.Expected",
        "domain.change.Open",
        "domain.change.Run",
        "domain.change.Running",
        "domain.change.Acceptance",
        "domain.change.Settle",
        "domain.change.Found",
        "domain.change.Success",
        "domain.change.Rejection",
        "domain.change.Closing",
        "domain.change.CallRecord",
        "domain.change.PutBack",
        "domain.change.Postpone",
        "domain.change.Renew",
        "domain.change.Discard",
        "domain.change.Keep",
        "domain.change.Reply",
        "domain.change.Taken",
    ),
    "For your own tests": (
        "testing.ai.ScriptedAiProvider",
        "testing.clock.ManualClock",
        "testing.provider.ScriptedServer",
        "testing.memory.MemoryStorage",
        "testing.memory.MemoryApp",
    ),
}


def render_use() -> str:
    """Render the page for those who call the library."""
    return page([_USE, *_contents(USE), "## Errors", "", _ABOUT_ERRORS, *_errors()])


def render_extend() -> str:
    """Render the page for those who bring parts of their own."""
    return page([_EXTEND, *_contents(EXTEND)])


def _contents(contents: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for title, names in contents.items():
        yield from (f"## {title}", "")
        for name in names:
            yield from _object(name)


def _errors() -> Iterator[str]:
    """Show the base in full, and of each other error what differs."""
    yield from _object("domain.errors.AiRetryError")
    rows = (_error(name) for name in ERRORS if name != "AiRetryError")
    yield from table(("error", "base", "code", "HTTP", "further attributes"), rows)


def _error(name: str) -> tuple[str, ...]:
    error, found = getattr(errors, name), member(f"domain.errors.{name}")
    of_all = {"args", *member("domain.errors.AiRetryError").members}
    own = [each for each in found.members if each not in of_all and not each.startswith("_")]
    match vars(error).get("code"):
        case str(text):
            linked = f"[`{text}`](errors.md#{text.lower()})"
        case property():
            linked = "[`AI_…`](errors.md)"
        case _:
            linked = ""
    return code(name), code(error.__base__.__name__), linked, str(error.http_status), ", ".join(map(code, own))


def _object(name: str) -> Iterator[str]:
    found = member(name)
    short = name.rpartition(".")[2]
    exported = ai_retry._LAZY.get(short, name.rpartition(".")[0])
    is_exported = short in ai_retry.__all__ and member(f"{exported}.{short}".lstrip(".")) is found
    module = "ai_retry" if is_exported else f"ai_retry.{name.rpartition('.')[0]}"
    yield from (f"### {short}", "", f"`from {module} import {short}`", "")
    if isinstance(found, griffe.Class):
        yield from _class(found)
    elif isinstance(found, griffe.Attribute):
        yield from ("```python", f"{found.name} = {found.value}", "```", "", *_docstring(found))
    else:
        yield from _function(found, found.name)


def _class(found: griffe.Class) -> Iterator[str]:
    yield from _docstring(found)
    for base in _documented_bases(found):
        yield from (f"It has everything of [{code(base)}](#{base.lower()}), and:", "")
    fields = [each for each in _members(found) if isinstance(each, griffe.Attribute) and "property" not in each.labels]
    if fields:
        yield from table(("field", "type", "default", "meaning"), map(_field, fields))
    constructor = found.members.get("__init__")
    if isinstance(constructor, griffe.Function) and constructor.docstring is not None:
        yield from _function(constructor, found.name)
    for each in _members(found):
        if isinstance(each, griffe.Function):
            yield from (f"#### {found.name}.{each.name}", "", *_function(each, each.name))
        elif "property" in each.labels and each.docstring is not None:
            yield from (f"#### {found.name}.{each.name}", "", *_docstring(each))


def _members(found: griffe.Class) -> Iterator[griffe.Object]:
    """List what is public of a class, and what it inherits of ours, unless an entry of its own has that."""
    members = found.members if _documented_bases(found) else found.all_members
    for name, each in members.items():
        if not name.startswith("_"):
            target = each.final_target if isinstance(each, griffe.Alias) else each
            if isinstance(target, griffe.Attribute | griffe.Function):
                yield target


def _documented_bases(found: griffe.Class) -> list[str]:
    """Name the bases that have an entry on these pages."""
    names = {name.rpartition(".")[2] for contents in (USE, EXTEND) for each in contents.values() for name in each}
    return [base.name for base in found.resolved_bases if base.name in names]


def _field(field: griffe.Attribute) -> tuple[str, ...]:
    annotation = one_line(str(field.annotation or "")).replace('"', "")
    return code(field.name), code(annotation), code(_default(field)), prose(meaning(field))


def _default(field: griffe.Attribute) -> str:
    """Write a field's default as a reader would pass it."""
    is_set_by_constructor = "class-attribute" not in field.labels
    text = "" if field.value is None or is_set_by_constructor else one_line(str(field.value))
    if text.startswith("field("):
        inside = re.search(r"default=(?P<value>[^,)]+)|default_factory=(?P<factory>\w+)", text)
        text = "" if inside is None else inside["value"] or f"{inside['factory']}()"
    return text


def _function(function: griffe.Function, name: str) -> Iterator[str]:
    signature = list(_parameters(function))
    inside = ", ".join(signature)
    if len(inside) > _WIDTH:
        inside = "\n" + "".join(f"    {each},\n" for each in signature)
    yield from ("```python", f"{name}({inside}){_returns(function)}", "```", "")
    yield from _docstring(function)


def _returns(function: griffe.Function) -> str:
    if function.returns is None or function.name == "__init__":
        return ""
    text = str(function.returns).replace('"', "")
    if any(str(each.value).endswith("contextmanager") for each in function.decorators):
        text = f"ContextManager[{text.removeprefix('Iterator[').removesuffix(']')}]"
    return f" -> {text}"


def _parameters(function: griffe.Function) -> Iterator[str]:
    starred = False
    for each in function.parameters:
        if each.name in ("self", "cls") or (function.path, each.name) in _INTERNAL:
            continue
        starred = starred or each.kind is griffe.ParameterKind.var_positional
        if each.kind is griffe.ParameterKind.keyword_only and not starred:
            starred = True
            yield "*"
        yield _parameter(each)


def _parameter(parameter: griffe.Parameter) -> str:
    stars = _STARS.get(parameter.kind, "") if parameter.kind else ""
    annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
    default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
    return f"{stars}{parameter.name}{annotation}{default}".replace('"', "")


def _docstring(found: griffe.Object) -> Iterator[str]:
    if found.docstring is None:
        return
    for section in found.docstring.parse("google", warnings=False):
        match section:
            case griffe.DocstringSectionText():
                yield from (prose(section.value), "")
            case griffe.DocstringSectionParameters() | griffe.DocstringSectionAttributes():
                shown = [each for each in section.value if (found.path, each.name) not in _INTERNAL]
                yield from (f"- `{each.name}`: {prose(one_line(each.description))}" for each in shown)
                yield ""
            case griffe.DocstringSectionRaises():
                yield from ("Raises:", "")
                yield from (f"- `{each.annotation}`: {prose(one_line(each.description))}" for each in section.value)
                yield ""
            case griffe.DocstringSectionReturns():
                text = prose(one_line(section.value[0].description))
                yield from (f"Returns {text[:1].lower()}{text[1:]}", "")
            case _:
                yield from (prose(str(section.value)), "")
