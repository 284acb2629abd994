"""Letters of one conversation in the order in which their activities happened."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.desk.plan import Prediction, forecast_all
from worker.desk.query import matching

if TYPE_CHECKING:
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter

_UNSENDABLE = frozenset({Prediction.NO_WAY_BACK, Prediction.TOO_OFTEN})
HELD = "held: its conversation has newer activities"


@dataclass(slots=True)
class Line:
    """Ids of letters that go one after the other."""

    ids: deque[str] = field(default_factory=deque)


async def queues_of(desk: Desk, chosen: Filter, *, force: bool) -> tuple[list[Line], list[tuple[str, str]]]:
    """Return the letters *chosen* as lines, one for each conversation, and those that are not sent with the reason.

    A letter whose conversation is not known is a line of its own. Only ids and times are kept in memory.
    """
    ordered: dict[str, list[tuple[int, str]]] = {}
    held: list[tuple[str, str]] = []
    async for page in matching(desk, chosen):
        for forecast in await forecast_all(desk, page, force=force):
            if forecast.prediction in _UNSENDABLE:
                held.append((forecast.letter.id, forecast.prediction))
            elif forecast.after_newer:
                held.append((forecast.letter.id, HELD))
            else:
                name = forecast.conversation_id or forecast.letter.conversation_id or f"\0{forecast.letter.id}"
                ordered.setdefault(name, []).append((forecast.timestamp, forecast.letter.id))
    return [Line(deque(letter_id for _, letter_id in sorted(line))) for line in ordered.values()], held
