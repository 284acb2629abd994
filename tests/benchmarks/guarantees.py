"""How many messages each contender loses or doubles: `python -m tests.benchmarks.guarantees`.

    python -m tests.benchmarks.guarantees [--only cim-worker …] [--messages 3000] [--kills 2] [--readme]

All messages are live. Half are for conversations nobody listens to, so their events come back and have to be stored;
every ninth is published twice; and each contender is killed with SIGKILL while it works, so that what it had in hand is
delivered again. A contender that ends by itself is started again, a few times. When nothing moves any more it is
stopped, and every message is looked for: at the subscriber, in the store, in the dead letters, in the queue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks import stores
from tests.benchmarks.accounts import Account, account, table
from tests.benchmarks.contenders import OURS, RIVALS
from tests.benchmarks.messages import Kind
from tests.benchmarks.report import Report, machine
from tests.benchmarks.stage import ARRIVALS, Stage
from tests.benchmarks.throughput import numbered
from tests.services.services import private_broker
from worker import contract

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.contenders import Command, RunningProcess
    from tests.benchmarks.messages import Prepared

CONTENDERS: Final = (OURS, *RIVALS)
_CONVERSATIONS: Final = 100
_TWICE_EVERY: Final = 9
_STARTS: Final = 6
"""How often a contender is started at most, the first time and after each kill included."""
_QUIET_SECONDS: Final = 8.0
"""Longer than any pause of a contender that still works: starting again, and the first retry tier of ours."""
_POLL_SECONDS: Final = 0.05


def run(stage: Stage, contender: Command, messages: int, kills: int) -> Account:
    """Let one contender empty the queue while it is killed *kills* times, and account for every message."""
    stage.reset()
    prepared = list(numbered(stage, messages, [Kind.LIVE]))
    deaf = stage.live[1::2]
    names = {place.conversation_id.encode() for place in deaf}
    unheard = {one.message_id for one in prepared if any(name in one.body for name in names)}
    message_ids = {one.event_id: one.message_id for one in prepared}
    with stage.unheard(deaf):
        stage.fill(_some_twice(prepared))
        ended = _work(stage, contender, messages, kills)
        events = [message_ids[event_id] for event_id in stage.drained(ARRIVALS)]
    return account(
        contender.name,
        heard=set(message_ids.values()) - unheard,
        unheard=unheard,
        events=events,
        documents=stage.documents(),
        letters=stage.letters(),
        queued=stage.drained(contract.INGRESS),
        sent_twice={one.message_id for one in prepared[::_TWICE_EVERY]},
        ended=ended,
    )


def _some_twice(prepared: Sequence[Prepared]) -> Iterator[Prepared]:
    for number, one in enumerate(prepared):
        yield one
        if number % _TWICE_EVERY == 0:
            yield one


class _Stop(Enum):
    MARK = auto()
    ENDED = auto()
    QUIET = auto()


def _work(stage: Stage, contender: Command, messages: int, kills: int) -> int:
    """Start it, kill it at equal shares of the messages, until nothing moves any more; return how often it ended."""
    ended = 0
    marks = [messages * (number + 1) // (kills + 1) for number in range(kills)]
    for _ in range(_STARTS):
        with contender.running(stage) as running:
            stop = _watch(stage, running, marks[0] if marks else None)
            if stop is _Stop.QUIET:
                return ended
            if stop is _Stop.MARK:
                marks.pop(0)
                running.kill()
            else:
                ended += 1
    return ended


def _watch(stage: Stage, running: RunningProcess, mark: int | None) -> _Stop:
    """Wait until *mark* effects are proven, the contender has ended, or nothing has moved for a while."""
    last, last_change = -1, time.monotonic()
    while True:
        if (now := stage.effects().total) != last:
            last, last_change = now, time.monotonic()
        if mark is not None and now >= mark:
            return _Stop.MARK
        if running.complaint():
            return _Stop.ENDED
        if time.monotonic() - last_change > _QUIET_SECONDS:
            return _Stop.QUIET
        time.sleep(_POLL_SECONDS)


def main() -> int:
    """Run every contender once, print the table; 1 when ours is not right."""
    options = _options()
    report = Report()
    chosen = [one for one in CONTENDERS if not options.only or any(word in one.name for word in options.only)]
    with private_broker() as broker, stores.running(options.store) as store:
        described = list(machine(broker.management.version(), store.describe))
        with Stage(broker, store.uri, conversations=_CONVERSATIONS) as stage:
            accounts = []
            for contender in chosen:
                accounts.append(run(stage, contender, options.messages, options.kills))
                report.progress(f"  {accounts[-1]}")
    title = f"{options.messages} live messages, half of them unheard, killed {options.kills} times"
    report.section(title, [*described, "", *table(accounts)])
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(one) for one in accounts], indent=1))
    if options.readme:
        report.write("guarantees")
    return 0 if all(one.is_right for one in accounts if one.contender == OURS.name) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="contenders whose name contains it")
    parser.add_argument("--messages", type=int, default=3_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--store", choices=stores.NAMES, default=stores.fastest())
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
