"""All that an operator may do and read: the same functions for the console, the command line and code."""

from ai_retry.operate.acting import Actions
from ai_retry.operate.reading import Reads


class Operations(Actions, Reads):
    """What one operator may do and read; ``client.operate(operator)`` gives it.

    Each method asks the operator's role first. Reads need the role viewer, and are bounded in rows whatever the size.
    Actions need operator or admin, and a reason; who did what to what, when, why and with what outcome is
    recorded in ``ai_retry_actions``.

    Attributes:
        operator: who operates.
    """

    def __repr__(self) -> str:
        return f"Operations({self.operator!r})"
