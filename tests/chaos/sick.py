"""Sick, not dead: servers that answer and do not work, objects that vanish, one bad thing among good ones."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pymongo

from tests.chaos import evidence as reading
from tests.chaos import verdict
from tests.chaos.fault import fault
from tests.chaos.faults import children, full, gone, signal_child, wait_for_children
from tests.chaos.ledger import Shaken
from tests.chaos.messages import VHOST
from tests.chaos.platform import NARROW_QUEUE, state_event
from tests.chaos.world import (
    DATABASE,
    POOL_USER,
    UNLISTED_CODE,
    refuse_unstorable,
)
from tests.support.wire_proxy import delayed, error, write_error

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from tests.chaos.platform import Platform
    from tests.chaos.world import World
    from tests.support.wire_proxy import Answer, Exchange

_WRITES = ("insert", "update", "delete", "findAndModify")
_SICK_SECONDS = 4.0
_POISONED_SECONDS = 12.0
"""Longer than all attempts take: whatever failed with the record would be dead by then."""
_LATE_SECONDS = 0.6
"""Below the store's timeout of 1.5 s: slow is not down."""
_LETTER_SECONDS = 120.0
_BURST = 600
"""More than the two processes may hold at once together."""
_HOUR_MS = 3_600_000
_SMALL_LIMIT = 65_536
_SMALL_FRAME = 8192
"""The smallest that every RabbitMQ takes."""
_LARGE = 1_000_000


# -- the store --------------------------------------------------------------------------------------------------------


@fault("store", elsewhere=True)
async def disk_full(world: World, _: Platform, __: random.Random) -> None:
    """The store's disk is full: it answers everything but writes."""
    await _answered(world, _SICK_SECONDS, *_WRITES, answer=error(14031, "OutOfDiskSpace"))


@fault("store", elsewhere=True)
async def writes_refused(world: World, _: Platform, __: random.Random) -> None:
    """The store takes no writes from us any more, and answers everything else."""
    await _answered(world, _SICK_SECONDS, *_WRITES, answer=error(13, "Unauthorized"))


@fault("store", elsewhere=True)
async def unlisted_code(world: World, _: Platform, __: random.Random) -> None:
    """Every write fails, with a number that no list knows."""
    await _answered(world, _SICK_SECONDS, "insert", "update", answer=write_error(UNLISTED_CODE))


@fault("store", elsewhere=True)
async def slow_store(world: World, _: Platform, __: random.Random) -> None:
    """The store does everything, late, but within the deadline."""
    others = world.sick.on("find", "update", "findAndModify", "delete", answer=delayed(_LATE_SECONDS))
    try:
        await _answered(world, _SICK_SECONDS, "insert", answer=_late_insert)
    finally:
        others.end()


@fault("store", "conversations", elsewhere=True)
async def poisoned_record(world: World, _: Platform, rng: random.Random) -> None:
    """A registry record is of another type: its messages go on, and only what needs the record itself dies."""
    conversation = rng.choice(world.places.moving)
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(world.store.uri, timeoutMS=5000)
    with client:
        records = client[DATABASE]["conversations"]
        before = await _insist(records.find_one, {"_id": conversation})
        change = {"$set": {"stateUpdatedAt": datetime.now(UTC)}}
        await _insist(records.update_one, {"_id": conversation}, change)
        try:
            await asyncio.sleep(_POISONED_SECONDS)
            sample = world.traffic.unreadable(state_event(conversation, "ACTIVE"))
            await world.publisher.publish(sample)
            await _until_dead(world, sample.code, sample.body)
        finally:
            time = {"$set": {"stateUpdatedAt": before["stateUpdatedAt"]}}
            await _insist(records.update_one, {"_id": conversation}, time)


# -- subscribers and publishers ---------------------------------------------------------------------------------------


@fault("queues", elsewhere=True)
async def subscriber_full(world: World, _: Platform, __: random.Random) -> None:
    """One subscriber's queue is full while a flood of events is for it."""
    await asyncio.gather(full(world, NARROW_QUEUE, 0, _SICK_SECONDS), _flood(world, world.traffic.narrow))


@fault("publishers", elsewhere=True)
async def rubbish_publisher(world: World, _: Platform, __: random.Random) -> None:
    """Somebody publishes nothing but invalid messages, many a second."""
    await _flood(world, world.traffic.invalid)


@fault("publishers", elsewhere=True)
async def reserialised_duplicates(world: World, _: Platform, __: random.Random) -> None:
    """A publisher sends what it has sent again, with other white space, key order and escapes."""
    for sample in world.traffic.written_again(_BURST // 4):
        await world.publisher.publish(sample)


@fault("conversations")
async def future_event(world: World, platform: Platform, rng: random.Random) -> None:
    """A clock is wrong: a conversation is closed two hours ahead of time, and opened now."""
    conversation = rng.choice(world.places.moving)
    await platform.tell("CLOSED", conversation, ahead_ms=2 * _HOUR_MS)
    await asyncio.sleep(0.5)
    await platform.tell("ACTIVE", conversation)
    await platform.bind(conversation)


@fault("pool", "broker", "publishers", every=3)
async def large_messages(world: World, _: Platform, __: random.Random) -> None:
    """The workers stand still while large messages pile up, then get them all at once."""
    pids = await children(world)
    world.pool.stand_still(pids)
    try:
        for _number in range(_BURST // 2):
            await world.publisher.publish(world.traffic.large(_LARGE))
    finally:
        world.pool.go_on(pids)
    await wait_for_children(world)


# -- the broker's objects and limits ----------------------------------------------------------------------------------


@fault("broker", "broker-net", "conversations", "queues", "pool", every=3)
async def hub_deleted(world: World, platform: Platform, _: random.Random) -> None:
    """An operator deletes the hub, and repairs it with `topology apply`."""
    async with _exchanges_gone(world):
        await world.admin(lambda channel: channel.exchange_delete("cim.conversations"))
        await asyncio.sleep(1)
        await world.command("topology", "apply")
        await platform.wait_for_exchanges()


@fault("broker", "broker-net", "conversations", "queues", "pool", "publishers", "store", "store-net", every=3)
async def vhost_recreated(world: World, platform: Platform, _: random.Random) -> None:
    """The virtual host is deleted with all queues and made again: what was in them is gone, what comes is not.

    What the platform told is not among it: nobody would tell it again.
    """
    await platform.wait_for_registry()
    world.publisher.hold()
    async with _exchanges_gone(world):
        await world.manage(lambda: world.broker.delete_vhost(VHOST))
        await asyncio.sleep(1)
        evidence = await asyncio.to_thread(reading.read_store, world.store.uri, DATABASE, world.ledger)
        ledger = world.ledger
        under_way = [n for n in range(len(ledger)) if not verdict.has_arrived(n, ledger, evidence)]
        ledger.shake(under_way, Shaken.LOST)
        await world.make_vhost()
        await world.command("topology", "apply")
        await world.make_trap()
        world.publisher.release()
        await platform.wait_for_exchanges()
        await platform.bind_all()


@fault("pool")
async def frame_max_small(world: World, _: Platform, __: random.Random) -> None:
    """The pool is restarted for a broker with small frames, which long reasons of letters do not fit, and back."""
    for limit in (_SMALL_FRAME, None):
        workers, old = await children(world), world.pool.supervisor
        world.pool.start(frame_max=limit)
        old.terminate()
        await gone(world, [*workers, old.pid], "processes of a pool that was told to stop")
        await wait_for_children(world)
        if limit:
            for _number in range(20):
                await world.publisher.publish(world.traffic.long_reasons())
            await asyncio.sleep(_SICK_SECONDS / 2)


@fault("broker", "broker-net")
async def message_size_limit(world: World, _: Platform, __: random.Random) -> None:
    """The broker's limit falls: messages below it become events above it."""
    world.publisher.largest = _SMALL_LIMIT
    await _limit_messages(world, _SMALL_LIMIT)
    try:
        for _number in range(20):
            await world.publisher.publish(world.traffic.almost(_SMALL_LIMIT))
        await asyncio.sleep(_SICK_SECONDS)
    finally:
        await _limit_messages(world, 134_217_728)
        world.publisher.largest = None


@fault("broker", "broker-net")
async def rights_revoked(world: World, _: Platform, __: random.Random) -> None:
    """The pool's user may publish nothing any more; then an operator gives its rights back."""
    management = world.broker.management
    await world.manage(lambda: management.set_permissions(POOL_USER, VHOST, write="^$"))
    try:
        await world.manage(world.node.close_connections)  # rights are remembered for the life of an AMQP channel
        await asyncio.sleep(_SICK_SECONDS)
    finally:
        await world.manage(lambda: management.set_permissions(POOL_USER, VHOST))


# -- the pool's own surroundings --------------------------------------------------------------------------------------


@fault("pool")
async def supervisor_out_of_descriptors(world: World, _: Platform, rng: random.Random) -> None:
    """The supervisor may open nothing more while one of its processes dies."""
    pid = world.pool.supervisor.pid
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (world.pool.open_files(), usual[1]))
    try:
        await signal_child(world, rng, signal.SIGKILL)
        await asyncio.sleep(_SICK_SECONDS)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    await wait_for_children(world)


@fault("pool", elsewhere=True)
async def log_reader_stuck(world: World, _: Platform, __: random.Random) -> None:
    """Whoever reads the pool's log stops reading."""
    world.pool.output.stop_reading()
    try:
        await asyncio.sleep(_SICK_SECONDS)
    finally:
        world.pool.output.go_on()


# -- how --------------------------------------------------------------------------------------------------------------


async def _answered(world: World, seconds: float, *commands: str, answer: Answer) -> None:
    rule = world.sick.on(*commands, answer=answer)
    try:
        await asyncio.sleep(seconds)
    finally:
        rule.end()


async def _late_insert(exchange: Exchange) -> None:
    await asyncio.sleep(_LATE_SECONDS)
    await refuse_unstorable(exchange)


async def _flood(world: World, make: Any) -> None:
    for _number in range(_BURST):
        await world.publisher.publish(make())
        await asyncio.sleep(_SICK_SECONDS / _BURST)


async def _insist(action: Any, *arguments: Any) -> Any:
    """Do something with the store; it may be away for another reason. Raises PyMongoError when it stays away."""
    for _turn in range(30):
        with contextlib.suppress(pymongo.errors.PyMongoError):
            return await asyncio.to_thread(action, *arguments)
        await asyncio.sleep(1)
    return await asyncio.to_thread(action, *arguments)


async def _until_dead(world: World, code: str, body: bytes) -> None:
    deadline = asyncio.get_running_loop().time() + _LETTER_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.5)
        with contextlib.suppress(pymongo.errors.PyMongoError):
            if await asyncio.to_thread(world.has_letter, code, body):
                return


@contextlib.asynccontextmanager
async def _exchanges_gone(world: World) -> AsyncIterator[None]:
    """Know that live messages may be stored: those of the last minute, in whatever hands, and those from now on."""
    ledger = world.ledger
    ledger.shake(ledger.since(60), Shaken.STORED)
    ledger.shaking = Shaken.STORED
    try:
        yield
    finally:
        ledger.shaking = Shaken.NOT


async def _limit_messages(world: World, size: int) -> None:
    # A channel keeps the limit it was opened with.
    await world.manage(lambda: world.node.control("eval", f"application:set_env(rabbit, max_message_size, {size})."))
    await world.manage(world.node.close_connections)
