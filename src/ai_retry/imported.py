"""Imports what a variable names as ``package.module:function``: code of the app's own."""

from importlib import import_module
from types import ModuleType
from typing import Any

from ai_retry.domain.errors import NotConfigured
from ai_retry.domain.ports import AiProvider
from ai_retry.domain.reader import place_of

PROVIDER = "AI_RETRY_PROVIDER"


def imported(variable: str, name: str, form: str) -> Any:
    """Import a function.

    What its module raises is reported by type and place; its text may hold a secret, and goes no further.

    Args:
        variable: that names it, for messages.
        name: as ``package.module:function``.
        form: of what it must be, for messages.

    Raises:
        NotConfigured: there is no such module or attribute, it can't be called, or importing it failed.
    """
    module_name, _, attribute = name.partition(":")
    found: Any = _module(variable, module_name)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        lacks = "has no" if found is None else "holds something that can't be called as"
        raise _unusable(variable, f"{module_name} {lacks} {attribute}: name a function that {form}")
    return found


def imported_provider(name: str) -> AiProvider:
    """Make the provider that ``AI_RETRY_PROVIDER`` names.

    Raises:
        NotConfigured: as ``imported``; or the function failed, or returned something else than a provider.
    """
    make = imported(PROVIDER, name, "takes nothing and returns an AiProvider")
    try:
        made: AiProvider = make()
    except NotConfigured:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - code of the app's
        problem = f"{name} raised {type(error).__qualname__} ({place_of(error)}): correct it"
    else:
        if callable(getattr(made, "generate", None)) and not isinstance(made, type):
            return made
        problem = f"{name} returned {type(made).__qualname__}, which has no generate: return an AiProvider"
    raise _unusable(PROVIDER, problem)


def _module(variable: str, name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        absent = error.name or name
        if f"{name}.".startswith(f"{absent}."):
            problem = f"there is no module {absent}: start where it can be imported, or put its directory on PYTHONPATH"
        else:
            problem = f"{name} imports {absent}, which is not installed ({place_of(error)})"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - code of the app's
        problem = f"importing {name} raised {type(error).__qualname__} ({place_of(error)}): correct the module"
    raise _unusable(variable, problem)


def _unusable(variable: str, problem: str) -> NotConfigured:
    return NotConfigured(f"{variable}: {problem}")
