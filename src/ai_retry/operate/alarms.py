"""What is wrong now, by the rules of ``examples/observe/alerts.yml``: the same names, thresholds and words.

Those rules look at metrics over time. These look at the database as it is: "for five minutes" is read from instants
that are stored. What only a process knows is not seen here, such as failures of the configuration in an app's log.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from ai_retry.domain.operation import Overview

Severity: TypeAlias = Literal["page", "ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something is wrong, and what to do."""

    name: str
    severity: Severity
    summary: str
    action: str


@dataclass(frozen=True, slots=True)
class _Rule:
    alarm: Alarm
    holds: Callable[[Overview], bool]


DUE_FOR: Final = timedelta(minutes=4)  # two without a look, for two
ACCEPTED_FOR: Final = timedelta(hours=1)
UNAVAILABLE_FOR: Final = timedelta(minutes=5)
FAILING: Final = 0.5  # of the attempts
KEPT_FOR: Final = timedelta(hours=1)
ABANDONED: Final = 3

DATABASE_DOWN: Final = Alarm(
    name="AiRetryDatabaseDown",
    severity="page",
    summary="The database can't be read.",
    action="ai-retry doctor. Paid answers wait in the spool meanwhile.",
)


def alarms(overview: Overview | None) -> Sequence[Alarm]:
    """List what is wrong, what is worth a page first; None: the overview could not be read."""
    if overview is None:
        return [DATABASE_DOWN]
    found = [rule.alarm for rule in _rules() if rule.holds(overview)]
    return sorted(found, key=lambda alarm: alarm.severity != "page")


def known() -> Sequence[Alarm]:
    """List all that can be found, in the order of the rules."""
    return [DATABASE_DOWN, *(rule.alarm for rule in _rules())]


def _rules() -> Iterator[_Rule]:
    yield from _of_the_queue()
    yield from _of_attempts()
    yield from _of_answers()


def _of_the_queue() -> Iterator[_Rule]:
    yield _rule(
        "AiRetryWorkersGone",
        "page",
        "Accepted retries are due, and no worker has looked for messages for two minutes.",
        "Start workers; see their logs for worker_waits and worker_failed.",
        lambda now: now.queue.running == 0 and _older(now, now.oldest_due_at, DUE_FOR),
    )
    yield _rule(
        "AiRetryAcceptedTooOld",
        "ticket",
        "A retry was accepted more than an hour ago, and has not ended.",
        "ai-retry queue, and ai-retry why of its generation.",
        lambda now: _older(now, now.queue.oldest_accepted_at, ACCEPTED_FOR),
    )
    yield _rule(
        "AiRetryProviderUnavailable",
        "page",
        "A provider and model have been unavailable for five minutes.",
        "See the provider's status page. Accepted retries wait, and go on by themselves.",
        lambda now: any(
            each.not_before > now.as_of and _older(now, each.began_at, UNAVAILABLE_FOR) for each in now.routes
        ),
    )


def _of_attempts() -> Iterator[_Rule]:
    yield _rule(
        "AiRetryAttemptsFail",
        "page",
        "More than half of the attempts fail.",
        "Look at ai_retry_attempts_total by code.",
        _fail,
    )
    yield _rule(
        "AiRetryNeedsOperator",
        "page",
        "Something is set up wrong, or is a defect; retries wait for it.",
        "The reason is in the log, at ERROR.",
        lambda now: now.last_10_minutes.operator_faults > 0,
    )
    yield _rule(
        "AiRetrySessionsRejected",
        "page",
        "The app's tables or session function reject paid answers, which are kept.",
        "The log has the constraint or SQLSTATE as cause. Once cured, the next retries use the answers.",
        lambda now: now.last_10_minutes.codes.get("SESSION_REJECTED", 0) > 0,
    )


def _of_answers() -> Iterator[_Rule]:
    yield _rule(
        "AiRetryAnswersWait",
        "ticket",
        "Paid answers have had no session for an hour.",
        "ai-retry find, then a plan; the retries are free.",
        lambda now: _older(now, now.oldest_kept_at, KEPT_FOR),
    )
    yield _rule(
        "AiRetrySpoolWaits",
        "ticket",
        "Paid answers wait on a machine's disk.",
        "ai-retry settle on that machine.",
        lambda now: bool(now.spool_files),
    )
    yield _rule(
        "AiRetryProcessesDie",
        "ticket",
        "Attempts are abandoned, since processes die amid their calls.",
        "Look for kills and restarts. What was abandoned may have cost something.",
        lambda now: now.last_15_minutes.abandoned > ABANDONED,
    )


def _rule(name: str, severity: Severity, summary: str, action: str, holds: Callable[[Overview], bool]) -> _Rule:
    return _Rule(Alarm(name=name, severity=severity, summary=summary, action=action), holds)


def _older(now: Overview, since: datetime | None, age: timedelta) -> bool:
    return since is not None and now.as_of - since > age


def _fail(now: Overview) -> bool:
    ended = now.last_10_minutes.failed + now.last_10_minutes.succeeded
    return ended > 0 and now.last_10_minutes.failed / ended > FAILING
