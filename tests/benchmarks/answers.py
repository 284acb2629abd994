"""What answers cost: receipts that every message asks for, the journal, and the days on which neither can be written.

    python -m tests.benchmarks.answers                          # receipts and journal, on and off, in turn
    python -m tests.benchmarks.answers --only asks              # those whose name has "asks", beside the usual run
    python -m tests.benchmarks.answers --days                   # the bad days: nothing slower, nothing missing

Each round runs every variant once, and each number is divided by that of the usual run of its round (journal on, nobody
asks); the medians are printed. On shared cores the processor time says more than the rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import pika

from tests.benchmarks.asking import Askers
from tests.benchmarks.contenders import ours
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import WORKLOADS, Result, between, check, numbered, progress, wait_until
from tests.services.processes import free_ports
from tests.services.services import private_broker
from tests.services.store import embedded_store
from worker import contract

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_USUAL: Final = "usual"
_NAMED: Final = "cim.receipts.bench"
_WARM_SHARE: Final = 0.1
_BLOCKED_SECONDS: Final = 15.0
_REPORT_SECONDS: Final = 1.5
"""The pool has the numbers of its processes once a second."""
_SETTLED_SECONDS: Final = 20.0
_SMALL_STREAM: Final = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 20_000,
    "x-stream-max-segment-size-bytes": 10_000,
}

Trouble = Callable[[Stage], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run, of which the usual one is measured beside it."""

    environment: Mapping[str, str] = field(default_factory=dict)
    reply_to: str | None = None
    askers: int = 0
    """Publishers with direct reply-to that share the messages."""
    before: Trouble = nullcontext
    """What is so when the run begins."""
    during: Trouble = nullcontext
    """What happens after the first tenth of the messages."""
    counters: Sequence[str] = ()
    """Which of the worker's counters have to count every message."""
    workload: str = "live"


@contextmanager
def _receipt_queue(stage: Stage, **arguments: object) -> Iterator[None]:
    with _channel(stage) as channel:
        channel.queue_declare(
            _NAMED, durable=True, arguments={name.replace("_", "-"): one for name, one in arguments.items()}
        )
        channel.basic_publish("", _NAMED, b"first")
        yield
        channel.queue_delete(_NAMED)


@contextmanager
def _journal_deleted(stage: Stage) -> Iterator[None]:
    with _channel(stage) as channel:
        channel.queue_delete(contract.OUTCOMES)
    yield
    stage.apply_topology()


@contextmanager
def _journal_full(stage: Stage) -> Iterator[None]:
    with _channel(stage) as channel:
        channel.queue_delete(contract.OUTCOMES)
        channel.queue_declare(contract.OUTCOMES, durable=True, arguments=_SMALL_STREAM)
    with _journal_deleted(stage):
        yield


@contextmanager
def _blocked(stage: Stage) -> Iterator[None]:
    """Block publishers for a quarter of a minute: copies to the waiting room have to wait so long, nothing else has."""
    end = threading.Timer(_BLOCKED_SECONDS, lambda: stage.broker.set_memory_alarm(False))
    stage.broker.set_memory_alarm(True)
    end.start()
    try:
        yield
    finally:
        end.join()


@contextmanager
def _channel(stage: Stage) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(stage.url)) as connection:
        yield connection.channel()


COSTS: Final = {
    _USUAL: Variant(),
    "no journal": Variant({"CIM_JOURNAL": "false"}),
    "usual, stored": Variant(workload="stored"),
    "no journal, stored": Variant({"CIM_JOURNAL": "false"}, workload="stored"),
    "no receipts": Variant({"CIM_RECEIPTS": "false"}),
    "asks directly": Variant(askers=1, counters=("sent",)),
    "asks, named": Variant(reply_to=_NAMED, before=_receipt_queue, counters=("sent",)),
}
DAYS: Final = {
    _USUAL: Variant(),
    "asks, thousand": Variant(askers=1000, counters=("sent",)),
    "queue gone": Variant(reply_to="cim.receipts.gone", counters=("queue_gone",)),
    "queue full": Variant(
        reply_to=_NAMED,
        before=lambda stage: _receipt_queue(stage, x_max_length=1, x_overflow="reject-publish"),
        counters=("queue_refused",),
    ),
    "journal deleted": Variant(during=_journal_deleted),
    "journal full": Variant(before=_journal_full),
    "usual, stored": Variant(workload="stored"),
    "blocked": Variant(during=_blocked, workload="stored"),
    "blocked, asks": Variant(reply_to=_NAMED, before=_receipt_queue, during=_blocked, workload="stored"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", action="store_true", help="the bad days instead of the costs")
    parser.add_argument("--only", action="append", default=[], help="variants whose name has this; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=30_000)
    options = parser.parse_args()
    every = DAYS if options.days else COSTS
    chosen = {
        name: one
        for name, one in every.items()
        if name.startswith(_USUAL) or not options.only or any(text in name for text in options.only)
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder, private_broker(say=print) as broker:
        store = embedded_store(Path(folder))
        store.start()
        with Stage(broker, store.uri, conversations=100) as stage:
            for _ in range(options.rounds):
                _round(stage, chosen, options.messages, found)
        store.stop()
    for name, ratios in found.items():
        rates, costs = zip(*ratios, strict=True)
        print(f"{name:18} rate {median(rates):.2f}  cpu {median(costs):.2f}  ({min(costs):.2f} - {max(costs):.2f})")


def _round(
    stage: Stage, variants: Mapping[str, Variant], messages: int, found: Mapping[str, list[tuple[float, float]]]
) -> None:
    usual: dict[str, Result] = {}
    for name, variant in variants.items():
        result = _run(stage, name, variant, messages)
        beside = usual.setdefault(variant.workload, result)
        found[name].append((result.rate / beside.rate, result.cpu_us / beside.cpu_us))
        print(f"  {name:18} {result.rate:8,.0f}/s {result.cpu_us:6.1f} µs", flush=True)


def _run(stage: Stage, name: str, variant: Variant, messages: int) -> Result:
    """Run once. Raises `CountsDifferError` when an outcome, RuntimeError when a counter is not as it has to be."""
    stage.reset()
    port = free_ports(1)[0]
    contender = ours(1, {}, CIM_HTTP_PORT=str(port), **variant.environment)
    prepared = numbered(stage, messages, WORKLOADS[variant.workload])
    done = progress(stage, variant.workload)
    with Askers(stage.url, variant.askers) as askers, variant.before(stage):
        loaded = stage.fill(prepared, reply_to=variant.reply_to, publish=askers.publish if variant.askers else None)
        with contender.running(stage) as running:
            start = wait_until(running, stage, max(1, int(messages * _WARM_SHARE)), done)
            with variant.during(stage):
                end = wait_until(running, stage, messages, done)
            _count(port, variant, messages)
    check(stage, loaded, contender, variant.workload)
    return between(start, end, name, variant.workload)


def _count(port: int, variant: Variant, messages: int) -> None:
    """Wait until the worker has counted a receipt of each message as it has to end."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    while True:
        time.sleep(_REPORT_SECONDS)
        counts = _receipts(port)
        if sum(counts.get(name, 0) for name in variant.counters) >= (messages if variant.counters else 0):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"receipts were counted as {json.dumps(counts)}, of {messages} messages")


def _receipts(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        rows = [row for row in answer.read().decode().splitlines() if row.startswith("cim_receipts_total{")]
    return {row.split('"')[1]: int(float(row.rpartition(" ")[2])) for row in rows}


if __name__ == "__main__":
    main()
