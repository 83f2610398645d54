"""The provider of `make demo-outage`, which works again: it answers each wish with a session, and refuses one.

``AI_RETRY_PROVIDER=examples.outage_ai:provider`` names it, as an app would name its own.
"""

import time
from decimal import Decimal

from ai_retry import Answer, Context, Failure, FailureCode, FunctionProvider, GenerationFailed, Usage

_SECONDS = 0.1
_USAGE = Usage(prompt_tokens=180, completion_tokens=240, total_tokens=420, cost=Decimal("0.0021"))
_REFUSED = Failure(
    code=FailureCode.REJECTED, reason="not this wish", transient=False, certainly_not_generated=True, refused=True
)


def provider() -> FunctionProvider:
    """Make it."""
    return FunctionProvider(_answer, name="demo", model="demo-small")


def _answer(context: Context, _seconds: float) -> Answer:
    wish = str(context.messages[-1]["content"])
    time.sleep(_SECONDS)
    if wish.startswith("A marathon, tomorrow."):
        raise GenerationFailed(_REFUSED)
    return Answer(output={"title": wish, "minutes": 30}, usage=_USAGE)
