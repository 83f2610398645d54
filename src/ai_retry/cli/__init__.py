"""The entry point ``ai-retry``: it says what to install when the extra is missing, and hands over to ``commands``."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from ai_retry.cli.commands import cli  # noqa: PLC0415 - imports click, an extra
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("The command line needs an extra: pip install 'ai-retry[cli]'")
    cli(prog_name="ai-retry")
