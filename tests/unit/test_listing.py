"""A user's own generations, page by page: what is judged, what is hidden, and which cursors are accepted."""

from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_retry.client import Client
from ai_retry.domain.errors import StorageUnavailable
from ai_retry.domain.listing import NEWEST, GenerationPage, read_cursor, write_cursor
from ai_retry.domain.model import GenerationStatus
from ai_retry.domain.outlook import Outlook
from ai_retry.domain.recovery import Cursor, FoundPage, UnreadableRow
from ai_retry.testing.ai import ScriptedAiProvider
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.builders import a_failure, an_answer
from tests.helpers.memory_world import MemoryWorld

HOUR = timedelta(hours=1)
ID = UUID("6f1c2f0e-8a57-4c3e-9f0a-2b8a4f1d7c11")
PLACES = [
    *("infinity", "-infinity", None, "2026-11-28T12:00:00+00:00", "2026-02-28T23:59:59.123456-08:00"),
    *("0044-03-15T00:00:00+00:00 BC", "0001-02-29T00:00:00+00:00 BC", "10000-02-29T00:00:00.5+05:30"),
    *("294275-12-31T23:59:59+00:00", "0001-01-01T00:00:00+00:19:32"),
]
NO_PLACES = [
    *("now", "tomorrow", "epoch", "2026-11-28", "2026-11-28T12:00:00", "2026-11-28T12:00:00Z", " infinity", "x"),
    *(
        "2026-13-01T00:00:00+00:00",
        "2026-02-30T00:00:00+00:00",
        "2026-11-28T25:00:00+00:00",
        "294276-01-01T00:00:00+00:00",
    ),
    *(
        "0000-01-01T00:00:00+00:00",
        "9999-01-01T00:00:00+00:00 BC",
        "2026-11-28T12:00:00+00:00 AD",
        "10001-02-29T00:00:00+00:00",
    ),
    *("2026-11-28T12:00:00+16:00", "2026-11-28T12:00:00-23:59:59", "2026-11-28T12:00:00+25:00"),
    *("infinity'; drop table x", "2026-11-28t12:00:00+00:00"),
]


def encoded(text: str) -> str:
    """Write a cursor as we write one."""
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def ids(page: GenerationPage) -> list[UUID]:
    """The generations of a page."""
    return [each.snapshot.generation.id for each in page.generations if isinstance(each, Outlook)]


class Unreachable(MemoryStorage):
    """A storage that lists nothing."""

    def browse(self, *_: Any) -> FoundPage:
        """See the port."""
        raise StorageUnavailable("08006")


class Case:
    """A user with generations of several kinds."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        script = (a_failure(), an_answer())
        self.client = Client(storage=self.world.storage, ai=ScriptedAiProvider(*script), clock=self.world.clock)
        self.user_id = self.world.new_user()
        self.failed, self.done, self.hidden, self.new = (
            self.world.new_generation(self.user_id, age=age * HOUR) for age in (4, 3, 2, 1)
        )
        self.world.app.hidden.add(self.hidden)

    def list(self, **options: Any) -> GenerationPage:
        """List them."""
        return self.client.generations(self.user_id, **options)


def test_each_has_the_outlook_of_its_status() -> None:
    """What the list says of one is what the status says of it; what the app hides is left out."""
    case = Case()
    with pytest.raises(Exception, match="unavailable"):
        case.client.retry_generation(case.user_id, case.failed)
    case.client.retry_generation(case.user_id, case.done)

    page = case.list()

    assert ids(page) == [case.new, case.done, case.failed]
    for each in page.generations:
        assert isinstance(each, Outlook)
        own = case.client.status(case.user_id, each.snapshot.generation.id)
        assert (each.can_retry, each.code, each.retry_at) == (own.can_retry, own.code, own.retry_at)
    assert [each.code for each in page.generations] == [None, "ALREADY_SUCCEEDED", "RETRY_TOO_SOON"]
    assert page.next is None


def test_pages_follow_one_another() -> None:
    """Each cursor leads on, until there is none."""
    case, found, cursor = Case(), [], None
    for _ in range(4):
        page = case.list(limit=1, cursor=cursor)
        found += ids(page)
        cursor = page.next
        if cursor is None:
            break

    assert (found, cursor) == ([case.new, case.done, case.failed], None)


@pytest.mark.parametrize(
    ("status", "count"),
    [(None, 3), ("error", 3), ("success", 0), (["error", "timeout"], 3), (GenerationStatus.ERROR, 3)],
)
def test_status_is_a_word_or_several(status: Any, count: int) -> None:
    """As words or as members; None means any."""
    assert len(ids(Case().list(status=status))) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit must be from 1 to 100"),
        ({"limit": 101}, "limit must be from 1 to 100"),
        ({"status": "failed"}, "status must be of queued"),
        ({"status": ["error", ""]}, "status must be of queued"),
        ({"cursor": ""}, "cursor is not one"),
    ],
)
def test_what_does_not_exist_is_refused(options: dict[str, Any], message: str) -> None:
    """Before anything is read."""
    case = Case()
    with pytest.raises(ValueError, match=message):
        case.list(**options)
    with pytest.raises(ValueError, match="user_id"):
        case.client.generations("me")


def test_storage_failure_is_raised() -> None:
    """A page that can't be read is no empty page."""
    case = Case()
    client = Client(storage=Unreachable(case.world.clock), ai=ScriptedAiProvider())

    with pytest.raises(StorageUnavailable):
        client.generations(case.user_id)


@given(at=st.sampled_from(PLACES), generation_id=st.uuids())
def test_cursor_survives(at: str | None, generation_id: UUID) -> None:
    """What is written is read, whatever instant the app's row has; it needs no escape in a URL."""
    cursor = Cursor(at=at, id=generation_id)
    text = write_cursor(cursor)

    assert read_cursor(text) == cursor
    assert text.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("at", NO_PLACES)
def test_cursor_holds_an_instant_of_the_storage(at: str) -> None:
    """Whatever PostgreSQL might read otherwise, or fail on, is refused."""
    with pytest.raises(ValueError, match="cursor is not one that a page gave"):
        read_cursor(encoded(f"{ID.hex}{at}"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "=", "é", "a" * 257, "A" * 43, write_cursor(NEWEST) + "=", write_cursor(NEWEST) + "AAAA", " "),
        encoded(str(ID)),
        encoded(f"{{{ID.hex[:30]}}}"),
        encoded(f"{ID.hex.upper()}infinity"),
        write_cursor(NEWEST)[:-1],
    ],
)
def test_other_strings_are_no_cursor(text: str) -> None:
    """One place has one cursor, and nothing else is one."""
    with pytest.raises(ValueError, match="cursor is not one that a page gave"):
        read_cursor(text)


@given(st.text())
def test_any_string_is_a_cursor_or_refused(text: str) -> None:
    """Nothing but a ``ValueError`` comes of a string."""
    try:
        cursor = read_cursor(text)
    except ValueError:
        return
    assert write_cursor(cursor) == text


def test_unreadable_row_can_not_be_retried() -> None:
    """It says so like an outlook."""
    row = UnreadableRow(generation_id=ID, column="updated_at", reason="is odd")
    assert (row.can_retry, row.code) == (False, "NOT_CONFIGURED")
