"""The rehearsal: what ai-retry writes for a generation, through the installed binding, rolled back.

Shared by ``ai-retry doctor --rehearse`` and ``ai-retry init``.
"""

from ai_retry.cli.rehearsal.model import Refusal, Rehearsal
from ai_retry.cli.rehearsal.second import FirstCall
from ai_retry.cli.rehearsal.stage import rehearse

__all__ = ["FirstCall", "Refusal", "Rehearsal", "rehearse"]
