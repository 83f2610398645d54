"""The proof of ``make recovery-proof``, small: a run that is killed goes on, and its report is complete."""

from datetime import timedelta

from benchmarks.recovery_proof import killed_run
from tools.stack import Stack


def test_killed_run_goes_on(stack: Stack) -> None:
    """After SIGKILL no call is made twice but those whose call died with the process, and all have one session."""
    killed = killed_run(stack, 400, after=150, lease=timedelta(seconds=4))

    assert 150 <= killed.called_before < 400
    assert killed.succeeded == 400
    assert killed.sound
