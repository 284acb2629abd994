"""The check of the harness itself: deliberate bugs, each in a copy of the worker, each of which must be caught."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Final

from tests.chaos.messages import Mix
from tests.chaos.order import BROKEN
from tests.chaos.pool import snapshot
from tests.chaos.run import Plan, Report, run

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEED = 7


class PatchError(Exception):
    """The text to replace is not in the source exactly once: the patch has to follow the source."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One deliberate bug, and the short run that provokes it."""

    name: str
    patches: tuple[tuple[str, str, str], ...]
    """File below `worker/`, text that is in it exactly once, and what it becomes."""
    faults: tuple[str, ...]
    invariants: tuple[str, ...]
    """It counts as caught when one of these is violated."""
    mix: Mix | None = None
    feel: tuple[str, ...] = ()
    """Faults during which live messages are timed."""
    messages: int = 3000
    minutes: float = 0.4
    every: float = 2.0
    partitions: int = 0
    """With these the order of each key is kept, and checked."""


_LOST: Final = "a valid message lost"
_NO_LETTER: Final = "a message that has to die has no letter"
_WRITE_FAILS: Final = "            if self._gate.holds(error.failure):\n                self._shrink()\n"
_EARLY_ACK: Final = """\
        for copy in copies:
            self._settlement._acknowledge(copy.delivery)
"""
_PUBLISH_EVENTS: Final = (
    "            confirmations = await self._publisher.publish([_written(inbound) for inbound in inbounds])\n"
)
_PUBLISH_COPIES: Final = "        confirmations = await self._publisher.publish([copy.outgoing for copy in copies])\n"
_ACK_ALL: Final = """\
        if self._settled:
            prefix = self._done_up_to = max(self._settled)
            self._settled.clear()
"""
_PING: Final = """\
        waiting, self._candidates = list(self._candidates), deque()
        asyncio.get_running_loop().call_soon(self.add, waiting)
        return
"""
"""What a probe does that asks something easier than what failed, while the store answers easy questions."""
_UNACKNOWLEDGED: Final = """\
        if any(copy.outcome is Outcome.RETRY for copy in copies):
            await asyncio.sleep(8)
"""
_READ_TOGETHER: Final = """\
        for record in records:
            if isinstance(record, UnreadableRecord):
                raise TypeError(record.problem)
"""
_READABLE: Final = "        return [record for record in records if isinstance(record, ConversationRecord)]\n"
_LATE: Final = "live messages feel what fails elsewhere"
_STORE_WORK: Final = Mix(live=30, closed=20, unknown=20, stand_alone=20)

MUTANTS: Final = (
    Mutant(
        "ack before confirm",
        (
            (
                "pipeline/publishing.py",
                _PUBLISH_EVENTS,
                indent(_EARLY_ACK, "    ").replace("copies", "inbounds").replace("copy", "inbound") + _PUBLISH_EVENTS,
            ),
            ("pipeline/copies.py", _PUBLISH_COPIES, _EARLY_ACK + _PUBLISH_COPIES),
        ),
        ("dead_letter_queue_full", "all_workers_kill_9", "subscriber_queue_full", "broker_kill_9"),
        (_LOST, _NO_LETTER),
        Mix(invalid=20, narrow=20),
        every=1.2,
    ),
    Mutant(
        "ignore returns",
        (
            (
                "pipeline/publishing.py",
                ("            if confirmation is Confirmation.CONFIRMED:\n                confirmed.append(inbound)\n"),
                (
                    "            if confirmation in {Confirmation.CONFIRMED, Confirmation.RETURNED}:\n"
                    "                confirmed.append(inbound)\n"
                ),
            ),
        ),
        ("exchange_deleted", "last_subscriber_gone", "closed_and_reopened"),
        (_LOST,),
    ),
    Mutant(
        "drop on store error",
        (
            (
                "pipeline/storing.py",
                _WRITE_FAILS,
                _WRITE_FAILS
                + "                self._settlement.settle_all(inbounds, Outcome.STORED)\n"
                + "                return\n",
            ),
        ),
        ("store_kill_9", "store_connections_cut"),
        (_LOST,),
        _STORE_WORK,
    ),
    Mutant(
        "retry without attempt count",
        (("pipeline/retry.py", "now), attempt + 1)", "now), attempt)"),),
        ("subscriber_queue_full",),
        (_NO_LETTER,),
        Mix(unstorable=3),
        messages=1000,
    ),
    Mutant(
        "ack past an unfinished tag",
        (
            (
                "rabbit/acks.py",
                "        alone: list[int] = []\n",
                _ACK_ALL + "        alone: list[int] = []\n",
            ),
        ),
        ("store_stop", "store_frozen_long", "all_workers_kill_9"),
        (_LOST,),
        _STORE_WORK,
    ),
    Mutant(
        "dead-letter on outage",
        (
            (
                "pipeline/storing.py",
                _WRITE_FAILS,
                _WRITE_FAILS
                + "                for inbound in inbounds:\n"
                + "                    self._copies.dead_letter(inbound.delivery, inbound.identity, error.failure)\n"
                + "                return\n",
            ),
        ),
        ("store_kill_9", "store_frozen_long"),
        ("a valid message dead-lettered",),
        _STORE_WORK,
    ),
    Mutant(
        "one lookup for all",
        (("mongo/registry.py", _READABLE, _READ_TOGETHER + _READABLE),),
        ("poisoned_record",),
        ("a valid message dead-lettered",),
        Mix(live=40, moving=60),
    ),
    Mutant(
        "a ping opens the gate",
        (
            (
                "pipeline/storing.py",
                "        self._release_old()\n        if not self._candidates:\n",
                _PING + "        if not self._candidates:\n",
            ),
        ),
        ("writes_refused", "disk_full"),
        ("an outage that flaps",),
        Mix(live=30, closed=20, unknown=20, stand_alone=20, unstorable=0),
    ),
    Mutant(
        "retries wait unacknowledged",
        (
            (
                "pipeline/copies.py",
                '        """Publish a bundle; settle what is confirmed, and add again what the broker refused."""\n',
                '        """Publish a bundle; settle what is confirmed, and add again what the broker refused."""\n'
                + _UNACKNOWLEDGED,
            ),
            (
                "pipeline/copies.py",
                "from dataclasses import dataclass\n",
                "import asyncio\nfrom dataclasses import dataclass\n",
            ),
        ),
        ("subscriber_full",),
        (_LATE,),
        feel=("subscriber_full",),
        messages=1000,
        minutes=0.2,
    ),
    Mutant(
        "reading is never paused",
        (("rabbit/connection.py", "            self._raw.pause_reading(self._largest_run)\n", "            pass\n"),),
        ("large_messages",),
        ("too much memory",),
        messages=500,
        minutes=0.2,
    ),
    Mutant(
        "what is held begins at once",
        (("pipeline/order.py", "        key.held.append(delivery)\n", "        return True\n"),),
        ("subscriber_queue_full",),
        (BROKEN,),
        Mix(narrow=20),
        messages=1500,
        minutes=0.2,
        partitions=2,
    ),
    Mutant(
        "a retry leaves its key",
        (("pipeline/copies.py", "if self._order is None or not", "if self._order is not self or not"),),
        ("subscriber_queue_full",),
        (BROKEN,),
        Mix(narrow=20),
        messages=4000,
        minutes=0.5,
        partitions=2,
    ),
)


def patched(mutant: Mutant, folder: Path) -> Path:
    """Apply a mutant to the worker package in *folder* and return *folder*. Raises PatchError."""
    for name, old, new in mutant.patches:
        file = folder / "worker" / name
        source = file.read_text()
        if source.count(old) != 1:
            raise PatchError(f"{mutant.name}: found {source.count(old)} times in worker/{name}:\n{old}")
        file.write_text(source.replace(old, new))
        compile(file.read_text(), str(file), "exec")
    return folder


def hunt(names: Sequence[str], *, keep: Path | None = None) -> int:
    """Run the harness on each mutant, print how it showed, and return 0 when every one was caught."""
    escaped = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="cim-mutant-") as folder:
            report = asyncio.run(run(_plan(mutant, patched(mutant, snapshot(Path(folder))), keep), _ignore, _ignore))
        escaped += not _is_caught(mutant, report)
        _print(mutant, report)
    print("every mutant was caught" if not escaped else f"{escaped} ESCAPED")
    return 1 if escaped else 0


def _plan(mutant: Mutant, code: Path, keep: Path | None) -> Plan:
    return Plan(
        seed=_SEED,
        minutes=mutant.minutes,
        messages=mutant.messages,
        every=mutant.every,
        only=mutant.faults,
        mix=mutant.mix,
        feel=mutant.feel,
        code=code,
        keep=keep,
        partitions=mutant.partitions,
        quiet_timeout=30,
    )


def _is_caught(mutant: Mutant, report: Report) -> bool:
    return any(invariant in report.violations for invariant in mutant.invariants)


def _print(mutant: Mutant, report: Report) -> None:
    verdict = "caught" if _is_caught(mutant, report) else "ESCAPED"
    print(f"{verdict}: {mutant.name} ({report.seconds:.0f} s, {report.peak_mib:.0f} MiB at most)", flush=True)
    for invariant, count in report.violations.items():
        print(f"    {invariant}: {count}, for example {report.examples[invariant][0]}", flush=True)


def _ignore(*_: object) -> None:
    """Say nothing: twelve runs in a row are loud enough."""
