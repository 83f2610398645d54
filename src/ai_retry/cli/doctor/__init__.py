"""``ai-retry doctor``: finds out what is wrong with a set-up, and says what to do.

Facts are fetched by ``examine``, ``provider`` and the SQL function ``ai_retry_inspect``; ``database`` and ``outside``
judge them and ask nobody.
"""

from ai_retry.cli.doctor.examine import Examination, examine
from ai_retry.cli.doctor.model import Check, Finding, Level

__all__ = ["Check", "Examination", "Finding", "Level", "examine"]
