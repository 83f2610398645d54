"""What an examination found; a check that did not run says so, and why."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field

from ai_retry.cli.doctor.model import Check, Finding, Level
from ai_retry.tables import printable

OK = "ok"
NOT_RUN = "NOT RUN"


@dataclass(frozen=True, slots=True)
class NotRun:
    """Why a check did not run."""

    reason: str
    remedy: str
    is_due: bool = True  # False: there is nothing to look at, or it was not asked for


@dataclass(frozen=True, slots=True)
class Examination:
    """What was looked at, and what is wrong."""

    findings: tuple[Finding, ...]
    not_run: Mapping[Check, NotRun] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write each check's result, and below it what is wrong and what to do."""
        lines = []
        for first, *others in self.shown():
            lines.append(f"{self.result(first):<8}  {', '.join((first, *others))}")
            for finding in self.of(first):
                lines += _advice(finding.problem, finding.remedy)
            if (not_run := self.not_run.get(first)) is not None:
                lines += _advice(not_run.reason, not_run.remedy)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    @property
    def skipped(self) -> frozenset[Check]:
        """What should have been looked at, and could not be."""
        return frozenset(check for check, each in self.not_run.items() if each.is_due)

    def result(self, check: Check) -> str:
        """Sum a check up: ok, hint, problem or NOT RUN."""
        levels = {each.level for each in self.of(check)}
        if Level.PROBLEM in levels:
            return str(Level.PROBLEM)
        if check in self.not_run:
            return NOT_RUN
        return str(Level.HINT) if levels else OK

    def shown(self) -> list[list[Check]]:
        """All checks in their order; those that did not run for the same reason stand together, at the first one."""
        groups: list[list[Check]] = []
        together: dict[NotRun, list[Check]] = {}
        for check in Check:
            why = self.not_run.get(check)
            if why is None or self.of(check):
                groups.append([check])
            elif why in together:
                together[why].append(check)
            else:
                together[why] = [check]
                groups.append(together[why])
        return groups

    def of(self, check: Check) -> list[Finding]:
        """The findings of one check."""
        return [each for each in self.findings if each.check is check]

    @property
    def problems(self) -> list[Finding]:
        """The findings that are more than a hint."""
        return [each for each in self.findings if each.level is Level.PROBLEM]


def _advice(problem: str, remedy: str) -> list[str]:
    return [f"            {printable(problem)}", f"            -> {printable(remedy)}"]
