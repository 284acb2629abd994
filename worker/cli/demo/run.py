"""Runs the demo: opens conversations, listens, starts real workers, publishes, and waits until all is settled."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from worker.cli.conversations import change_conversation, closing, opening
from worker.cli.demo.activities import Place, Sample, generate
from worker.cli.demo.keeping import Announcer, wait_for_stop
from worker.cli.demo.listening import Listener
from worker.cli.demo.report import next_steps_while_it_runs
from worker.cli.demo.tally import Event, Found
from worker.cli.demo.worker_pool import WorkerPool
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import progress
from worker.cli.services import open_broker, open_store
from worker.cli.topology import wanted_topology
from worker.contract import CODE, DEAD_LETTERS, INGRESS, conversation_exchange, retry_queue
from worker.flow.tasks import cancel_and_wait
from worker.mongo.stored_activities import StoredActivities
from worker.ports import Outgoing
from worker.rabbit import topology
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from worker.cli.demo.environment import Environment
    from worker.rabbit.connection import Connection
    from worker.rabbit.consumer import Delivery
    from worker.settings import Settings

PROCESSES = 2
_SETTLE_SECONDS = 120.0
_STOP_SECONDS = 40.0
_POLL_SECONDS = 0.1
_MESSAGES_PER_WINDOW = 250

_LIVE = (
    Place("demo-live-1", "demo-session-1", "65f0c0ffee00000000000001"),
    Place("demo-live-2", "demo-session-2", "65f0c0ffee00000000000002"),
)
_CLOSED = (Place("demo-closed", "demo-session-3", "65f0c0ffee00000000000003"),)


def run(
    environment: Environment,
    *,
    seed: int,
    count: int,
    say: Callable[[str], object],
    report: Callable[[Sequence[Sample], Found], object],
    keep: bool = False,
) -> None:
    """Run the whole demo, and *report* what was sent and what was found. Raises `CommandError`.

    With *keep* everything goes on after the report, until SIGINT or SIGTERM.
    """
    samples = list(generate(seed, count, live=_LIVE, closed=_CLOSED))
    asyncio.run(_until_told_to_stop(_run(environment, samples, say, report, keep=keep)))


async def _until_told_to_stop(job: Coroutine[Any, Any, None]) -> None:
    """Do *job*, or end it on SIGINT or SIGTERM: the store's driver can swallow one cancellation."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    task, stopping = asyncio.create_task(job), asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        await cancel_and_wait([task])
        raise KeyboardInterrupt
    task.result()


async def _run(
    environment: Environment,
    samples: Sequence[Sample],
    say: Callable[[str], object],
    report: Callable[[Sequence[Sample], Found], object],
    *,
    keep: bool,
) -> None:
    settings, found, announcer = environment.settings, Found(), Announcer(say)
    async with open_broker(settings) as connection, open_store(settings) as store, AsyncExitStack() as cleanup:
        await _prepare(settings, connection)
        say("opened two live conversations and a closed one; subscribed to the live ones")
        for listener in await _listen(connection, found, announcer):
            cleanup.push_async_callback(listener.close)
        pool = WorkerPool(PROCESSES, environment.variables, environment.worker_log)
        cleanup.callback(pool.kill)
        say(f"started cim-worker run --processes {PROCESSES}; publishing {len(samples)} messages")
        started = time.monotonic()
        stored = StoredActivities(store)
        await _publish_and_wait(connection, samples, found, stored, pool)
        found.seconds = time.monotonic() - started
        found.exit_status = await asyncio.to_thread(pool.stop, _STOP_SECONDS)
        found.duplicates = pool.counted("duplicate")
        found.left_behind = await _depths(settings, connection)
        found.stored = await stored.event_ids()
        found.sample_document = await stored.sample()
        report(samples, found)
        if keep:
            await _keep_running(environment, announcer, say)
        await _clean_up(settings)


async def _keep_running(environment: Environment, announcer: Announcer, say: Callable[[str], object]) -> None:
    pool = WorkerPool(PROCESSES, environment.variables, environment.worker_log)
    try:
        for line in next_steps_while_it_runs(environment.write_variables(), os.getpid()):
            say(line)
        announcer.is_on = True
        await wait_for_stop()
        say("stopping the workers, removing what the demo made …")
        await asyncio.to_thread(pool.stop, _STOP_SECONDS)
    finally:
        pool.kill()


async def _prepare(settings: Settings, connection: Connection) -> None:
    findings = await topology.apply(connection, await wanted_topology(settings, connection))
    for finding in topology.problems(findings):
        raise CommandError(ExitCode.CONFIGURATION, f"{finding.name}: {finding.problem}; {finding.fix}")
    if await _is_used(connection):
        text = f"somebody uses queue {INGRESS} of this virtual host; let CIM_RABBITMQ_URL name another one"
        raise CommandError(ExitCode.CONFIGURATION, text)
    now = time.time_ns() // 1_000_000
    for place in (*_LIVE, *_CLOSED):
        room = {"id": f"room-of-{place.customer_id}", "mode": "CONTACT_CENTER"}
        change = opening(place.conversation_id, now, place.customer_id, room, (place.session_id,))
        await change_conversation(settings, change)
    for place in _CLOSED:
        await change_conversation(settings, closing(place.conversation_id, now + 1))


async def _clean_up(settings: Settings) -> None:
    now = time.time_ns() // 1_000_000
    for place in (*_LIVE, *_CLOSED):
        await change_conversation(settings, closing(place.conversation_id, now), delete_exchange=True)


async def _listen(connection: Connection, found: Found, announcer: Announcer) -> list[Listener]:
    def on_letter(delivery: Delivery) -> None:
        found.letters.append((str(delivery.properties.headers.get(CODE)), delivery.body))
        announcer.letter(delivery)

    def on_event(conversation_id: str) -> Callable[[Delivery], None]:
        def note(delivery: Delivery) -> None:
            found.events.append(_event(conversation_id, delivery))
            announcer.event(conversation_id, delivery)

        return note

    listeners = [await Listener.open(connection, DEAD_LETTERS, on_letter)]
    for place in _LIVE:
        exchange = conversation_exchange(place.conversation_id)
        listeners.append(await Listener.open(connection, exchange, on_event(place.conversation_id)))
    return listeners


def _event(conversation_id: str, delivery: Delivery) -> Event:
    properties = delivery.properties
    shown: dict[str, Any] = {
        "routing_key": delivery.routing_key,
        "message_id": properties.message_id,
        "type": properties.type,
        "correlation_id": properties.correlation_id,
        "app_id": properties.app_id,
        "content_type": properties.content_type,
        "delivery_mode": properties.delivery_mode,
        "timestamp": properties.timestamp,
        "headers": properties.headers,
    }
    return Event(conversation_id, properties.message_id or "", shown, delivery.body)


async def _publish_and_wait(
    connection: Connection, samples: Sequence[Sample], found: Found, stored: StoredActivities, pool: WorkerPool
) -> None:
    visible = sum(sample.outcome != "duplicate" for sample in samples)
    deadline = time.monotonic() + _SETTLE_SECONDS + len(samples) / 500
    with progress() as bar:
        publishing = bar.add_task("published to cim.ingress", total=len(samples))
        settling = bar.add_task("settled by the workers", total=visible)
        publisher = await Publisher.open(connection)
        for start in range(0, len(samples), _MESSAGES_PER_WINDOW):
            window = samples[start : start + _MESSAGES_PER_WINDOW]
            confirmations = await publisher.publish([_outgoing(sample) for sample in window])
            found.confirmed += confirmations.count("confirmed")  # type: ignore[arg-type]
            bar.advance(publishing, len(window))
        while time.monotonic() < deadline:
            seen = len(found.events) + len(found.letters) + await stored.count()
            bar.update(settling, completed=seen)
            if seen >= visible and await _depth(connection, INGRESS) == 0:
                return
            if not pool.is_running:
                text = f"the workers ended before their work was done; their last words:\n{pool.last_words()}"
                raise CommandError(ExitCode.UNEXPECTED, text)
            await asyncio.sleep(_POLL_SECONDS)


def _outgoing(sample: Sample) -> Outgoing:
    # As many publishers do: an id of their own for the AMQP message, the same when they send it again.
    return Outgoing(INGRESS, sample.routing_key, sample.message_id, sample.body)


async def _depths(settings: Settings, connection: Connection) -> dict[str, int]:
    """Return the queues that still hold messages after the workers have ended, unacknowledged ones included."""
    queues = (INGRESS, *(retry_queue(delay) for delay in settings.retry_delays))
    depths = {queue: await _depth(connection, queue) for queue in queues}
    return {queue: depth for queue, depth in depths.items() if depth}


async def _depth(connection: Connection, queue: str) -> int:
    return int((await _look_at(connection, queue)).message_count)


async def _is_used(connection: Connection) -> bool:
    state = await _look_at(connection, INGRESS)
    return bool(state.message_count or state.consumer_count)


async def _look_at(connection: Connection, queue: str) -> Any:
    channel = await connection.channel()
    reply = await channel.call("queue_declare", queue, passive=True)
    await channel.close()
    return reply
