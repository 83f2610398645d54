"""Who operates, and what each role may do."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from ai_retry.domain.errors import AiRetryError
from ai_retry.domain.names import check_operator

Role: TypeAlias = Literal["viewer", "operator", "admin"]
"""Each may do what the one before may."""

ROLES: Final[tuple[Role, ...]] = get_args(Role)


class NotAllowed(AiRetryError):
    """The operator's role does not allow that. Nothing was read, written or recorded."""

    code = "NOT_ALLOWED"
    http_status = 403

    def __init__(self, needed: Role, has: Role) -> None:
        super().__init__(
            f"This needs the role {needed}, and yours is {has}.", details={"needed_role": needed, "role": has}
        )
        self.needed = needed


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who operates ai-retry: the name that is recorded, and the role that decides.

    Raises:
        ValueError: the name is blank or can't be read in a log, or there is no such role.
    """

    name: str
    role: Role

    def __post_init__(self) -> None:
        check_operator(self.name, lifted=["a role"])
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}")

    def may(self, needed: Role) -> bool:
        """Whether the role allows what needs this one."""
        return ROLES.index(self.role) >= ROLES.index(needed)

    def check(self, needed: Role) -> None:
        """Refuse what the role does not allow.

        Raises:
            NotAllowed: names the role that is needed.
        """
        if not self.may(needed):
            raise NotAllowed(needed, self.role)
