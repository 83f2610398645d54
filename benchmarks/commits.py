"""Earlier states of this repository, to measure them beside what it is now."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from tools.npm import REPOSITORY


def checked_out(commit: str, folder: Path) -> Path | None:
    """Write a commit's files into a folder of its own; None: this copy of the repository does not have that commit."""
    archived = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, check=False, capture_output=True)
    if archived.returncode:
        return None
    target = folder / commit
    with tarfile.open(fileobj=BytesIO(archived.stdout)) as files:
        files.extractall(target, filter="data")
    return target
