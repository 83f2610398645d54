"""Several provider calls in one attempt: what they come to, together.

Pure. A provider that asks more than once (``providers.fallback``, ``providers.reask``) joins what it got here, and
``decide`` reads here what the calls showed of their routes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from operator import is_
from typing import Final, TypeVar

from ai_retry.domain.model import Answer, Failure, ProviderCall, ProviderOutcome, Usage

DEFAULT_MODEL: Final = "default"  # in a route, where no model was named
_LONGEST_ROUTE: Final = 255  # characters: users may name the model, and an index holds it
_DIGITS: Final = 19  # of a cost, before the point: storages keep no longer one
_Result = TypeVar("_Result", bound=Answer | Failure)


def route_name(provider: str, model: str | None) -> str:
    """Name a route."""
    return f"{provider}/{model or DEFAULT_MODEL}"[:_LONGEST_ROUTE]


def listed(
    result: Answer | Failure,
    *,
    duration: timedelta | None,
    model: str | None = None,
    provider: str | None = None,
    route: str | None = None,
    http_status: int | None = None,
    ended: float | None = None,
) -> ProviderCall:
    """List one request, by what came of it, and by when it ended by a monotonic clock."""
    failure = replace(result, invalid=None) if isinstance(result, Failure) else None
    return ProviderCall(
        provider=provider,
        model=result.model or model,
        code=failure.code if failure else None,
        http_status=http_status,
        usage=result.usage,
        duration=duration,
        route=route,
        outcome=failure.provider_outcome if failure else ProviderOutcome.GENERATED,
        failure=failure,
        ended=ended,
    )


def noted(
    result: _Result,
    *,
    duration: timedelta | None,
    model: str | None = None,
    provider: str | None = None,
    route: str | None = None,
    ended: float | None = None,
) -> _Result:
    """Fill in what a provider does not say of its calls; one that lists none has made one; a failure is its last."""
    calls = result.calls or (
        listed(result, duration=duration, model=model, provider=provider, route=route, ended=ended),
    )
    if isinstance(result, Failure) and calls[-1].failure is None:
        failure = replace(result, usage=calls[-1].usage, calls=(), invalid=None)
        calls = (*calls[:-1], replace(calls[-1], code=result.code, failure=failure))
    filled = tuple(_filled(each, provider, model, route) for each in calls)
    if len(filled) == len(result.calls) and all(map(is_, filled, result.calls)):
        return result  # it says all of it already: each layer of providers asks
    return replace(result, calls=filled)


def _filled(call: ProviderCall, provider: str | None, model: str | None, route: str | None) -> ProviderCall:
    known = (call.provider, call.model, call.route, call.outcome)
    filled = (call.provider or provider, call.model or model, call.route or route, call.provider_outcome)
    if filled == known:
        return call
    return replace(call, provider=filled[0], model=filled[1], route=filled[2], outcome=filled[3])


def joined(earlier: Sequence[Failure], last: Answer | Failure) -> Answer | Failure:
    """Give the end of an attempt of several calls: tokens, cost and requests add up, and every call stays listed.

    An answer is the answer. Of failures, one that uses up an attempt says what happened, else one that passes, the
    later one first; whether waiting helps is asked of all of them, since one model that answers is enough.
    """
    if not earlier:
        return last
    results: list[Answer | Failure] = [*earlier, last]
    usage = _sum([each.usage for each in results])
    wire_requests = sum(each.wire_requests for each in results)
    calls = tuple(call for each in results for call in each.calls)
    if isinstance(last, Answer):
        return replace(last, usage=usage, wire_requests=wire_requests, calls=calls)
    failures = [*earlier, last]
    passing = [each for each in failures if each.passes]
    waits = [each.retry_after for each in passing]
    leading = ([each for each in failures if each.counted] or passing or failures)[-1]
    return replace(
        leading,
        transient=leading.transient or bool(passing),
        operator_fault=leading.operator_fault and not passing,
        certainly_not_generated=all(each.certainly_not_generated for each in failures),
        retry_after=min((each for each in waits if each is not None), default=None) if all(waits) else None,
        usage=usage,
        wire_requests=wire_requests,
        calls=calls,
        invalid=last.invalid,
    )


def ends_by_route(result: Answer | Failure, begun: str | None) -> Mapping[str | None, Failure | None]:
    """Read how the last call to each route ended: with its failure, or with None, an answer.

    Args:
        result: of all calls.
        begun: the route that a call without a name went to, as did a result that lists no calls.
    """
    if not result.calls:
        return {begun: result if isinstance(result, Failure) else None}
    showing = [each for each in result.calls if each.failure is not None or each.code is None]
    return {each.route or begun: each.failure for each in showing}


def _sum(usages: Sequence[Usage | None]) -> Usage | None:
    """Add what is known; None where nothing is."""
    known = [each for each in usages if each is not None]
    if not known:
        return None
    costs = [each.cost for each in known if each.cost is not None and _is_number(each.cost)]
    return Usage(
        prompt_tokens=_total([each.prompt_tokens for each in known]),
        completion_tokens=_total([each.completion_tokens for each in known]),
        total_tokens=_total([each.total_tokens for each in known]),
        cost=sum(costs, Decimal(0)) if costs else None,
    )


def _is_number(cost: Decimal) -> bool:
    """Whether costs like this add up: an answer is not lost for what its provider says that it cost."""
    return cost.is_finite() and cost.adjusted() < _DIGITS


def _total(counts: Sequence[int | None]) -> int | None:
    known = [each for each in counts if each is not None]
    return sum(known) if known else None
