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
        "prohibited_content",
        "recitation",
        "refusal",
        "safety",
        "spii",
    }
)

# What answers is not the API.
WRONG_ADDRESS_PHRASES = frozenset(
    {
        "cannot post",
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
        "busy",
        "crash",
        "exception",
        "failed",
        "generat",
        "internal",
        "loading",
        "memory",
        "overload",
        "rate limit",
        "terminated",
        "time out",
        "timed out",
        "timeout",
        "too many",
        "unavailable",
    }
)

# The statuses of errors inside a 2xx without a number: OpenRouter, Errors, and OpenAI's types. Other words are a 500.
WORD_STATUSES = {
    **dict.fromkeys(MODERATION, 400),
    **dict.fromkeys(("context_length_exceeded", "invalid_request", "invalid_request_error"), 400),
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "rate_limit_exceeded": 429,
    "timeout": 504,
}
