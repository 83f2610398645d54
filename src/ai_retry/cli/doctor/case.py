"""What the checks of a database look at, and how their findings name things."""

from collections.abc import Iterable
from dataclasses import dataclass

from ai_retry.cli.doctor.model import Database, Function
from ai_retry.cli.doctor.shipped import Shipped
from ai_retry.cli.doctor.surroundings import Around

END_USERS = "public, anon, authenticated"
APPLY = "run `ai-retry migrations copy supabase/migrations` and `supabase db push`"


@dataclass(frozen=True, slots=True)
class Case:
    """What the checks of a database look at."""

    database: Database
    shipped: Shipped
    models_are_restricted: bool  # AI_MODELS is set
    required_aal: str | None = None  # AI_RETRY_REQUIRED_AAL
    around: Around | None = None  # None: there is no direct connection
    accepted: int = 0  # retries that were accepted and have not ended

    def standing(self, name: str) -> list[Function]:
        """The functions of that qualified name, whatever they take."""
        return [each for each in self.database.functions if each.qualified == name]

    def creates_sessions(self) -> bool:
        """Whether the function is there that creates sessions, or none is needed."""
        described = self.database.binding
        wanted = described.session_function if described is not None else None
        there = [each for each in self.database.functions if each.creates_sessions]
        return wanted is None or any(each.signature.result == "jsonb" for each in there)

    def fits(self, name: str) -> bool:
        """Whether a function of the binding takes and returns what it must."""
        wanted = self.shipped.functions.get(name)
        return wanted is not None and wanted.signature in [each.signature for each in self.standing(name)]

    def ours(self) -> list[Function]:
        """Functions whose names were shipped, the binding's included."""
        return [each for each in self.database.functions if each.qualified in self.shipped.functions]


def title(name: str) -> str:
    """A qualified name as findings show it."""
    return name.removeprefix("public.")


def signature(function: Function) -> str:
    """How statements name a function."""
    return f"{function.qualified}({function.arguments})"


def statements(each: Iterable[str]) -> str:
    """What to run."""
    return f"run: {'; '.join(each)}"


def listed(names: list[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
