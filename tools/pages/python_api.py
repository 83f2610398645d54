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
_INTRODUCTION = f"""# Python

{notice("docstrings")}

`import ai_retry` loads only rules and values; the rest loads when it is used. What is not on this page may change in
any version. Instants are aware and in UTC, durations are `timedelta`.
"""

CONTENTS: Mapping[str, Sequence[str]] = {
    "Wiring": (
        *("bootstrap.connect", "bootstrap.worker", "bootstrap.verifier", "bootstrap.settle", "config.Settings"),
        *("providers.function.FunctionProvider", "providers.http.HttpAiProvider", "providers.reask.ReaskProvider"),
        *("providers.fallback.FallbackProvider", "storage.spool.Spool", "clock.SystemClock"),
    ),
    "Client": ("client.Client", "events.Event"),
    "What a client gives": (
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
        "auth.TokenVerifier",
        "problem",
        "problems.Problem",
    ),
    "Workers": ("worker.Worker",),
    "Rules": (
        "domain.first_call.generate",
        "domain.retry.retry_generation",
        "domain.retry.retry_status",
        "domain.policy.admit",
        "domain.policy.RetryPolicy",
    ),
    "Values": (
        "domain.model.Generation",
        "domain.model.Context",
        "domain.reader.ContextFrom",
        "domain.context.stored_context",
        "domain.model.Answer",
        "domain.model.Usage",
        "domain.model.Failure",
        "domain.model.FailureCode",
        "domain.model.GenerationStatus",
        "domain.model.Outcome",
        "domain.model.ResponseFormat",
        "domain.model.Quota",
        "domain.model.QuotaRule",
        "domain.model.Waiver",
        "domain.model.Snapshot",
        "domain.model.Attempt",
    ),
    "Errors": (*(f"domain.errors.{name}" for name in ai_retry.__all__ if hasattr(errors, name) and name != "Failure"),),
    "Ports": (
        "domain.ports.Storage",
        "domain.ports.QueueStorage",
        "domain.recovery.RecoveryStorage",
        "domain.operation.OperatorStorage",
        "domain.ports.AiProvider",
        "domain.ports.Clock",
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


def render() -> str:
    """Render the page."""
    lines = [_INTRODUCTION]
    for title, names in CONTENTS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += _object(name)
    return page(lines)


def _object(name: str) -> Iterator[str]:
    found = member(name)
    short = name.rpartition(".")[2]
    module = "ai_retry" if short in ai_retry.__all__ else f"ai_retry.{name.rpartition('.')[0]}"
    yield from (f"### {short}", "", f"`from {module} import {short}`", "")
    if isinstance(found, griffe.Class):
        yield from _class(found)
    elif isinstance(found, griffe.Attribute):
        yield from ("```python", f"{found.name} = {found.value}", "```", "", *_docstring(found))
    else:
        yield from _function(found, found.name)


def _class(found: griffe.Class) -> Iterator[str]:
    yield from _docstring(found)
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
    """List what is public of a class, and what it inherits of ours."""
    for name, each in found.all_members.items():
        if not name.startswith("_"):
            target = each.final_target if isinstance(each, griffe.Alias) else each
            if isinstance(target, griffe.Attribute | griffe.Function):
                yield target


def _field(field: griffe.Attribute) -> tuple[str, ...]:
    annotation = one_line(str(field.annotation or "")).replace('"', "")
    return code(field.name), code(annotation), code(_default(field)), prose(meaning(field))


def _default(field: griffe.Attribute) -> str:
    """Write a field's default as a reader would pass it."""
    text = "" if field.value is None else one_line(str(field.value))
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
        if each.name in ("self", "cls"):
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
                yield from (f"- `{each.name}`: {prose(one_line(each.description))}" for each in section.value)
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
