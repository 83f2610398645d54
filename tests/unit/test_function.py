"""A provider that is a function."""

import json
import threading
from datetime import timedelta
from http import HTTPStatus
from socket import gaierror
from ssl import SSLCertVerificationError
from typing import Any

import pytest

from ai_retry.domain.errors import GenerationFailed
from ai_retry.domain.model import Answer, Context, Failure, FailureCode, Usage
from ai_retry.providers.function import Function, FunctionProvider
from ai_retry.providers.reask import ReaskProvider
from tests.helpers.builders import SECOND, a_context, a_failure

SECRET = "a prompt that no failure may hold"
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


class StatusError(Exception):
    """An exception as SDKs raise it."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(SECRET)
        self.status_code, self.body = status, body
        self.response = type("Response", (), {"status_code": status, "headers": headers or {}})()


def ask(function: Function, timeout: timedelta = 5 * SECOND, **context: Any) -> Answer | Failure:
    """Ask a function."""
    ai = FunctionProvider(function, model="usual")
    try:
        return ai.generate(a_context(**context), timeout=timeout, idempotency_key="key")
    except GenerationFailed as failed:
        failure = failed.failure
    assert SECRET not in repr(failure)
    return failure


def raising(error: BaseException) -> Function:
    """Make a function that raises."""

    def function(_: Context, __: float) -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        ('{"title": "x"}', {"title": "x"}),
        ('```json\n{"title": "x"}\n```', {"title": "x"}),
        ({"title": "x"}, {"title": "x"}),
        (Answer(output={"title": "x"}, usage=Usage(total_tokens=3)), {"title": "x"}),
    ],
)
def test_what_it_returns_is_the_answer(returned: Any, output: Any) -> None:
    """A string that a model wrote, a JSON value, or a whole answer; the model is the context's, else the usual one."""
    answer = ask(lambda context, _: returned if context.model == "usual" else None, model=None, response_schema=SCHEMA)

    assert isinstance(answer, Answer)
    assert (answer.output, answer.model) == (output, "usual")


def test_without_schema_a_string_is_a_string() -> None:
    """And what JSON can't hold is no output."""
    answer, failure = ask(lambda *_: "easy"), ask(lambda *_: {1, 2})

    assert isinstance(answer, Answer)
    assert (answer.output, answer.model) == ("easy", "small")
    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.INVALID_OUTPUT


def test_invalid_output_can_be_asked_about_again() -> None:
    """A string under a schema is shown to the model again."""
    answers = ['{"other": 1}', '{"title": "x"}']
    ai = ReaskProvider(FunctionProvider(lambda *_: answers.pop(0)))

    answer = ai.generate(a_context(response_schema=SCHEMA), timeout=5 * SECOND, idempotency_key="key")

    assert (answer.output, [each.code for each in answer.calls]) == ({"title": "x"}, [FailureCode.INVALID_OUTPUT, None])


@pytest.mark.parametrize(
    ("error", "code", "operator_fault", "certain"),
    [
        (StatusError(401), FailureCode.REJECTED, True, True),
        (StatusError(429), FailureCode.RATE_LIMITED, False, True),
        (StatusError(500), FailureCode.UNAVAILABLE, False, False),
        (StatusError(400, {"code": "content_filter"}), FailureCode.REJECTED, False, False),
        (TimeoutError(SECRET), FailureCode.TIMEOUT, False, False),
        (ValueError(SECRET), FailureCode.UNAVAILABLE, False, False),
        (SystemExit(SECRET), FailureCode.UNAVAILABLE, False, False),
    ],
)
def test_exception_is_judged_by_its_attributes(
    error: BaseException, code: FailureCode, operator_fault: bool, certain: bool
) -> None:
    """By its status and the code in its body; without either, something may have been generated."""
    failure = ask(raising(error))

    assert isinstance(failure, Failure)
    assert (failure.code, failure.operator_fault, failure.certainly_not_generated) == (code, operator_fault, certain)
    assert failure.refused is (getattr(error, "body", None) is not None)


class Carrying(Exception):
    """An exception with attributes of its own, as other SDKs raise it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(SECRET)
        for name, value in attributes.items():
            setattr(self, name, value)


class Unread:
    """A response whose body can't be had any more."""

    status_code, headers = 500, {"X-Should-Retry": "false"}

    @property
    def content(self) -> bytes:
        """Raise, as httpx does."""
        raise RuntimeError(SECRET)


def named(name: str, cause: BaseException | None = None) -> BaseException:
    """Make an exception of a class with this name."""
    error: BaseException = type(name, (Exception,), {})(SECRET)
    error.__cause__ = cause
    return error


AMAZON = {
    "Error": {"Code": "ThrottlingException", "Message": SECRET},
    "ResponseMetadata": {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "2"}},
}
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("error", "code", "operator_fault", "transient"),
    [
        (Carrying(code=429, status="RESOURCE_EXHAUSTED"), FailureCode.RATE_LIMITED, False, True),  # Google
        (Carrying(code=HTTPStatus.FORBIDDEN), FailureCode.REJECTED, True, False),
        (Carrying(status=503, message="Service Unavailable"), FailureCode.UNAVAILABLE, False, True),  # aiohttp
        (Carrying(code="rate_limit", status_code=429), FailureCode.RATE_LIMITED, False, True),  # OpenAI
        (Carrying(response=AMAZON), FailureCode.RATE_LIMITED, False, True),
        (Carrying(response=Unread()), FailureCode.UNAVAILABLE, False, False),
        (StatusError(429, {"message": QUOTA}), FailureCode.REJECTED, True, False),
        (StatusError(429, {"message": QUOTA}, {"Retry-After": "3"}), FailureCode.RATE_LIMITED, False, True),
        (StatusError(400, {"message": "No", "param": "response_format"}), FailureCode.REJECTED, True, False),
        (StatusError(400, {"message": "No", "param": "top_k"}), FailureCode.REJECTED, True, False),
        (StatusError(400, {"message": "No", "param": "temperature"}), FailureCode.REJECTED, False, False),
        (StatusError(404, {"availability": {"retryable": True}}), FailureCode.UNAVAILABLE, False, True),
        (named("LengthFinishReasonError"), FailureCode.INCOMPLETE, False, False),
        (named("ContentFilterFinishReasonError"), FailureCode.REJECTED, False, False),
        (json.JSONDecodeError("no", SECRET, 0), FailureCode.INVALID_OUTPUT, False, True),
        (named("APITimeoutError"), FailureCode.TIMEOUT, False, True),
        (named("APIConnectionError", SSLCertVerificationError(SECRET)), FailureCode.UNAVAILABLE, True, False),
    ],
)
def test_exceptions_of_all_sdks_are_judged_as_over_http(
    error: BaseException, code: FailureCode, operator_fault: bool, transient: bool
) -> None:
    """What an SDK hides in an exception means what the same answer would mean without the SDK."""
    failure = ask(raising(error), response_schema=SCHEMA, extra_body={"top_k": 1})

    assert isinstance(failure, Failure)
    assert (failure.code, failure.operator_fault, failure.transient) == (code, operator_fault, transient)


@pytest.mark.parametrize(
    ("error", "certain"),
    [
        (ConnectionRefusedError(SECRET), True),
        (named("APIConnectionError", named("ConnectError", ConnectionRefusedError(SECRET))), True),
        (named("ConnectionError", named("MaxRetryError", named("NewConnectionError", gaierror(SECRET)))), True),
        (named("APIConnectionError", named("ReadError", ConnectionRefusedError(SECRET))), False),
        (named("RemoteProtocolError", ConnectionRefusedError(SECRET)), False),
        (named("APIConnectionError", ConnectionResetError(SECRET)), False),
        (named("APIConnectionError"), False),
    ],
)
def test_refused_connection_generated_nothing(error: BaseException, certain: bool) -> None:
    """No attempt is used up by a server that is not there; whatever else is in the chain leaves a doubt."""
    failure = ask(raising(error))

    assert isinstance(failure, Failure)
    assert (failure.code, failure.certainly_not_generated) == (FailureCode.UNAVAILABLE, certain)


@pytest.mark.parametrize("returned", [None, "", " \n", "<think>Knee…</think>\n", "<think>Run!", Answer(output=None)])
def test_nothing_is_no_answer(returned: Any) -> None:
    """Without a schema too: what is empty, or holds thoughts only, becomes no session."""
    failure = ask(lambda *_: returned)

    assert isinstance(failure, Failure)
    assert (failure.code, failure.counted, failure.transient) == (FailureCode.INVALID_OUTPUT, True, True)


def test_thoughts_are_no_part_of_a_string() -> None:
    """They are taken off as they are over HTTP."""
    answer = ask(lambda *_: "<think>Knee…</think>\n\nRun!<|im_end|>")

    assert isinstance(answer, Answer)
    assert answer.output == "Run!"


def test_wait_that_a_provider_asks_for_is_kept_to() -> None:
    """It is in the headers of the exception's response."""
    failure = ask(raising(StatusError(429, headers={"Retry-After": "7"})))

    assert isinstance(failure, Failure)
    assert failure.retry_after == 7 * SECOND


def test_own_failure_passes_through() -> None:
    """A function may know more."""
    own = a_failure(FailureCode.REJECTED, refused=True)

    failure = ask(raising(GenerationFailed(own)))

    assert isinstance(failure, Failure)
    assert (failure.code, failure.refused) == (FailureCode.REJECTED, True)


def test_late_function_is_not_waited_for() -> None:
    """It may have generated."""
    end = threading.Event()

    failure = ask(lambda *_: end.wait(30), timeout=0.05 * SECOND)
    end.set()

    assert isinstance(failure, Failure)
    assert (failure.code, failure.certainly_not_generated) == (FailureCode.TIMEOUT, False)


def test_schema_that_is_none_asks_no_provider() -> None:
    """It is the request's fault, and costs nothing."""
    failure = ask(raising(AssertionError("it was called")), response_schema={"type": "nothing"})

    assert isinstance(failure, Failure)
    assert (failure.code, failure.certainly_not_generated, failure.wire_requests) == (FailureCode.REJECTED, True, 0)
