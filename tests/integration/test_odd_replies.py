"""A gateway in front of the Data API answers nonsense: no paid answer is lost, and nothing is paid for twice.

On the real Data API, with the repeats that a client makes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ai_retry.domain.errors import (
    AiRetryError,
    AlreadySucceeded,
    NotConfigured,
    SessionRejected,
    StorageFailure,
    StorageOutcomeUnknown,
    StorageUnavailable,
)
from ai_retry.domain.policy import DEFAULT_POLICY
from ai_retry.storage.spool import Spool
from ai_retry.storage.supabase import SupabaseStorage
from tests.faults.gateway import CUTS, REPLIES, Gateway, Odd
from tests.helpers.payer import Payer
from tests.helpers.world import owner_of
from tools.stack import Stack

SHORT = timedelta(milliseconds=100)
EVERY_REPLY = (*REPLIES, *CUTS)
SETTLE, KEEP = "ai_retry_settle", "ai_retry_keep"


class Site:
    """A process behind a gateway.

    Attributes:
        odd: what the gateway does with calls of these functions; empty: it passes everything on.
        times: how often; None: for ever.
    """

    def __init__(self, payer: Payer, spool: Path | None) -> None:
        self.payer, self._spool = payer, spool
        self.odd: dict[str, Odd] = {}
        self.times: dict[str, int | None] = {}

    def answers(self, function: str, does: str, *, times: int | None = None, passes: bool = False) -> None:
        """Let the gateway do this with a function's next calls, or all of them."""
        self.odd[function] = Odd(functions=(function,), does=does, passes=passes)
        self.times[function] = times

    def heal(self) -> None:
        """Let the gateway pass everything on."""
        self.odd.clear()

    def choose(self, function: str) -> Odd | None:
        """Choose, as the gateway asks."""
        left = self.times.get(function)
        if left is not None:
            self.times[function] = max(0, left - 1)
        return None if left == 0 else self.odd.get(function)

    @property
    def files(self) -> int:
        """How many answers are on disk."""
        return len(list(self._spool.iterdir())) if self._spool is not None else 0


@contextmanager
def running(stack: Stack, directory: Path | None, **budgets: Any) -> Iterator[Site]:
    """Run a process behind a gateway."""
    port = urlsplit(stack.url).port
    assert port is not None
    sites: list[Site] = []
    with ExitStack() as opened:
        gateway = opened.enter_context(Gateway(port, lambda function: sites[0].choose(function) if sites else None))
        spool = Spool(directory) if directory is not None else None
        url = f"http://127.0.0.1:{gateway.port}"
        storage = opened.enter_context(closing(SupabaseStorage(url, stack.secret_key, spool=spool, **budgets)))
        connection = opened.enter_context(owner_of(stack.database_url))
        sites.append(Site(Payer(storage, connection, spool), directory))
        yield sites[0]


@pytest.fixture(params=["a spool", "no spool"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where paid answers are until they are settled, or nowhere."""
    return tmp_path / "spool" if request.param == "a spool" else None


@pytest.mark.parametrize("passes", [False, True], ids=["not-applied", "applied"])
def test_odd_reply_to_a_settle_is_repeated(stack: Stack, directory: Path | None, *, passes: bool) -> None:
    """The gateway's word on a settle, applied or not, is a lost reply: the same settle is sent again, and known."""
    with running(stack, directory) as site:
        for does in EVERY_REPLY:
            site.payer.start_anew()
            site.answers(SETTLE, does, times=2, passes=passes)

            result = site.payer.retry()

            assert (result.session["content"], site.payer.provider.calls) == ("paid", 1), does
            assert (site.payer.outcomes, site.payer.contents) == (["succeeded"], ["paid"]), does
            assert (result.quota.captured, site.files) == (1, 0), does


@pytest.mark.parametrize("does", EVERY_REPLY)
def test_odd_replies_for_all_of_a_settle_keep_the_answer(stack: Stack, directory: Path | None, does: str) -> None:
    """The settle's time is over, and the last resort gets through: the answer is stored, and used without a call."""
    with running(stack, directory, settle_for=SHORT) as site:
        site.answers(SETTLE, does)
        with pytest.raises(SessionRejected):
            site.payer.retry()
        assert site.files == 0
        site.heal()

        result = site.payer.retry()

        assert (result.session["content"], site.payer.provider.calls) == ("paid", 1)
        assert (site.payer.outcomes, site.payer.contents) == (["failed", "succeeded"], ["paid"])


@pytest.mark.parametrize("does", EVERY_REPLY)
def test_odd_reply_to_the_last_resort_is_repeated(stack: Stack, does: str) -> None:
    """A page in place of the last resort's reply is not taken for its success."""
    with running(stack, None, settle_for=SHORT) as site:
        site.answers(SETTLE, does)
        site.answers(KEEP, does, times=1)
        with pytest.raises(SessionRejected):
            site.payer.retry()
        site.heal()

        assert site.payer.retry().session["content"] == "paid"
        assert site.payer.provider.calls == 1


@pytest.mark.parametrize("does", EVERY_REPLY)
def test_spool_holds_what_nothing_gets_through_for(stack: Stack, tmp_path: Path, does: str) -> None:
    """Settle and last resort fail for all of their time: the next begin of this process sends the answer first."""
    with running(stack, tmp_path / "spool", settle_for=SHORT) as site:
        site.answers(SETTLE, does)
        site.answers(KEEP, does)
        with pytest.raises(StorageOutcomeUnknown):
            site.payer.retry()
        assert site.files == 1
        site.heal()
        site.payer.world.advance(DEFAULT_POLICY.lease)

        with pytest.raises(AlreadySucceeded):
            site.payer.retry()

        assert (site.payer.contents, site.payer.outcomes) == (["paid"], ["succeeded"])
        assert (site.payer.provider.calls, site.files) == (1, 0)


def test_answer_that_cannot_be_sent_is_not_paid_for_again(stack: Stack, tmp_path: Path) -> None:
    """While the settle of an answer in the spool gets through no more than before, its generation does not begin."""
    with running(stack, tmp_path / "spool", settle_for=SHORT, read_for=SHORT) as site:
        site.answers(SETTLE, "429")
        site.answers(KEEP, "429")
        with pytest.raises(StorageOutcomeUnknown):
            site.payer.retry()
        site.payer.world.advance(DEFAULT_POLICY.lease)

        with pytest.raises(StorageOutcomeUnknown):
            site.payer.retry()

        assert (site.payer.provider.calls, site.files) == (1, 1)


@pytest.mark.parametrize("function", ["ai_retry_load", "ai_retry_begin", "ai_retry_installation"])
def test_odd_reply_before_the_call_is_repeated(stack: Stack, tmp_path: Path, function: str) -> None:
    """Nothing was paid for yet, and nothing needs to fail: what the gateway says now passes."""
    with running(stack, tmp_path / "spool") as site:
        for does in EVERY_REPLY:
            site.payer.start_anew()
            site.payer.world.storage._installation = None  # type: ignore[attr-defined]  # as in a new process
            site.answers(function, does, times=2, passes=True)

            assert site.payer.retry().session["content"] == "paid", does
            assert (site.payer.provider.calls, site.payer.outcomes) == (1, ["succeeded"]), does


def raised(call: Callable[[], object]) -> AiRetryError:
    """What a call raises."""
    with pytest.raises(AiRetryError) as caught:
        call()
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("does", EVERY_REPLY)
def test_odd_replies_that_last_call_no_provider(stack: Stack, does: str) -> None:
    """What lasts before the call is an outage, or, where functions are missing for all of it, a fault to correct."""
    with running(stack, None, read_for=SHORT) as site:
        site.payer.client.queue_state()  # the API has answered in this process: a gateway's 401 is no wrong key
        site.answers("ai_retry_load", does)

        failure = raised(site.payer.retry)

        assert isinstance(failure, NotConfigured if does == "PGRST202" else StorageUnavailable)
        assert site.payer.provider.calls == 0


def test_refusal_that_lasts_from_the_start_is_a_wrong_key(stack: Stack) -> None:
    """A process that was never answered, and is refused for all of its first reading, has a wrong key or address."""
    with running(stack, None, read_for=SHORT) as site:
        site.answers("ai_retry_load", "401")

        failure = raised(site.payer.retry)

        assert isinstance(failure, NotConfigured)
        assert "SUPABASE_SECRET_KEY" in str(failure)


def test_wrong_key_is_named(stack: Stack) -> None:
    """What the real API says of a wrong key is reported, with what to check."""
    storage = SupabaseStorage(stack.url, f"{stack.secret_key}x", read_for=SHORT)

    with closing(storage), owner_of(stack.database_url) as connection:
        failure = raised(Payer(storage, connection).retry)

    assert isinstance(failure, NotConfigured)
    assert "SUPABASE_SECRET_KEY" in str(failure)


def test_worker_bears_odd_replies(stack: Stack) -> None:
    """A worker polls once, and again soon: what the gateway says is a failure that passes, and ends no process."""
    with running(stack, None) as site:
        storage = site.payer.world.storage
        polls: dict[str, Callable[[], object]] = {
            "ai_retry_take": lambda: storage.take(1, timedelta(seconds=1), DEFAULT_POLICY.quota),
            "ai_retry_overdue": lambda: storage.overdue(1),
        }
        for function, poll in polls.items():
            for does in EVERY_REPLY:
                site.answers(function, does, times=2)
                with suppress(StorageFailure):
                    poll()
                with suppress(StorageFailure):
                    poll()
                poll()
