"""What takes longer than a page may: plans, fixes, replays run in the background; a page follows and stops them."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from worker.desk.errors import DeskError, rejected
from worker.desk.wording import why_not
from worker.failure import AdapterError, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_MOST_RUNNING: Final = 8
_MOST_KEPT: Final = 200


@dataclass(slots=True)
class Task:
    """One of them."""

    kind: str
    title: str
    command: str
    """The command that does the same."""
    facts: dict[str, Any]
    """What the page needs to go on with the result."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.monotonic)
    took: float = 0.0
    """Seconds, when it has ended."""
    done: int = 0
    """Letters that were looked at, or changed."""
    total: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    result: Any = None
    problem: str = ""
    """Why it failed, in one sentence."""
    is_running: bool = True
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    can_stop: bool = False
    changes: bool = True
    """Whether letters may be others when it has ended."""

    @property
    def percent(self) -> int | None:
        """How far it is, None when nobody can tell."""
        return min(100, self.done * 100 // self.total) if self.total else None

    def advance(self, count: int) -> None:
        """Count some more letters."""
        self.done += count


class Tasks:
    """The tasks of one server."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """*on_end* is called when one has ended that may have changed what pages show."""
        self._on_end = on_end
        self._tasks: dict[str, Task] = {}
        self._running: dict[asyncio.Task[None], Task] = {}

    def start(self, task: Task, work: Callable[[Task], Awaitable[Any]]) -> Task:
        """Run *work* in the background. Raises `DeskError` when too much runs already."""
        if len(self._running) >= _MOST_RUNNING:
            raise rejected(f"{len(self._running)} operations run already; wait for one to end, or stop one")
        while len(self._tasks) >= _MOST_KEPT:
            oldest = next((one.id for one in self._tasks.values() if not one.is_running), None)
            if oldest is None:
                break
            del self._tasks[oldest]
        self._tasks[task.id] = task
        running = asyncio.create_task(self._run(task, work), name=f"desk {task.kind}")
        self._running[running] = task
        running.add_done_callback(self._ended)
        return task

    def get(self, task_id: str) -> Task | None:
        """Return a task, None when nobody knows it (any more)."""
        return self._tasks.get(task_id)

    def running(self) -> list[Task]:
        """Return what runs now, the newest first."""
        return [one for one in reversed(self._tasks.values()) if one.is_running]

    async def close(self, seconds: float) -> None:
        """Ask everything to stop, and wait at most *seconds*: a replay ends after the letters it has in hand."""
        for task in self._running.values():
            task.stop.set()
        pending = list(self._running)
        if not pending:
            return
        stoppable = [one for one, task in self._running.items() if task.can_stop]
        if stoppable:
            await asyncio.wait(stoppable, timeout=seconds)
        for one in pending:
            one.cancel()
        await asyncio.wait(pending)

    async def _run(self, task: Task, work: Callable[[Task], Awaitable[Any]]) -> None:
        try:
            task.result = await work(task)
        except DeskError as error:
            task.problem = str(error)
        except AdapterError as error:
            task.problem = why_not(error)
        except Exception as error:  # noqa: BLE001 - a bug ends this task and is shown; the page goes on
            task.problem = classify(error).detail

    def _ended(self, running: asyncio.Task[None]) -> None:
        task = self._running.pop(running)
        task.is_running = False
        task.took = time.monotonic() - task.began
        if task.changes:
            self._on_end()
