"""How letters are sent: limit, rate, ramp and when a replay stops by itself; read from words. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from worker.desk.errors import usage
from worker.desk.numbers import whole_number

if TYPE_CHECKING:
    from worker.desk.ports import Document

_PERCENT: Final = 100


class Allowed(NamedTuple):
    """How many letters of a step may die again."""

    number: int = 5
    is_percent: bool = True

    def of(self, step: int) -> int:
        """Return how many of *step* letters."""
        return step * self.number // _PERCENT if self.is_percent else self.number

    def __str__(self) -> str:
        return f"{self.number}{'%' * self.is_percent}"


_USUAL: Final = Allowed()


@dataclass(frozen=True, slots=True)
class Options:
    """How letters are sent."""

    limit: int | None = None
    """At most so many letters."""
    rate: float | None = None
    """At most so many a second."""
    ramp: tuple[int, ...] = ()
    """Sizes of the first steps; the outcome of each is waited for. What is left after them is sent in one go."""
    max_failures: Allowed = _USUAL
    """More letters of a step that die again stop the job."""
    wait_seconds: float = 60.0
    """Longest to wait for the outcomes of a step, and at the end for those of all."""
    keep_order: bool = False
    """Send the letters of a conversation one after the other, each after the outcome of the one before."""
    force: bool = False
    """Also send letters that were replayed too often."""

    def facts(self) -> Document:
        """Return them for the job's document."""
        return {
            "limit": self.limit,
            "rate": self.rate,
            "ramp": list(self.ramp),
            "maxFailures": str(self.max_failures),
            "waitSeconds": self.wait_seconds,
            "keepOrder": int(self.keep_order),
            "force": int(self.force),
        }

    @classmethod
    def of(cls, document: Document) -> Options:
        """Return those of a job."""
        return cls(
            document["limit"],
            document["rate"],
            tuple(document["ramp"]),
            parse_allowed(document["maxFailures"]),
            document["waitSeconds"],
            bool(document["keepOrder"]),
            bool(document["force"]),
        )


def parse_ramp(text: str) -> tuple[int, ...]:
    """Return the steps of `1,10,100`. Raises `DeskError`."""
    steps = tuple(whole_number(part.strip()) or 0 for part in text.split(","))
    if not all(steps):
        raise usage(f"--ramp {text!r} is no list of numbers; write --ramp 1,10,100")
    return steps


def parse_allowed(text: str) -> Allowed:
    """Return `5%` or `3` as a number of letters that may die again. Raises `DeskError`."""
    number = whole_number(text.strip().removesuffix("%"))
    if number is None:
        raise usage(f"--max-failures {text!r} is no number; write --max-failures 3 or --max-failures 5%")
    return Allowed(number, text.strip().endswith("%"))
