"""The machine words and phrases of providers, in lower case. What each set means, and its source, is in ``signals``."""

# The account has no money, whatever the status is.
NO_CREDIT = frozenset(
    {
        "arrearage",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",
        "credit_balance_exhausted",
        "enforced_spend_limit_reached",
        "exceeded_current_quota_error",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_quota",
        "insufficient_user_quota",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)

# The same in words only; they may also come with a limit on a time, which is looked for first.
NO_CREDIT_PHRASES = frozenset(
    {
        "account is in arrears",
        "account is not active",
        "account balance",
        "add credits",
        "any credits",
        "api usage limits",
        "available credits",
        "balance is insufficient",
        "balance is too low",
        "billing details",
        "billing hard limit",
        "credit balance",
        "credits are depleted",
        "current quota",
        "exceeded your monthly",
        "insufficient balance",
        "insufficient credit",
        "insufficient funds",
        "insufficient quota",
        "insufficient_quota",
        "monthly usage limit",
        "more credits",
        "no credits",
        "not enough credit",
        "out of credit",
        "payment method",
        "plan and billing",
        "plan quota",
        "plans & billing",
        "purchase credits",
        "quota of your plan",
        "spend limit",
        "spending cap",
        "spending limit",
        "used all your credits",
        "余额不足",
    }
)

# A limit on a time, also where the message speaks of billing.
PACE_PHRASES = frozenset(
    {
        "gemini-api/docs/rate-limits",
        "per day",
        "per hour",
        "per min",
        "per second",
        "perday",
        "perminute",
        "rate limit exceeded",
        "rate limit reached",
        "requests per",
        "retry in ",
        "retrydelay",
        "tokens per",
        "try again in ",
    }
)

# A model or a filter refused this very prompt or answer: the same request is refused again.
MODERATION = frozenset(
    {
        "blocklist",
        "content_filter",
        "content_filtered",
        "content_policy_violation",
        "data_inspection_failed",
        "guardrail_intervened",
        "invalid_prompt",
        "moderation_blocked",
        "prohibited_content",
        "recitation",
        "refusal",
        "responsibleaipolicyviolation",
        "safety",
        "sensitive_words_detected",
        "spii",
    }
)

MODERATION_PHRASES = frozenset(
    {
        "by our safety system",
        "content management policy",
        "content policy",
        "inappropriate content",
        "of our safety system",
        "sensitive content",
        "unsafe content",
        "usage policies",
        "usage policy",
        "不安全或敏感内容",
    }
)

BAD_KEY = frozenset({"api_key_invalid", "invalid_api_key"})

BAD_KEY_PHRASES = frozenset(
    {
        "api key is invalid",
        "api key is missing",
        "api key not valid",
        "incorrect api key",
        "invalid api key",
        "login fail",
        "no api key",
    }
)

# The model is missing, or not for this account.
NO_MODEL = frozenset(
    {
        "invalid_model",
        "model_decommissioned",
        "model_deprecated",
        "model_named",
        "model_not_available",
        "model_not_found",
        "model_not_supported",
        "unknown_model",
        "unsupported_model",
        "wrong_endpoint",
    }
)

NO_MODEL_PHRASES = frozenset(
    {
        "has been decommissioned",
        "is not a valid model",
        "model does not exist",
        "model is not supported",
        "model not exist",
        "no such model",
        "unknown model",
    }
)

NO_COUNTRY_PHRASES = frozenset({"country, region, or territory not supported", "location is not supported"})

# What answers is not the API.
WRONG_ADDRESS_PHRASES = frozenset(
    {
        "cannot post",
        "could not route",
        "endpoint not found",
        "invalid url",
        "method not allowed",
        "no such endpoint",
        "not found",
        "unexpected endpoint",
        "unknown endpoint",
        "unknown path",
        "unknown request url",
    }
)

# Texts of servers that had begun, or that will take the request later.
BEGUN_PHRASES = frozenset(
    {
        "abort",
        "again",
        "backend",
        "busy",
        "crash",
        "error",
        "exception",
        "failed",
        "generat",
        "internal",
        "loading",
        "memory",
        "overload",
        "provider",
        "rate limit",
        "supplier",
        "terminated",
        "time out",
        "timed out",
        "timeout",
        "too many",
        "unavailable",
        "upstream",
    }
)

# The statuses of errors inside a 2xx without a number: those of OpenRouter (Errors), OpenAI's and Anthropic's types,
# and Google's codes. Other words are a 500.
WORD_STATUSES = {
    word: status
    for status, words in {
        400: (
            *MODERATION,
            *("bad_request", "context_length_exceeded", "failed_precondition", "image_too_large", "invalid_argument"),
            *("invalid_request", "invalid_request_error", "max_tokens_exceeded", "out_of_range", "string_too_long"),
            "token_limit_exceeded",
        ),
        401: (
            "authentication",
            "authentication_error",
            "invalid_authentication_error",
            "unauthenticated",
            "unauthorized",
        ),
        402: ("payment_required",),
        403: ("forbidden", "permission_denied", "permission_error"),
        404: (*NO_MODEL, "not_found", "not_found_error"),
        413: ("payload_too_large", "request_too_large"),
        422: ("unprocessable", "unprocessable_entity"),
        429: ("rate_limit_error", "rate_limit_exceeded", "rate_limited", "resource_exhausted", "too_many_requests"),
        503: ("service_unavailable", "service_unavailable_error", "unavailable"),
        504: ("deadline_exceeded", "timeout", "timeout_error"),
        529: ("overloaded_error", "provider_overloaded", "server_is_overloaded"),
    }.items()
    for word in words
}
