"""How fast the desk is on many letters: `make desk-speed`. Times without process start, on a store of its own.

`python -m tests.benchmarks.desk [--letters 100000] [--store embedded]`; the broker is a private node of this machine.
The replay goes into a queue nobody reads: what the workers do with it is measured by `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psutil
from pymongo import WriteConcern

from tests.benchmarks import stores
from tests.services.services import private_broker
from worker.dead_letters.letter import LetterRecord, letter_id
from worker.desk.desk import Who
from worker.desk.filter import parse_filter
from worker.desk.options import Options
from worker.desk.plan import Plan, plan
from worker.desk.query import groups, list_letters
from worker.desk.replay import replay
from worker.desk.steps import Control
from worker.mongo import indexes
from worker.mongo.client import connect
from worker.mongo.dead_letters import COLLECTION
from worker.opening import desk_on, sending_on
from worker.process.clock import SystemClock
from worker.rabbit.connection import Connection
from worker.rabbit.topology import apply, wanted
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any

    from worker.desk.desk import Desk
    from worker.mongo.client import Document, Store

_FILLING_MS = 300_000
"""How long a server may take for an index of as many letters as anybody measures."""
_CAUSES = 20
_AT_ONCE = 1000
NOW = time.time_ns() // 1_000_000 - 3_600_000
"""The letters died in the last hour: what is asked of new causes is asked here, too."""


def letters(number: int) -> list[LetterRecord]:
    """Return so many different letters of valid messages, of twenty causes, seven senders and many conversations."""
    return [_letter(place) for place in range(number)]


def _letter(place: int) -> LetterRecord:
    anchor = {"conversationId": f"c-{place % 1000}"} if place % 2 else {"customer": {"_id": f"u-{place % 5000}"}}
    message = {
        "id": f"message-{place}",
        "header": {"sender": {"id": f"app-{place % 7}", "type": "APP"}, "timestamp": NOW + place, **anchor},
        "body": {"type": "PLAIN", "markdownText": "x" * 400},
    }
    body = json.dumps(message).encode()
    cause = f"{place % _CAUSES:012x}"
    return LetterRecord(
        id=letter_id(body, cause),
        code="store_rejected" if place % _CAUSES else "delivery_limit",
        failure_class="permanent",
        stage="broker",
        fingerprint=cause,
        failed_at=NOW + place,
        recorded_at=NOW + place,
        first_seen=NOW + place,
        last_seen=NOW + place,
        body=body,
        detail="It was refused.",
        origin_exchange="cim.ingress",
        origin_routing_key="key",
        origin_queue="cim.ingress",
        sender_id=f"app-{place % 7}",
        message_id=f"message-{place}",
        conversation_id=anchor.get("conversationId", "") if place % 2 else "",  # type: ignore[arg-type]
        headers=tuple((f"cim-header-{number}", "a value of a header") for number in range(16)),
        properties=(("message_id", f"message-{place}"), ("content_type", "application/json")),
    )


async def fill(store: Store, number: int) -> None:
    """Put letters into an empty collection, then make its indexes: the other way round takes longer.

    Nothing waits for a disk, and the next letters are made while some are written.
    """
    collection = store.database.get_collection(COLLECTION, write_concern=WriteConcern(w=1, j=False))
    coming = _documents(0, number)
    for start in range(0, number, _AT_ONCE):
        writing = collection.insert_many(coming, ordered=False)
        _, coming = await asyncio.gather(writing, asyncio.to_thread(_documents, start + _AT_ONCE, number))
    for index in indexes.OWN if await store.is_embedded() else (*indexes.OWN, indexes.CLAIMS):
        await indexes.make(store, index)


def _documents(start: int, number: int) -> list[Document]:
    places = range(start, min(number, start + _AT_ONCE))
    return [{**_letter(place).to_document(), "unsettled": 0} for place in places]


async def measure(desk: Desk, send: Callable[[], Coroutine[Any, Any, Any]], number: int, replayed: int) -> None:
    """Say seconds and rates of each thing that is done, when it is done."""
    everything = parse_filter({}, now=NOW)
    some = parse_filter({"sender": "app-3", "code": "store_rejected"}, now=NOW)
    one_cause = parse_filter({"group": f"{3:012x}"}, now=NOW)
    _say("groups, s", *await _timed(groups(desk, everything)))
    _say("list --sender --code, s", *await _timed(list_letters(desk, some, 50)))
    _say("list CAUSE, s", *await _timed(list_letters(desk, one_cause, 50)))
    before = _memory()
    planned = Plan()

    async def make() -> None:
        nonlocal planned
        planned = await plan(desk, everything)

    _say("plan, letters/s", *await _timed(make()), letters=number)
    assert planned.letters == number
    _say("replay, letters/s", *await _timed(send()), letters=replayed)
    print(f"{'memory grown, MiB':<26} {(_memory() - before) / 2**20:12.2f}")


async def run(number: int, store_name: str, replayed: int) -> None:
    """Start store and broker, fill, measure."""
    with stores.running(store_name) as server, private_broker(say=lambda _line: None) as broker:
        globals()["_store_pid"] = getattr(server, "pid", 0)
        url = broker.create_vhost("desk-speed")
        filling, _ = await _timed(filled(server.uri, number))
        print(f"{number} letters put into the store in {filling:.0f} s", flush=True)
        await _run(number, min(number, replayed), server.uri, url)


async def filled(mongodb_uri: str, number: int) -> None:
    """Put letters into the store at that address."""
    store = connect(mongodb_uri, "desk", timeout_ms=_FILLING_MS)
    try:
        await fill(store, number)
    finally:
        await store.close()


async def _run(number: int, replayed: int, mongodb_uri: str, amqp_url: str) -> None:
    """Measure with the deadlines that everybody has."""
    settings = load_settings(rabbitmq_url=amqp_url, mongodb_uri=mongodb_uri, mongodb_database="desk")
    store = connect(mongodb_uri, "desk", timeout_ms=settings.mongodb_timeout_ms)
    try:
        clock, control = SystemClock(), Control()
        async with (
            _connection(amqp_url) as publishing,
            _connection(amqp_url) as reading,
            sending_on(publishing, reading, settings, clock, control) as sending,
        ):
            await apply(publishing, wanted((("1s", 1),), 20, publishing.server_version))
            desk = desk_on(store, settings, Who("benchmark"), clock)
            options = Options(limit=replayed, wait_seconds=0)
            everything = parse_filter({}, now=NOW)
            await measure(
                desk, lambda: replay(desk, sending.publisher, None, everything, "benchmark", options), number, replayed
            )
    finally:
        await store.close()


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(url, name="desk speed")
    try:
        yield connection
    finally:
        await connection.close()


_store_pid = 0


async def _timed(work: Coroutine[Any, Any, Any]) -> tuple[float, float]:
    """Return wall time and processor time, of the store and of this process together, of *work* in seconds."""
    started, used = time.monotonic(), _used()
    await work
    return time.monotonic() - started, _used() - used


def _say(name: str, took: float, used: float, letters: int = 0) -> None:
    figure = letters / took if letters else took
    print(f"{name:<26} {figure:12.2f}    ({took:.1f} s, {used:.1f} s of processor time)", flush=True)


def _used() -> float:
    pids = [os.getpid(), *([_store_pid] if _store_pid else ())]
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--replayed", type=int, default=20_000, help="how many of them are replayed")
    parser.add_argument("--store", choices=stores.NAMES, default="embedded", help="memory: mongo-java-server in memory")
    arguments = parser.parse_args()
    load = psutil.getloadavg()[0]
    print(f"{arguments.store}, load of the machine at the start {load:.1f} on {psutil.cpu_count()} processors")
    asyncio.run(run(arguments.letters, arguments.store, arguments.replayed))


if __name__ == "__main__":
    main()
