"""What a developer's differ would write as the next migration: migra, in the port to Node that is maintained.

`supabase db diff` needs Docker, and the original migra has not been released since 2022. The differ comes from an npm
lock file of its own (`tools/node_differ`), as the stack's packages do. It compares neither comments nor default
privileges: `tools.catalogue` does.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from tools.npm import install_node_packages, node

MANIFEST: Final = Path(__file__).parent / "node_differ"

# By its API: the command prints warnings among the statements.
_SCRIPT: Final = """
const [standing, wanted] = process.argv.slice(1)
const options = {unsafe: true, withPrivileges: true, excludeSchema: ['supabase_migrations']}
require('@pgkit/migra').run(standing, wanted, options).then(
  found => process.stdout.write('\\n' + JSON.stringify(found.statements), () => process.exit(0)),
  error => { console.error(error); process.exit(1) })
"""


class DifferFailed(Exception):
    """The differ ended without an answer."""


def statements(standing: str, wanted: str) -> list[str]:
    """Return the statements that turn one database's schema into another's, privileges included; none: it is the same.

    Raises:
        DifferFailed: it could not compare them.
        StackUnavailable: it can't be installed here.
    """
    done = subprocess.run(
        [str(node()), "-e", _SCRIPT, standing, wanted],
        check=False,
        env=os.environ | {"NODE_PATH": str(install_node_packages(manifest=MANIFEST))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode != 0:
        raise DifferFailed(f"exit code {done.returncode}\n{done.stderr[-2000:]}")
    return [str(each) for each in json.loads(done.stdout.rpartition("\n")[2])]
