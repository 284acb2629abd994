"""How much of the window what needs the store may take: half, so that a silent store leaves room for live traffic.

It waits in two lanes, for a lookup and for a write. A lane that keeps up may hold as much as it likes; one that does
not gives back what is beyond the half, also when the window is full and nothing comes that would make it look. What the
store was asked for cannot be given back before it answers: each lane asks for its part of the half at once and no more,
for a window may be smaller than a bundle.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from worker.codes import Code
from worker.failure import Dependency, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.flow.lane import Lane
    from worker.flow.tasks import Crash
    from worker.pipeline.inbound import Inbound
    from worker.ports import Clock

BEHIND: Final = Failure.of(
    Code.STORE_UNAVAILABLE, "more wait for the store than this process may hold", dependency=Dependency.STORE
)
_LOOK_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class _Member:
    lane: Lane[Inbound]
    patience: float
    let_go: Callable[[list[Inbound]], None]


class StoreShare:
    """Half of the window, for all deliveries that need the store. Lives as long as one broker session."""

    def __init__(self, clock: Clock, crash: Crash) -> None:
        """Hold one delivery until `set_window` says more."""
        self._clock = clock
        self._crash = crash
        self._members: list[_Member] = []
        self._timer: asyncio.TimerHandle | None = None
        self.most = 1
        """How many may be in hand."""

    def __len__(self) -> int:
        """Deliveries in hand that need the store."""
        return sum(len(member.lane) for member in self._members)

    def join(self, lane: Lane[Inbound], *, patience: float, let_go: Callable[[list[Inbound]], None]) -> None:
        """Count what is in *lane*, and take back what is too many when it is behind while the half is taken.

        Behind is what lets one wait longer than *patience* seconds, or has one in work twice as long. *let_go* gets the
        newest of those that wait, as many as are too many; it may add some again.
        """
        self._members.append(_Member(lane, patience, let_go))
        self._divide()

    def set_window(self, window: int) -> None:
        """Know how many deliveries the session may hold."""
        self.most = max(1, window // 2)
        self._divide()

    @property
    def keeps_up(self) -> bool:
        """Whether the store does with what it is asked for, or there is room for more."""
        return not (self._is_taken and any(map(self._is_late, self._members)))

    def is_behind(self, lane: Lane[Inbound]) -> bool:
        """Tell whether the half is taken and *lane* does not keep up: nothing more should wait there."""
        return self._is_taken and any(member.lane is lane and self._is_late(member) for member in self._members)

    def watch(self) -> None:
        """Look at the lanes from time to time, as long as the half is taken. To be called when something was added."""
        if self._timer is None and self._is_taken:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _divide(self) -> None:
        for member in self._members:
            member.lane.most_in_work = max(1, self.most // len(self._members))

    @property
    def _is_taken(self) -> bool:
        return len(self) >= self.most

    def _is_late(self, member: _Member) -> bool:
        lane, now = member.lane, self._clock.monotonic()
        waiting, in_work_since = lane.first_waiting, lane.in_work_since
        if waiting is not None and now - waiting.queued_at > member.patience:
            return True
        return in_work_since is not None and now - in_work_since > 2 * member.patience

    def _look(self) -> None:
        self._timer = None
        try:
            for member in self._members:
                too_many = len(self) - self.most
                if too_many > 0 and self._is_late(member):
                    member.let_go(member.lane.take_newest(too_many))
        except Exception as error:  # noqa: BLE001 - a bug; what was taken out would be in nobody's hands
            self._crash.report(error)
        else:
            self.watch()
