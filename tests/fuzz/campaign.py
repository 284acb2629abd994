"""Runs the checks over many inputs from one seed, and finds the smallest input that breaks a promise."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import amqp, pipelines, promises, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 1000
"""Inputs per run of hypothesis: it remembers what it tried, and slows down the more that is."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed: inputs of *inputs*, held against *check*, with a share of all inputs."""

    name: str
    share: int
    """Per cent."""
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], str]


@dataclass(slots=True)
class Tally:
    """What came of the inputs of one target."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Broken:
    """A promise that does not hold."""

    target: str
    given: Any
    """The smallest input found; a Python literal."""
    error: BaseException

    @property
    def file_name(self) -> str:
        """Where to save the input: the same for the same input."""
        return f"{self.target}-{hashlib.sha256(repr(self.given).encode()).hexdigest()[:12]}.txt"


_DELIVERIES = st.tuples(amqp.property_bytes(), shapes.messages())
TARGETS = (
    Target("messages", 50, shapes.messages(), promises.message),
    Target("lifecycle", 15, shapes.lifecycle_events(), promises.lifecycle),
    Target("raw-properties", 8, amqp.property_bytes(), promises.raw_properties),
    Target("true-properties", 6, amqp.properties(), promises.true_properties),
    Target("letters", 8, _DELIVERIES, promises.letter),
    Target("copies", 8, _DELIVERIES, promises.copies),
    Target("batches", 5, st.lists(_DELIVERIES, min_size=1, max_size=4).map(tuple), pipelines.batch),
)


def run(target: Target, inputs: int, number: int) -> Iterator[Tally | Broken]:
    """Try *inputs* inputs of *target*; yield the tally after every chunk, or at the end what is broken.

    The same *number* (the seed) tries the same inputs.
    """
    tally = Tally()
    for index, start in enumerate(range(0, inputs, _CHUNK)):
        broken = _try_chunk(target, min(_CHUNK, inputs - start), number * 10_000 + index, tally)
        if broken is not None:
            yield broken
            return
        yield tally


def _try_chunk(target: Target, inputs: int, number: int, tally: Tally) -> Broken | None:
    smallest: list[Any] = []

    @seed(number)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @given(target.inputs)
    def probe(value: Any) -> None:
        smallest[:] = [value]
        outcome = target.check(value)
        tally.inputs += 1
        tally.outcomes[outcome] += 1

    try:
        probe()
    except Exception as error:  # noqa: BLE001 - whatever it is, it broke a promise
        # hypothesis ends with the smallest input it found.
        return Broken(target.name, smallest[0], error)
    return None
