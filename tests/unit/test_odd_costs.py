"""An answer of several calls is not lost for what a provider says that one of them cost."""

from decimal import Decimal

import pytest

from ai_retry.domain.calls import joined, noted
from ai_retry.domain.model import Answer, FailureCode, Usage
from tests.helpers.builders import SECOND, a_failure, an_answer


@pytest.mark.parametrize("odd", ["NaN", "sNaN", "Infinity", "-Infinity", "9E+999999"])
def test_odd_cost_is_left_out_of_the_sum(odd: str) -> None:
    """What is no number that can be recorded adds nothing; the other calls' cost stays."""
    usage = Usage(total_tokens=1, cost=Decimal(odd))
    failed = noted(a_failure(FailureCode.INVALID_OUTPUT, usage=usage), duration=SECOND)
    dear = noted(an_answer(usage=usage), duration=SECOND)
    cheap = noted(an_answer(usage=Usage(total_tokens=2, cost=Decimal("0.25"))), duration=SECOND)

    both_odd, one_odd = joined([failed], dear), joined([failed], cheap)

    assert isinstance(both_odd, Answer)
    assert both_odd.usage == Usage(total_tokens=2)
    assert one_odd.usage == Usage(total_tokens=3, cost=Decimal("0.25"))
