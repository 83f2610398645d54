"""Answers that were paid for and could not be settled yet, on this machine's disk.

One file per fencing token, readable by its owner alone, written by rename, so that it is whole or not there; removed
once the storage has decided. Sending one again is safe at any time, from any number of processes: settles are
idempotent by their token. The files hold answers of users: the directory is to be kept like the database.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from ai_retry.domain.errors import AiRetryError, NotConfigured, StorageFailure
from ai_retry.domain.model import Answer, Claim, QuotaRule, Settled, Usage
from ai_retry.domain.ports import Storage

_log = logging.getLogger("ai_retry")
_SUFFIX = ".settle.json"
_REMEDY = "let AI_RETRY_SPOOL_DIR name one that this user may write"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSettle:
    """Everything that ``Storage.succeed`` is told."""

    claim: Claim
    answer: Answer = field(repr=False)
    answer_from: int | None
    duration: timedelta | None
    quota_rule: QuotaRule
    rejected_wait: timedelta
    rejected_again_wait: timedelta

    def send(self, storage: Storage) -> Settled:
        """Settle; see ``Storage.succeed`` for what it raises."""
        return storage.succeed(
            self.claim,
            self.answer,
            answer_from=self.answer_from,
            duration=self.duration,
            quota_rule=self.quota_rule,
            rejected_wait=self.rejected_wait,
            rejected_again_wait=self.rejected_again_wait,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolReport:
    """What became of the spooled answers."""

    settled: int = 0  # each has its session now
    decided: int = 0  # the storage keeps the answer, or its generation needs none any more
    left: int = 0  # still in the spool: the storage failed or can't take them
    unreadable: int = 0  # files that are not ours or not whole; left alone


class Spool:
    """A directory of pending settles.

    Args:
        directory: made if absent, for its owner alone.

    Raises:
        NotConfigured: the directory can't be made or written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NotConfigured(f"the spool directory can't be made ({error.strerror}): {_REMEDY}") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise NotConfigured(f"the spool directory can't be written: {_REMEDY}")

    def keep(self, settle: PendingSettle) -> None:
        """Write it to disk, whole or not at all. A repeat changes nothing. A refusing disk is logged, not raised."""
        target, partial = self._path(settle.claim.token), self._directory / f"{uuid4()}.partial"
        try:
            if target.exists():
                return
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(_to_json(settle), file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            self._sync_directory()
        except OSError as error:
            _log.error("event=spool_failed errno=%s", error.errno)
            with suppress(OSError):
                partial.unlink()

    def remove(self, token: UUID) -> None:
        """Forget it; nothing happens when it is not there. One that can't be removed is logged, and only sent again."""
        try:
            self._path(token).unlink(missing_ok=True)
        except OSError as error:
            _log.error("event=spool_failed errno=%s", error.errno)

    def send_again(self, storage: Storage) -> SpoolReport:
        """Settle what is here, once each; stop when the storage is away, pass over what it can't take.

        Safe to repeat, and beside a running app.
        """
        settled = decided = left = unreadable = 0
        files = self._files()
        for number, path in enumerate(files):
            settle = _read(path)
            if settle is None:
                unreadable += path.exists()  # else another process has just settled it
                continue
            try:
                settle.send(storage)
                settled += 1
            except (StorageFailure, NotConfigured) as error:
                _log.warning("event=spool_waits code=%s generation_id=%s", error.code, settle.claim.generation_id)
                left += 1
                if error.retry_after is not None:
                    left += len(files) - number - 1
                    break
                continue
            except AiRetryError as error:
                _log.warning("event=spool_decided code=%s generation_id=%s", error.code, settle.claim.generation_id)
                decided += 1
            self.remove(settle.claim.token)
        return SpoolReport(settled=settled, decided=decided, left=left, unreadable=unreadable)

    def pending(self) -> Iterator[PendingSettle]:
        """Read what is here."""
        for path in self._files():
            if (settle := _read(path)) is not None:
                yield settle

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{_SUFFIX}"))

    def _path(self, token: UUID) -> Path:
        return self._directory / f"{token}{_SUFFIX}"

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> PendingSettle | None:
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None  # another process has just settled it
    except (OSError, ValueError, KeyError, TypeError):
        _log.error("event=spool_unreadable file=%s", path.name)
        return None


def _to_json(settle: PendingSettle) -> Mapping[str, Any]:
    claim, answer, rule, usage = settle.claim, settle.answer, settle.quota_rule, settle.answer.usage
    return {
        "version": 1,
        "claim": {
            "user_id": str(claim.user_id),
            "generation_id": str(claim.generation_id),
            "number": claim.number,
            "token": str(claim.token),
            "lease_expires_at": claim.lease_expires_at.isoformat(),
        },
        "answer": {
            "output": answer.output,
            "model": answer.model,
            "usage": None
            if usage is None
            else {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
                "cost": None if usage.cost is None else str(usage.cost),
            },
            "provider_id": answer.provider_id,
            "wire_requests": answer.wire_requests,
        },
        "answer_from": settle.answer_from,
        "duration_seconds": None if settle.duration is None else settle.duration.total_seconds(),
        "quota_rule": {
            "limit": rule.limit,
            "window_seconds": rule.window.total_seconds(),
            "count_own_successes": rule.count_own_successes,
        },
        "rejected_wait_seconds": settle.rejected_wait.total_seconds(),
        "rejected_again_wait_seconds": settle.rejected_again_wait.total_seconds(),
    }


def _from_json(document: Mapping[str, Any]) -> PendingSettle:
    claim, answer, rule = document["claim"], document["answer"], document["quota_rule"]
    usage, duration = answer["usage"], document["duration_seconds"]
    return PendingSettle(
        claim=Claim(
            user_id=UUID(claim["user_id"]),
            generation_id=UUID(claim["generation_id"]),
            number=claim["number"],
            token=UUID(claim["token"]),
            lease_expires_at=datetime.fromisoformat(claim["lease_expires_at"]),
        ),
        answer=Answer(
            output=answer["output"],
            model=answer["model"],
            usage=None
            if usage is None
            else Usage(**{**usage, "cost": None if usage["cost"] is None else Decimal(usage["cost"])}),
            provider_id=answer["provider_id"],
            wire_requests=answer["wire_requests"],
        ),
        answer_from=document["answer_from"],
        duration=None if duration is None else timedelta(seconds=duration),
        quota_rule=QuotaRule(
            limit=rule["limit"],
            window=timedelta(seconds=rule["window_seconds"]),
            count_own_successes=rule["count_own_successes"],
        ),
        rejected_wait=timedelta(seconds=document["rejected_wait_seconds"]),
        rejected_again_wait=timedelta(seconds=document["rejected_again_wait_seconds"]),
    )
