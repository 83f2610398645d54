"""``ai-retry doctor``: finds out what is wrong with a set-up, and says what to do.

Facts are fetched by ``examine``, ``provider``, ``link``, ``project`` and the SQL function ``ai_retry_inspect``;
``database``, ``writes`` and ``outside`` judge them and call nothing.
"""

from ai_retry.cli.doctor.examination import Examination, NotRun
from ai_retry.cli.doctor.examine import Asked, examine
from ai_retry.cli.doctor.model import Check, Finding, Level

__all__ = ["Asked", "Check", "Examination", "Finding", "Level", "NotRun", "examine"]
