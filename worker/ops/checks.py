"""What readiness is made of: checks, each with its reason, of one process and of the whole pool. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be as it should for the work to make progress."""

    name: str
    reason: str | None = None
    """Why it is not, as an operator would say it; None while it is."""

    @property
    def passed(self) -> bool:
        """Whether it is as it should be."""
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        """Return it as readiness shows it."""
        return {"name": self.name, "ok": self.passed, "reason": self.reason}


def of_pool(checks: Mapping[int, Sequence[Check]]) -> list[Check]:
    """Return the checks of a pool, given those of each of its processes: one passes when it passes in all.

    What several processes say alike is said once; otherwise each reason says whose it is.
    """
    names = dict.fromkeys(check.name for of_one in checks.values() for check in of_one)
    return [Check(name, _reason(name, checks)) for name in names]


def _reason(name: str, checks: Mapping[int, Sequence[Check]]) -> str | None:
    reasons: dict[str, list[int]] = {}
    for process, of_one in checks.items():
        for check in of_one:
            if check.name == name and check.reason is not None:
                reasons.setdefault(check.reason, []).append(process)
    if not reasons:
        return None
    if len(reasons) == 1 and len(next(iter(reasons.values()))) == len(checks):
        return next(iter(reasons))
    return "; ".join(f"process {', '.join(map(str, whose))}: {reason}" for reason, whose in reasons.items())
