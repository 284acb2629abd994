"""What one broker session is built of. Composition only: what lives longer is in `app`."""

from __future__ import annotations

import random
import secrets
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from worker import contract
from worker.conversations.convergence import Convergence
from worker.conversations.lifecycle_consumer import LifecycleConsumer
from worker.conversations.reaper import Reaper
from worker.conversations.reconciler import ExchangeReconciler
from worker.dead_letters.recorder import DeadLetterRecorder
from worker.mongo.activities import ActivityStore
from worker.mongo.registry import Registry
from worker.pipeline.copies import Copies
from worker.pipeline.finder import ConversationFinder
from worker.pipeline.journal import Journal
from worker.pipeline.moving import Mover, PartitionKeys
from worker.pipeline.order import KeyOrder, Windows
from worker.pipeline.pipeline import LOOKUPS_AT_ONCE, Pipeline
from worker.pipeline.publishing import Publishing
from worker.pipeline.reading import Reading
from worker.pipeline.senders import Senders
from worker.pipeline.settlement import Settlement
from worker.pipeline.store_share import StoreShare
from worker.pipeline.storing import Storing
from worker.process.session import IngressSession
from worker.rabbit.consumer import Consumer
from worker.rabbit.exchanges import ConversationExchanges, ReconcilerSeat
from worker.rabbit.publisher import Publisher
from worker.rabbit.receipts import ReceiptPublisher
from worker.settings import delay_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from worker.flow.tasks import Crash
    from worker.ops.tracing import SpanTracing
    from worker.pipeline.journal import LetGo
    from worker.pipeline.settlement import Listener
    from worker.ports import Delivery
    from worker.process.app import App
    from worker.rabbit.beside import ConnectionBeside
    from worker.rabbit.connection import Connection
    from worker.rabbit.partitions import PartitionConsumer

_NEVER_MS = 10**9
"""A missing confirm of the journal is noticed by the journal itself, after a second."""


def _new_id() -> str:
    """Return 24 random hex digits, for copies of deliveries that have no message id."""
    return secrets.token_hex(12)


def ingress_session(
    app: App,
    publisher: Publisher,
    ingress: Consumer | PartitionConsumer,
    waiting_room: Consumer,
    crash: Crash,
    beside: ConnectionBeside,
) -> IngressSession:
    """Return the work on the ingress queue and the waiting room; the journal is written *beside*."""
    settings = app.settings
    consumers = {**dict.fromkeys(ingress.queues, ingress), contract.WAITING: waiting_room}

    def acknowledge(deliveries: Sequence[Delivery]) -> None:
        for queue, those in groupby(deliveries, attrgetter("queue")):
            consumers[queue].settle_all(those)

    def let_go(deliveries: Sequence[Delivery]) -> Sequence[Callable[[], None]]:
        groups = groupby(deliveries, attrgetter("queue"))
        return [acknowledge for queue, those in groups for acknowledge in consumers[queue].let_go(those)]

    journal = _journal(app, publisher, beside, let_go) if settings.journal else None
    tracing = None if app.traces is None else app.traces.session(app.clock)
    observers: list[Listener] = [] if tracing is None else [tracing]
    is_ordered = settings.ingress_order and contract.INGRESS not in ingress.queues
    order = _key_order(app, len(ingress.queues)) if is_ordered else None
    if order is not None:
        observers.append(order)
    settlement = Settlement(acknowledge, app.reporter, app.clock, journal, _listeners(app), observers)
    reading = Reading(
        Senders(settings.sender_users, app.trusted_users),
        max_message_bytes=settings.max_message_bytes,
        event_names=settings.event_names,
        tracing=tracing,
    )
    copies = _copies(app, publisher, settlement, crash, tracing, order)
    share = StoreShare(app.clock, crash)
    storing = _storing(app, copies, settlement, reading, share, crash)
    finder = _finder(app, crash)
    publishing_events = Publishing(
        publisher=publisher,
        reading=reading,
        finder=finder,
        storing=storing,
        copies=copies,
        settlement=settlement,
        clock=app.clock,
        reporter=app.reporter,
        crash=crash,
        bundle=settings.batch_size,
        # One for each batch in progress, one for the waiting room's, and those of lookups.
        at_once=settings.batches_in_flight + 1 + LOOKUPS_AT_ONCE,
        on_returned=app.event_returned,
    )
    pipeline = Pipeline(
        reading=reading,
        finder=finder,
        publishing=publishing_events,
        storing=storing,
        copies=copies,
        share=share,
        clock=app.clock,
        reporter=app.reporter,
        crash=crash,
        bundle=settings.batch_size,
    )
    return IngressSession(
        ingress=ingress,
        waiting_room=waiting_room,
        pipeline=pipeline,
        storing=storing,
        share=share,
        settlement=settlement,
        settings=settings,
        clock=app.clock,
        crash=crash,
        pause=app.pause,
        order=order,
        has_lost_broker=app.metrics.sessions > 0,
    )


def mover(app: App, publisher: Publisher, consumer: Consumer) -> Mover:
    """Return what moves on to the partitions what *consumer* takes."""
    return Mover(
        consumer=consumer,
        publisher=publisher,
        keys=PartitionKeys(app.trusted_users, app.settings.max_message_bytes),
        pause=app.pause,
        reporter=app.reporter,
        new_id=_new_id,
        on_moved=app.metrics.count_moved,
    )


async def send_receipts(app: App, publishing: Connection, connect: Callable[[], Awaitable[Connection]]) -> None:
    """Send receipts until cancelled, on connections that *connect* opens: their addresses are the choice of strangers.

    RabbitMQ ends a connection for a direct reply that is made up, and for a stream whose coordinator is away (541).
    """

    async def open_channel() -> ReceiptPublisher:
        connection = await connect()
        try:
            return await ReceiptPublisher.open(connection, user_id=app.own_user, count=app.reporter.receipts)
        except BaseException:
            await connection.close()
            raise

    await app.receipts.run(open_channel, lambda: publishing.is_open)


def conversation_jobs(
    app: App, consuming: Connection, publishing: Connection, publisher: Publisher
) -> list[Coroutine[None, None, None]]:
    """Return what keeps the registry and the conversation exchanges.

    Exchanges are declared where we publish: on *consuming* a reply may be behind deliveries that are not read yet.
    """
    registry = Registry(app.store, app.unreadable)
    convergence = Convergence(registry, ConversationExchanges(publishing))
    reaper = Reaper(
        registry=registry,
        convergence=convergence,
        gate=app.gates["lifecycle"],
        grace_ms=app.settings.conversation_grace_ms,
        clock=app.clock,
        reporter=app.reporter,
    )
    reconciler = ExchangeReconciler(
        registry=registry,
        convergence=Convergence(registry, ConversationExchanges(publishing)),
        reaper=reaper,
        gate=app.gates["lifecycle"],
        seat=ReconcilerSeat(publishing, app.clock.monotonic),
        expiry_ms=delay_seconds(app.settings.conversation_expiry) * 1000,
        clock=app.clock,
        reporter=app.reporter,
    )
    consumer = LifecycleConsumer(
        open_queue=lambda: Consumer.open(consuming, contract.CONVERSATION_EVENTS, app.clock.monotonic),
        registry=registry,
        convergence=convergence,
        reaper=reaper,
        owe=reconciler.owe,
        publisher=publisher,
        gate=app.gates["lifecycle"],
        cache=app.cache,
        retry=app.retry,
        clock=app.clock,
        reporter=app.reporter,
        new_id=_new_id,
        random=random.random,
        trusted=app.trusted_users,
        on_end=app.replays.note,
    )
    app.on_event_returned = reconciler.returned
    return [consumer.run(), reaper.run(), reconciler.run()]


def recorder(app: App, connection: Connection, publisher: Publisher) -> DeadLetterRecorder:
    """Return what moves dead letters into the store."""
    return DeadLetterRecorder(
        open_queue=lambda: Consumer.open(connection, contract.DEAD_LETTERS, app.clock.monotonic),
        letters=app.letters,
        trusted=app.trusted_users,
        count_letters=app.letters.count,
        max_letters=app.settings.max_letters,
        delete_expired=app.letters.delete_expired,
        publisher=publisher,
        gate=app.gates["letters"],
        interval_ms=app.settings.record_interval_ms,
        clock=app.clock,
        reporter=app.reporter,
        new_id=_new_id,
    )


def _listeners(app: App) -> list[Listener]:
    """Return who is told the outcome of deliveries that somebody follows; each notes it and returns at once."""
    return [app.replays, app.receipts] if app.settings.receipts else [app.replays]


def _key_order(app: App, partitions: int) -> KeyOrder:
    settings, reporter = app.settings, app.reporter
    return KeyOrder(
        key_of=PartitionKeys(app.trusted_users, settings.max_message_bytes).of,
        windows=Windows.of(settings.prefetch, partitions),
        most_bytes=settings.max_bytes_in_flight // 4,
        seconds_of=delay_seconds,
        own_user=app.own_user,
        on_given_up=lambda delivery, key, reason: reporter.order_given_up(delivery.queue, key, reason),
    )


def _copies(
    app: App,
    publisher: Publisher,
    settlement: Settlement,
    crash: Crash,
    tracing: SpanTracing | None,
    order: KeyOrder | None,
) -> Copies:
    return Copies(
        tracing=tracing,
        order=order,
        publisher=publisher,
        retry=app.retry,
        settlement=settlement,
        clock=app.clock,
        reporter=app.reporter,
        crash=crash,
        new_id=_new_id,
        bundle=app.settings.batch_size,
        bundle_bytes=app.settings.max_bytes_in_flight // 2,
    )


def _storing(
    app: App, copies: Copies, settlement: Settlement, reading: Reading, share: StoreShare, crash: Crash
) -> Storing:
    return Storing(
        store=ActivityStore(app.store),
        gate=app.gates["activities"],
        copies=copies,
        settlement=settlement,
        reading=reading,
        share=share,
        clock=app.clock,
        reporter=app.reporter,
        crash=crash,
        bundle=app.settings.batch_size,
    )


def _finder(app: App, crash: Crash) -> ConversationFinder:
    return ConversationFinder(
        registry=Registry(app.store, app.unreadable),
        cache=app.cache,
        gate=app.gates["lookups"],
        clock=app.clock,
        crash=crash,
        bundle=app.settings.batch_size,
        reporter=app.reporter,
    )


def _journal(app: App, publisher: Publisher, beside: ConnectionBeside, let_go: LetGo) -> Journal:
    """Return the journal, on a connection of its own that ends nothing when it fails.

    When the node that coordinates streams has just died, RabbitMQ ends the connection of who publishes to one (541).
    """

    async def open_publisher() -> Publisher:
        return await Publisher.open(await beside.get(), confirm_timeout_ms=_NEVER_MS, user_id=app.own_user)

    return Journal(
        open_publisher=open_publisher,
        is_connected=lambda: not publisher.closed.done(),
        gap=app.journal_gap,
        let_go=let_go,
        worker=app.worker_name,
        outage=app.journal_outage,
        backoff=app.listener_backoff(),
        clock=app.clock,
        reporter=app.reporter,
    )
