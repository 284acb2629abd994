"""The catalogue of faults; `faults.py` and `sick.py` fill it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.chaos.platform import Platform
    from tests.chaos.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    needs: frozenset[str]
    """What no other fault may touch meanwhile."""
    inject: Callable[[World, Platform, random.Random], Awaitable[None]]
    """Does it and undoes it."""
    elsewhere: bool
    """It touches neither the broker nor the workers, so live messages must not feel it."""
    every: int
    """It comes in every so many rounds: 1 in each, 3 if it takes a minute or loses what others would break."""


FAULTS: Final[dict[str, Fault]] = {}
"""By name: those that are injected unless a run names its own."""
PENDING: Final[dict[str, Fault]] = {}
"""Those that the worker does not yet pass; injected only by name."""
OF_NODES: Final[dict[str, Fault]] = {}
"""Those of a cluster's nodes; `nodes.py` fills it."""
OF_ORDER: Final[dict[str, Fault]] = {}
"""Those of runs that check the order of each key; `order.py` fills it."""


def fault(
    *needs: str,
    elsewhere: bool = False,
    every: int = 1,
    pending: bool = False,
    of_nodes: bool = False,
    of_order: bool = False,
) -> Callable[[Any], Any]:
    """Enter a function into the catalogue, under its own name."""

    def register(function: Callable[[World, Platform, random.Random], Awaitable[None]]) -> Any:
        name = function.__name__
        catalogue = OF_NODES if of_nodes else OF_ORDER if of_order else PENDING if pending else FAULTS
        catalogue[name] = Fault(name, frozenset(needs), function, elsewhere, every)
        return function

    return register
