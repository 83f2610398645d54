"""The spool: a paid answer is on disk until the storage has decided, and one file's trouble is only its own."""

import json
import os
import stat
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ai_retry.domain.change import Found, Reply, Settle
from ai_retry.domain.errors import NotConfigured, StorageOutcomeUnknown, StorageUnavailable
from ai_retry.domain.model import Answer, Installation, Usage
from ai_retry.storage.documents import document
from ai_retry.storage.spool import Spool, SpoolReport
from ai_retry.storage.spool_files import Held, SpoolFiles, Unreadable
from ai_retry.testing.memory import MemoryStorage
from tests.helpers.memory_world import MemoryWorld
from tests.helpers.steps import ANSWER, begin, close_over, load, new_generation, outcomes

HERE = MemoryWorld().storage.installation()
ELSEWHERE = Installation(id="another", database="restored")
SOON = timedelta(seconds=1)


class Site:
    """A world, and a spool of a process that was killed before its settles."""

    def __init__(self, directory: Path) -> None:
        self.world = MemoryWorld()
        self.directory = directory
        self.spool = Spool(directory)

    def paid(self, answer: Answer = ANSWER, *, installation: Installation = HERE) -> Settle:
        """Begin a new generation, call, and be killed after the answer was written; return the settle."""
        change = self.begun(answer)
        self.spool.hold(change, document(change), installation)
        return change

    def begun(self, answer: Answer = ANSWER) -> Settle:
        """Begin a new generation and call; return the settle."""
        begun = begin(self.world, *new_generation(self.world))
        return begun.ending.answered(Found.READY, answer, None, timedelta(milliseconds=1250))

    def send(self, **options: Any) -> SpoolReport:
        """Send what is there, as the next process does."""
        return Spool(self.directory).send_again(self.world.storage, **options)

    @property
    def files(self) -> list[str]:
        """What is in the directory."""
        return sorted(path.name for path in self.directory.iterdir())


class Failing(MemoryStorage):
    """A storage whose settles fail for these generations, and are noted."""

    failures: dict[UUID, Exception]
    seen: list[UUID]

    def settle(self, change: Settle) -> Reply:
        """Fail, or settle."""
        self.seen.append(change.generation_id)
        if change.generation_id in self.failures:
            raise self.failures[change.generation_id]
        return super().settle(change)


def failing(site: Site, *failures: tuple[Settle, Exception]) -> Failing:
    """Let settles of these changes fail."""
    storage = site.world.storage
    storage.__class__ = Failing
    assert isinstance(storage, Failing)
    storage.failures = {change.generation_id: error for change, error in failures}
    storage.seen = []
    return storage


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A world, and an empty spool."""
    return Site(tmp_path / "spool")


def a_name(change: Settle) -> str:
    """The file of a settle."""
    return f"{change.generation_id}.{change.token}.settle.json"


# What is on disk


def test_settle_comes_back_as_it_was(site: Site) -> None:
    """What is read back equals what was held, to the last decimal, and is sent as the same document."""
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, cost=Decimal("0.00123"))
    answer = Answer(
        output={"text": "Ä\u2028", "list": [1, 2.5, None, True]},
        model="m",
        usage=usage,
        provider_id="g",
        wire_requests=2,
    )
    change = site.paid(answer)

    assert site.spool.read(a_name(change)) == Held(change=change, installation=HERE)
    assert document(change) == json.dumps(json.loads((site.directory / a_name(change)).read_text())["settle"])


def test_files_are_the_owners_only(site: Site) -> None:
    """No other user may read an answer that waits, or list the directory."""
    change = site.paid()

    assert stat.S_IMODE(site.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((site.directory / a_name(change)).stat().st_mode) == 0o600


def test_first_settle_that_is_held_stays(site: Site) -> None:
    """A second hold of a token changes nothing."""
    change = site.paid()
    held = (site.directory / a_name(change)).read_text()

    site.spool.hold(change, document(change).replace("Easy", "Hard"), HERE)

    assert (site.directory / a_name(change)).read_text() == held


def test_broken_directory_breaks_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that became unusable is logged when it is written, and not raised."""
    change = site.begun()
    site.directory.rmdir()
    site.directory.touch()

    site.spool.hold(change, document(change), HERE)
    site.spool.release(change)

    assert site.spool.names() == []
    assert {each.getMessage().split()[0] for each in caplog.records} == {"event=spool_failed"}


def test_release_removes_its_own_file_only(site: Site) -> None:
    """Another token's file stays, and one that is not there is no error."""
    held, other = site.paid(), site.begun()

    site.spool.release(other)

    assert site.files == [a_name(held)]


@pytest.mark.parametrize("place", ["file/spool", "x" * 300])
def test_directory_that_cannot_be_created_is_named(tmp_path: Path, place: str) -> None:
    """A spool where none can be is refused at the start, in words."""
    (tmp_path / "file").touch()

    with pytest.raises(NotConfigured, match="spool directory"):
        Spool(tmp_path / place)


# What becomes of it


def test_answer_becomes_its_session_once(site: Site) -> None:
    """A killed process's answer is settled by the next one, and its file removed."""
    change = site.paid()

    assert (site.send(), site.send()) == (SpoolReport(settled=1), SpoolReport())
    assert outcomes(site.world, change.generation_id) == ["succeeded"]
    assert len(site.world.sessions(change.user_id)) == 1
    assert site.files == []


def test_settle_whose_reply_was_lost_is_known(site: Site) -> None:
    """A settle that was applied already is no second session; its file goes."""
    change = site.paid()
    site.world.storage.settle(change)

    assert site.send() == SpoolReport(settled=1)
    assert len(site.world.sessions(change.user_id)) == 1


def test_late_answer_is_stored(site: Site) -> None:
    """The attempt was abandoned meanwhile: its answer waits in the storage for the next one, and the file goes."""
    change = site.paid()
    site.world.advance(timedelta(hours=1))
    close_over(site.world, change.user_id)

    assert site.send() == SpoolReport(decided=1)
    assert load(site.world, change.user_id, change.generation_id).stored_answer is not None
    assert site.files == []


def test_rejected_session_is_decided(site: Site) -> None:
    """The app's tables reject the session: the storage has the answer, and the file goes."""
    site.paid()
    site.world.refuse_sessions("no_more")

    assert site.send() == SpoolReport(decided=1)
    assert site.files == []


def test_generation_that_changed_keeps_its_answer(site: Site) -> None:
    """The generation moved to another user meanwhile: the answer is kept for its own, and the file goes."""
    change, other = site.paid(), site.world.new_user()
    site.world.set_generation(change.generation_id, user_id=other)

    assert site.send() == SpoolReport(decided=1)
    close_over(site.world, change.user_id)
    assert load(site.world, other, change.generation_id).stored_answer is None
    site.world.set_generation(change.generation_id, user_id=change.user_id)
    assert load(site.world, change.user_id, change.generation_id).stored_answer is not None
    assert site.files == []


def test_unknown_token_is_not_removed(site: Site) -> None:
    """A database that knows neither attempt nor generation decides nothing: the answer may belong elsewhere."""
    change = site.paid()
    site.world.delete_user(change.user_id)

    assert site.send() == SpoolReport(unknown=1)
    assert site.send(adopt=True) == SpoolReport(unknown=1)
    assert site.files == [a_name(change)]


def test_restored_generation_gets_a_late_answer(site: Site) -> None:
    """A database that was restored has the generation, and not the attempt: the answer is stored as a late one."""
    change = site.paid()
    site.world.storage.rows.clear()

    assert site.send() == SpoolReport(decided=1)
    assert load(site.world, change.user_id, change.generation_id).stored_answer is not None


@pytest.mark.parametrize("installation", [ELSEWHERE, Installation(id=HERE.id, database="copy")], ids=["id", "name"])
def test_file_of_another_database_is_left(
    site: Site, installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    """Another installation's answer, or that of a database with another name, is left, counted and named."""
    change = site.paid(installation=installation)

    assert site.send() == SpoolReport(foreign=1)
    assert site.files == [a_name(change)]
    assert outcomes(site.world, change.generation_id) == [None]
    assert f"event=spool_foreign database={installation.database} file={a_name(change)}" in caplog.messages


def test_copy_adopts_what_belongs_to_its_original(site: Site) -> None:
    """Whoever says that this is a copy gets the answers settled."""
    site.paid(installation=ELSEWHERE)

    assert site.send(adopt=True) == SpoolReport(settled=1)
    assert site.files == []


# One file's trouble


def _document(text: str) -> Callable[[Path, str], object]:
    return lambda path, _: path.write_text(text)


def _edited(old: str, new: str) -> Callable[[Path, str], object]:
    def edit(path: Path, written: str) -> None:
        assert old in written
        path.write_text(written.replace(old, new))

    return edit


def _fifo(path: Path, _: str) -> None:
    os.mkfifo(path)


def _link(path: Path, written: str) -> None:
    target = path.with_name("elsewhere")
    target.write_text(written)
    path.symlink_to(target)


TROUBLES: dict[str, Callable[[Path, str], object]] = {
    "torn": lambda path, written: path.write_text(written[:-20]),
    "empty": _document(""),
    "a list": _document('["not", "ours"]'),
    "not text": lambda path, _: path.write_bytes(b"\xff\xfe\x00"),
    "NaN": _edited('"note": null', '"note": NaN'),
    "infinity": _edited('"note": null', '"note": 1e999'),
    "6,000 digits": _edited('"note": null', f'"note": {"9" * 6000}'),
    "1e30 seconds": _edited('"again_wait_seconds": ', '"again_wait_seconds": 1e30'),
    "a cost that is no number": _edited('"cost": null', '"cost": "much"'),
    "100,000 brackets": _edited('"note": null', f'"note": {"[" * 100_000}{"]" * 100_000}'),
    "a version of the future": _edited('"version": 1', '"version": 2'),
    "a protocol of the future": _edited('"protocol": 2', '"protocol": 3'),
    "no installation": _edited('"database"', '"place"'),
    "a FIFO": _fifo,
    "a link": _link,
    "a directory": lambda path, _: path.mkdir(),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_trouble_of_one_file_is_passed_over(
    site: Site, trouble: Callable[[Path, str], object], caplog: pytest.LogCaptureFixture
) -> None:
    """A file that can't be read is logged by name, counted and left; the answers beside it are settled."""
    bad, good = sorted((site.paid(), site.paid()), key=lambda change: change.generation_id)
    path = site.directory / a_name(bad)
    written = path.read_text()
    path.unlink()
    trouble(path, written)

    assert site.send() == SpoolReport(settled=1, unreadable=1)
    assert outcomes(site.world, good.generation_id) == ["succeeded"]
    assert a_name(good) not in site.files
    assert a_name(bad) in site.files
    (message,) = caplog.messages
    assert message.startswith("event=spool_unreadable")
    assert message.endswith(f"file={a_name(bad)}")
    assert "Easy run" not in message


def test_token_that_is_not_its_name_is_passed_over(site: Site) -> None:
    """A file under another token's name could remove that one's answer."""
    change = site.paid()
    (site.directory / a_name(change)).rename(site.directory / f"{change.generation_id}.{uuid4()}.settle.json")

    assert site.send() == SpoolReport(unreadable=1)


def test_name_of_a_file_cannot_write_a_log_line(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A name that anyone may have chosen is shown on one line."""
    (site.directory / "x\nevent=fine.settle.json").touch()

    assert site.send() == SpoolReport(unreadable=1)
    assert "\n" not in caplog.text.rstrip("\n")


def test_file_settled_by_another_process_is_not_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process settles between the listing and the reading is neither an error nor counted."""
    monkeypatch.setattr(SpoolFiles, "names", lambda _: [f"{uuid4()}.{uuid4()}.settle.json"])

    assert site.send() == SpoolReport()


@pytest.mark.parametrize(
    "error",
    [StorageUnavailable(code, retry_after=SOON) for code in ("55P03", "40001", "40P01")]
    + [
        StorageUnavailable("22P05"),
        StorageUnavailable("57014", retry_after=SOON),
        StorageOutcomeUnknown("cut", retry_after=SOON),
    ],
    ids=lambda error: error.reason,
)
def test_settle_that_fails_for_one_holds_up_no_other(site: Site, error: Exception) -> None:
    """A row that is held, or an answer that the database can't take, waits; those behind it are settled."""
    bad, *good = sorted((site.paid() for _ in range(3)), key=lambda change: change.generation_id)
    failing(site, (bad, error))

    assert site.send() == SpoolReport(settled=2, left=1)
    assert site.files == [a_name(bad)]
    assert [outcomes(site.world, each.generation_id) for each in good] == [["succeeded"]] * 2


@pytest.mark.parametrize("error", [StorageOutcomeUnknown("XX000", retry_after=SOON), NotConfigured("refused (23514)")])
def test_answer_is_kept_where_it_can_not_be_settled(site: Site, error: Exception) -> None:
    """The app's function fails, or its tables refuse what is written: the storage keeps the answer."""
    change = site.paid()
    failing(site, (change, error))

    assert site.send() == SpoolReport(decided=1)
    assert load(site.world, change.user_id, change.generation_id).stored_answer is not None
    assert site.files == []


def test_many_that_are_held_hold_up_no_other(site: Site) -> None:
    """However many rows the app holds, the others are settled."""
    changes = sorted((site.paid() for _ in range(5)), key=lambda change: change.generation_id)
    site.world.app.locked |= {change.generation_id for change in changes[:4]}

    assert site.send() == SpoolReport(settled=1, left=4)


def test_sending_stops_when_the_storage_fails(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Two failures in a row are the storage's: everything is left where it is, and nothing else is tried."""
    changes = [site.paid() for _ in range(5)]
    storage = failing(site, *((change, StorageUnavailable("gone", retry_after=SOON)) for change in changes))

    assert site.send() == SpoolReport(left=5)
    assert len(storage.seen) == 2
    assert len(site.files) == 5
    assert [message.split()[0] for message in caplog.messages] == ["event=spool_waits"] * 2


def test_what_failed_goes_last_the_next_time(site: Site) -> None:
    """Two files that take the storage down with them don't keep the others waiting for ever."""
    changes = sorted((site.paid() for _ in range(5)), key=lambda change: change.generation_id)
    error = StorageOutcomeUnknown("connection lost", retry_after=SOON)
    storage = failing(site, (changes[0], error), (changes[1], error))

    first, second = (site.spool.send_again(storage) for _ in range(2))

    assert (first, second) == (SpoolReport(left=5), SpoolReport(settled=3, left=2))


def test_database_that_does_not_say_which_it_is_gets_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the installation nothing is sent: everything is left."""
    site.paid()

    def installation(_: MemoryStorage) -> Installation:
        raise StorageUnavailable("no connection", retry_after=SOON)

    monkeypatch.setattr(MemoryStorage, "installation", installation)

    assert site.send() == SpoolReport(left=1)


# What a crash or an operator has left


def test_partial_file_is_reported(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What a process that was killed while it wrote has left is counted and named; one just being written is not."""
    for name, age in (("torn.partial", 3600.0), ("young.partial", 0.0)):
        (site.directory / name).touch()
        os.utime(site.directory / name, (site.directory.stat().st_mtime - age,) * 2)

    assert site.send() == SpoolReport(partial=1)
    assert caplog.messages == ["event=spool_partial file=torn.partial"]


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o702])
def test_directory_that_others_can_use_is_reported(site: Site, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that others can read or write is accepted, with a word."""
    site.directory.chmod(mode)

    assert site.send() == SpoolReport(exposed=1)
    assert caplog.messages == [f"event=spool_exposed others={mode & 0o077:03o}"]


def test_what_stays_is_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that looks every half minute does not fill its log with what an operator has to cure."""
    site.paid(installation=ELSEWHERE)

    for _ in range(3):
        site.spool.send_again(site.world.storage)

    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("report", "is_done"),
    [({"settled": 1, "decided": 1, "partial": 1, "exposed": 1}, True)]
    + [({name: 1}, False) for name in ("left", "foreign", "unknown", "unreadable")],
)
def test_report_says_whether_answers_wait(report: dict[str, int], *, is_done: bool) -> None:
    """Everything that is still there is for an operator to look at."""
    assert SpoolReport(**report).is_done is is_done


# Before a begin, and beside serving


def test_what_waits_for_a_generation_is_sent_first(site: Site) -> None:
    """Only that generation's answers are sent."""
    change, other = site.paid(), site.paid()

    site.spool.send_first(change.generation_id, site.world.storage)

    assert outcomes(site.world, change.generation_id) == ["succeeded"]
    assert site.files == [a_name(other)]


def test_what_cannot_be_settled_first_is_kept(site: Site) -> None:
    """The app holds the row: the storage keeps the answer, so that the next attempt uses it."""
    change = site.paid()
    site.world.app.locked.add(change.generation_id)

    site.spool.send_first(change.generation_id, site.world.storage)

    assert load(site.world, change.user_id, change.generation_id).stored_answer is not None
    assert site.files == []


def test_generation_whose_answer_cannot_be_sent_does_not_begin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the storage takes nothing, nothing is paid for again."""
    change = site.paid()
    error = StorageUnavailable("no connection", retry_after=SOON)
    storage = failing(site, (change, error))

    def keep(*_: object) -> None:
        raise error

    monkeypatch.setattr(Failing, "keep", keep, raising=False)

    with pytest.raises(StorageUnavailable):
        site.spool.send_first(change.generation_id, storage)
    assert site.files == [a_name(change)]


@pytest.mark.parametrize("installation", [HERE, ELSEWHERE])
def test_file_that_cannot_be_sent_at_all_holds_up_no_begin(site: Site, installation: Installation) -> None:
    """A file that is not readable, or not of this database, is passed over."""
    change = site.paid(installation=installation)
    if installation == HERE:
        (site.directory / a_name(change)).write_text("torn")

    site.spool.send_first(change.generation_id, site.world.storage)

    assert site.files == [a_name(change)]


def test_sending_beside_keeps_no_one_waiting(site: Site) -> None:
    """One thread sends; another request for it meanwhile does nothing, and closing waits for it."""
    change = site.paid()
    settling, free = threading.Event(), threading.Event()
    storage = failing(site)

    class Slow(Failing):
        def settle(self, change: Settle) -> Reply:
            settling.set()
            assert free.wait(timeout=30)
            return super().settle(change)

    storage.__class__ = Slow

    site.spool.send_beside(storage)
    assert settling.wait(timeout=30)
    site.spool.send_beside(storage)
    free.set()
    site.spool.close()

    assert storage.seen == [change.generation_id]
    assert site.files == []


def test_closed_spool_sends_nothing(site: Site) -> None:
    """What is not sent yet when a client closes is left for the next one."""
    change = site.paid()
    site.spool.close()

    site.spool.send_beside(site.world.storage)

    assert site.spool.send_again(site.world.storage) == SpoolReport(left=1)
    assert site.files == [a_name(change)]


def test_thread_that_sends_reports_its_bug(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in what sends beside ends no process and leaves no traceback."""
    site.paid()
    monkeypatch.setattr(Spool, "send_again", lambda *_: 1 / 0)

    site.spool.send_beside(site.world.storage)
    site.spool.close()

    assert caplog.messages == ["event=spool_failed error=ZeroDivisionError"]


def test_unreadable_says_why_without_content(site: Site) -> None:
    """The reason names what is wrong, not what was read."""
    change = site.paid()
    path = site.directory / a_name(change)
    path.write_text(path.read_text().replace('"user_id": "', '"user_id": "secret-'))

    with pytest.raises(Unreadable, match=r"^ValueError$"):
        site.spool.read(a_name(change))
