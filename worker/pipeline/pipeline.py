"""Brings batches of deliveries on their way to their outcomes; the picture is in the package's docstring.

The order is always: effect proven, then settled. What cannot be proven stays unsettled and comes again; that is
harmless because event ids are stable. Nothing that waits holds up what need not wait: lookups, writes and copies have
lanes of their own. Nothing here knows AMQP or MongoDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.cim import Identity
from worker.codes import Stage
from worker.failure import classify
from worker.flow.lane import Lane
from worker.pipeline.inbound import Inbound
from worker.pipeline.publishing import SEND_BYTES
from worker.pipeline.store_share import BEHIND
from worker.pipeline.translate import Destination

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from worker.failure import Failure
    from worker.flow.tasks import Crash
    from worker.pipeline.copies import Copies
    from worker.pipeline.finder import ConversationFinder
    from worker.pipeline.publishing import Publishing
    from worker.pipeline.reading import Reading
    from worker.pipeline.store_share import StoreShare
    from worker.pipeline.storing import Storing
    from worker.ports import Clock, Delivery, Reporter

LOOKUPS_AT_ONCE: Final = 4
_LOOKUP_BYTES: Final = 2 * 1024 * 1024
_LATE_SECONDS: Final = 1.0
"""A message whose lookup has waited this long, with half the window, waits in vain for a registry that answers."""
_PARSED_BYTES: Final = 2 * 1024 * 1024
"""Bodies that may wait for their lookup with their parsed message; those beyond are parsed again after it."""


class Pipeline:
    """Brings deliveries to their one outcome. Lives as long as one broker session; `stop` drops what is unsettled."""

    def __init__(
        self,
        *,
        reading: Reading,
        finder: ConversationFinder,
        publishing: Publishing,
        storing: Storing,
        copies: Copies,
        share: StoreShare,
        clock: Clock,
        reporter: Reporter,
        crash: Crash,
        bundle: int,
    ) -> None:
        """Look conversations up for at most *bundle* messages at once; what waits for that counts towards *share*."""
        self._reading = reading
        self._finder = finder
        self._publishing = publishing
        self._storing = storing
        self._copies = copies
        self._clock = clock
        self._reporter = reporter
        self._parsed_bytes = 0
        self._share = share
        self._lookups = self._lane("lookup", self._look_up, LOOKUPS_AT_ONCE, bundle, crash)
        self._unanswered = self._lane("unanswered", self._go_on_unanswered, 1, bundle, crash)
        share.join(self._lookups, patience=_LATE_SECONDS, let_go=self._let_go)

    @staticmethod
    def _lane(
        name: str,
        handle: Callable[[list[Inbound]], Coroutine[None, None, None]],
        at_once: int,
        bundle: int,
        crash: Crash,
    ) -> Lane[Inbound]:
        return Lane(
            name,
            handle,
            bundle=bundle,
            at_once=at_once,
            size_of=lambda inbound: len(inbound.delivery.body),
            bundle_bytes=_LOOKUP_BYTES,
            on_bug=crash.report,
            queued_at=lambda inbound: inbound.queued_at,
        )

    async def process(self, batch: Sequence[Delivery]) -> None:
        """Bring a batch on its way.

        On return every event for the hub is settled, of unknown effect, or waits for its turn because confirms stay
        out; the rest is in its lane. Never raises for a message; cancel it to abandon the batch.
        """
        started = reading_since = self._clock.monotonic()
        now, write = self._clock.now_ms(), not self._publishing.is_full
        routed = _Routed()
        to_look_up: list[Inbound] = []
        for delivery in batch:  # each to its end while it is in the processor's cache, and its message gone then
            inbound = self._read(delivery, now)
            if inbound is None:
                continue
            if not self._finder.remembers(inbound):
                inbound.queued_at = started
                self._keep_small(inbound)
                to_look_up.append(inbound)
            elif routed.add(inbound, self._route(inbound, now, write=write)):
                paused = self._clock.monotonic()
                await self._send(routed)
                write = not self._publishing.is_full
                reading_since += self._clock.monotonic() - paused
        self._reporter.stage("read", self._clock.monotonic() - reading_since)
        if to_look_up:
            self._ask_for(to_look_up)
        self._store(routed)
        await self._publishing.publish(routed.take_live())
        self._reporter.batch(
            "ingress",
            len(batch),
            self._clock.monotonic() - started,
            hub=routed.published,
            store=routed.stored,
            lookup=len(to_look_up),
        )

    @property
    def finds_conversations(self) -> bool:
        """Whether the registry answers, as far as known."""
        return self._finder.is_usable

    @property
    def is_late(self) -> bool:
        """Whether the confirms of what is for the hub stay out: the next batch should not wait for them."""
        return self._publishing.is_late

    async def stop(self) -> None:
        """Abandon all that is in progress; unsettled deliveries come again."""
        self._share.stop()
        await self._lookups.cancel()
        await self._unanswered.cancel()
        await self._finder.stop()
        await self._publishing.stop()
        await self._storing.stop()
        await self._copies.cancel()

    # -- read and look up -----------------------------------------------------------------------------------------

    def _read(self, delivery: Delivery, now: int) -> Inbound | None:
        """Parse and validate; what is invalid goes to the dead letters and never further."""
        try:
            read = self._reading.read(delivery, now)
        except Exception as error:  # noqa: BLE001 - a bug in the contract must not stop the neighbours
            self._copies.retry_or_give_up(delivery, Identity(), classify(error, Stage.VALIDATE))
            return None
        if isinstance(read, Inbound):
            return read
        self._copies.dead_letter(delivery, read.identity, read.failure)
        return None

    def _keep_small(self, inbound: Inbound) -> None:
        """Drop the parsed message when too many wait: it takes many times the memory of its bytes."""
        size = len(inbound.delivery.body)
        if self._parsed_bytes + size > _PARSED_BYTES:
            inbound.drop_parsed()
        else:
            self._parsed_bytes += size

    def _ask_for(self, inbounds: list[Inbound]) -> None:
        """Have conversations looked up, unless the registry does not keep up and others wait for it in vain."""
        if self._share.is_behind(self._lookups):
            self._let_go(inbounds)
        else:
            self._lookups.add(inbounds)
        self._share.watch()

    def _let_go(self, inbounds: list[Inbound]) -> None:
        """Let *inbounds* go on as while the registry is away; those that waited in the broker stay."""
        self._unanswered.add([inbound for inbound in inbounds if not inbound.has_waited])
        self._lookups.add([inbound for inbound in inbounds if inbound.has_waited])

    async def _look_up(self, inbounds: list[Inbound]) -> None:
        """Ask the registry; while it is away, a message that names its conversation goes on: the hub decides."""
        try:
            unanswered = await self._finder.ask_registry(inbounds)
        except Exception as error:  # noqa: BLE001 - a bug must not stop the other lookups
            failure = classify(error, Stage.ROUTE)
            self._parsed_bytes -= sum(len(one.delivery.body) for one in inbounds if one.message is not None)
            for inbound in inbounds:
                self._copies.retry_or_give_up(inbound.delivery, inbound.identity, failure)
            return
        await self._go_on(inbounds, unanswered)

    async def _go_on_unanswered(self, inbounds: list[Inbound]) -> None:
        await self._go_on(inbounds, BEHIND)

    async def _go_on(self, inbounds: list[Inbound], unanswered: Failure | None) -> None:
        """Route what was looked up. If it was not answered, what names no conversation waits in the broker."""
        self._parsed_bytes -= sum(len(one.delivery.body) for one in inbounds if one.message is not None)
        now, write = self._clock.now_ms(), not self._publishing.is_full
        routed = _Routed()
        for inbound in inbounds:
            if unanswered is not None and not self._finder.can_go_on(inbound):
                self._copies.wait(inbound.delivery, inbound.identity, unanswered)
            elif routed.add(inbound, self._route(inbound, now, write=write)):
                await self._send(routed)
                write = not self._publishing.is_full
        await self._send(routed)

    # -- route and publish ----------------------------------------------------------------------------------------

    async def _send(self, routed: _Routed) -> None:
        """Store and publish; neither what goes to the store nor what follows waits long for the confirms."""
        self._store(routed)
        await self._publishing.begin(routed.take_live())

    def _store(self, routed: _Routed) -> None:
        if for_store := routed.take_for_store():
            self._storing.add(for_store)

    def _route(self, inbound: Inbound, now: int, *, write: bool) -> Destination | None:
        try:
            return self._reading.route(inbound, now, write=write)
        except Exception as error:  # noqa: BLE001 - a bug must not stop the neighbours
            self._copies.retry_or_give_up(inbound.delivery, inbound.identity, classify(error, Stage.TRANSLATE))
            return None


class _Routed:
    """Where the messages of one batch go."""

    __slots__ = ("_for_store", "_live", "_size", "published", "stored")

    def __init__(self) -> None:
        self.published = 0
        """How many were taken to be published."""
        self.stored = 0
        """How many were taken to be stored."""
        self._live: list[Inbound] = []
        self._for_store: list[Inbound] = []
        self._size = 0

    def add(self, inbound: Inbound, destination: Destination | None) -> bool:
        """Add a message, unless it failed (None); return whether it is time to take them: they are many bytes."""
        if destination is Destination.HUB:
            self._live.append(inbound)
        elif destination is Destination.STORE:
            self._for_store.append(inbound)
        else:
            return False
        self._size += inbound.size
        return self._size > SEND_BYTES

    def take_live(self) -> list[Inbound]:
        """Take what is to be published."""
        live, self._live, self._size = self._live, [], 0
        self.published += len(live)
        return live

    def take_for_store(self) -> list[Inbound]:
        """Take what is to be stored."""
        for_store, self._for_store = self._for_store, []
        self.stored += len(for_store)
        return for_store
