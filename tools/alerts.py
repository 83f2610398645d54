"""`make alerts`: evaluates the example's alert rules with promtool, which is Prometheus's own."""

import os
import shutil
import subprocess
import sys

from tools.npm import REPOSITORY

_FOLDER = REPOSITORY / "examples" / "observe"


def main() -> int:
    """Check and test the rules; without promtool nothing was evaluated, and the last line says so."""
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if promtool is None:
        print("NOT RUN: promtool is not installed (it comes with Prometheus; PROMTOOL names it)")
        return 0
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run([promtool, *arguments], cwd=_FOLDER, check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
