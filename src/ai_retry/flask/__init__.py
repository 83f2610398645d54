"""The endpoint and the console as Flask blueprints. Each is imported when it is used: the console needs only Flask."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ai_retry.flask.blueprint import create_blueprint
    from ai_retry.flask.console.blueprint import create_console
    from ai_retry.flask.first_calls import Prompt
    from ai_retry.operate.operator import Operator

__all__ = ["Operator", "Prompt", "create_blueprint", "create_console"]

_LAZY: Final = {
    "Operator": "ai_retry.operate.operator",
    "Prompt": "ai_retry.flask.first_calls",
    "create_blueprint": "ai_retry.flask.blueprint",
    "create_console": "ai_retry.flask.console.blueprint",
}


def __getattr__(name: str) -> object:
    """Import a name when it is used for the first time."""
    if (module := _LAZY.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)
