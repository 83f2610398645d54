"""How the hosts of the tests know who asks: by a cookie of theirs that says name and role."""

from typing import Final, cast, get_args

from flask import Request

from ai_retry.operate.operator import Operator, Role

COOKIE: Final = "who"


def signed_in(request: Request) -> Operator | None:
    """Read name and role from the cookie; a real host verifies it."""
    name, _, role = request.cookies.get(COOKIE, "").partition(".")
    return Operator(name, cast("Role", role)) if role in get_args(Role) else None
