"""The campaign of `make long-call`, in small: it finds nothing, and would find a broken promise."""

from pathlib import Path

from tests.faults.long_call import SHORT_CALL, LongCall
from tools.stack import Stack


def test_call_of_several_leases_breaks_no_promise(stack: Stack, tmp_path: Path) -> None:
    """Whether its worker lives, is killed in the middle or is stopped in the middle: one session for one unit."""
    campaign = LongCall(stack, SHORT_CALL, tmp_path)

    campaign.run()

    *answered, last = campaign.lines()
    assert campaign.violations == []
    assert len(answered) == 5
    assert last == "0 violations"
