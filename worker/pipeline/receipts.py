"""Receipts: the outcome, told to a publisher that asked for it with `reply_to`.

The worker's right to the default exchange reaches every queue of its virtual host, so a receipt goes only to RabbitMQ's
direct reply-to or to a queue whose name is allowed. Nothing waits for a receipt: what cannot be sent now waits in a
bounded buffer, and every one that does not arrive, as far as that can be known, is counted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from worker import contract
from worker.dead_letters.envelope import problem_entries, shortened
from worker.dead_letters.provenance import reply_to
from worker.failure import AdapterError
from worker.flow.tasks import cancel_and_wait
from worker.outcome import Outcome
from worker.ports import Outgoing, ReceiptResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.flow.backoff import Backoff
    from worker.pipeline.settlement import Settled
    from worker.ports import Clock, Properties, Reporter

_MOST_BYTES: Final = 4 * 1024 * 1024
"""Bytes of receipts that wait for a broker that takes none: some ten thousand."""
_MAX_NAME_BYTES: Final = 255
"""A longer one is no name: bytes that are no UTF-8 were replaced in it."""
_LONG: Final = 4096
"""Bytes of a receipt, seldom more. In a longer one long ids are cut to what a header holds: as long as a message, they
would make the broker end the channel of everybody's receipts, or leave no room in the buffer for those of others."""
_KNOWN_ADDRESSES: Final = 2000
"""Publishers ask again and again at the same address: what may go there is decided once for so many."""
_AT_ONCE: Final = 1000
_FEW: Final = 10
"""Where more were sent at once, the next ones gather for `_PAUSE_SECONDS`: sending, and each confirm, has its price."""
_PAUSE_SECONDS: Final = 0.005
_REMINDER_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 0.5
"""How long the end of a session waits for the receipts of its last outcomes to be sent."""
_DELAYED: Final = "delayed"
_ALL: Final = "all"
_PROVISIONAL: Final = frozenset({Outcome.RETRY, Outcome.WAITING})
_OURS: Final = (
    contract.INGRESS,
    contract.DEAD_LETTERS,
    contract.CONVERSATION_EVENTS,
    contract.OUTCOMES,
    contract.RECONCILER,
)


_BODY: Final = attrgetter("body")


class _Document(msgspec.Struct, rename="camel", gc=False):
    """What a receipt says; a structure is written in less time than a dictionary."""

    outcome: str
    event_id: str | None
    message_id: str | None
    conversation_id: str | None
    reason: str | None
    code: str | None
    problems: Sequence[Any]
    at: int


_text: Final = str.__str__
"""An outcome as plain text; its `value` takes five times as long."""
_encode: Final = msgspec.json.Encoder().encode


class ReceiptChannel(Protocol):
    """Sends receipts and counts what becomes of each. Methods raise `BrokerError` once it has ended."""

    async def ready(self) -> None:
        """Wait until receipts can be sent without holding up anything else."""

    def send(self, receipts: Sequence[Outgoing]) -> None:
        """Send *receipts* without waiting for anything; all of them, or, when it raises, none."""

    async def end(self) -> None:
        """Count as unknown what was sent and not confirmed, and free what it holds. Never raises."""


OpenChannel = Callable[[], Awaitable[ReceiptChannel]]


class Receipts:
    """Notes receipts, and sends them in each session. Lives as long as the process; no method raises."""

    def __init__(self, *, queues: str, clock: Clock, reporter: Reporter, new_backoff: Callable[[], Backoff]) -> None:
        """Allow direct reply-to and names that the regular expression *queues* is found in; none if that is empty."""
        self._allowed = re.compile(queues) if queues else None
        self._clock = clock
        self._reporter = reporter
        self._named, self._direct = (_Outbox(clock, reporter, new_backoff()) for _ in range(2))
        self._outbox = lru_cache(maxsize=_KNOWN_ADDRESSES)(self._outbox_of)

    def settled(self, settled: Settled) -> None:
        """Note the receipt for one outcome, if its publisher wants one and may have it there."""
        properties = settled.delivery.properties
        address = reply_to(properties)
        if address is None:
            return
        is_final = settled.outcome not in _PROVISIONAL
        if not is_final and properties.headers.get(contract.RECEIPTS) != _ALL:
            return
        outbox = self._outbox(address)
        if outbox is None:
            self._reporter.receipts(ReceiptResult.ADDRESS_REFUSED, 1)
            return
        outcome = _text(settled.outcome) if is_final else _DELAYED
        outbox.add(_receipt(settled, properties, address, outcome, self._clock.now_ms()))

    async def run(self, open_channel: OpenChannel, is_connected: Callable[[], bool]) -> None:
        """Send what is noted until cancelled: to named queues through one channel, direct replies through another.

        An address of a direct reply that is made up, or of a node that has left, makes brokers before 4.0 end the whole
        connection, and so does a named stream that has no leader: so *open_channel* opens each on a connection of its
        own. Failures are reported while *is_connected*: otherwise the outage is the broker's.
        """
        await asyncio.gather(self._named.run(open_channel, is_connected), self._direct.run(open_channel, is_connected))

    async def finish(self, task: asyncio.Task[None], is_connected: Callable[[], bool]) -> None:
        """End *task*, which runs `run`; while *is_connected*, the last receipts have half a second to be sent.

        What is left waits for the next session.
        """
        deadline = self._clock.monotonic() + _LAST_SECONDS
        while self._named.waits or self._direct.waits:
            if not is_connected() or self._clock.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        await cancel_and_wait([task])

    def _outbox_of(self, address: str) -> _Outbox | None:
        """Return where a receipt for *address* goes out; None if it may not go there."""
        if len(address.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
            return None
        if address.startswith(contract.DIRECT_REPLY_TO):
            return self._direct
        is_allowed = self._allowed is not None and self._allowed.search(address) is not None
        is_ours = any(address == name or address.startswith(f"{name}.") for name in _OURS)
        return self._named if is_allowed and not is_ours else None


class _Outbox:
    """Receipts of one kind that wait to be sent, within a bound."""

    def __init__(self, clock: Clock, reporter: Reporter, backoff: Backoff) -> None:
        self._clock = clock
        self._reporter = reporter
        self._backoff = backoff
        self._waiting: list[Outgoing] = []
        self._bytes = 0
        self._work = asyncio.Event()
        self._said_at: float | None = None

    @property
    def waits(self) -> bool:
        """Whether there is a receipt to send."""
        return bool(self._waiting)

    def add(self, receipt: Outgoing) -> None:
        """Send *receipt* soon; drop and count it when too much waits."""
        size = len(receipt.body)
        if self._bytes + size > _MOST_BYTES:
            self._reporter.receipts(ReceiptResult.DROPPED, 1)
            return
        self._bytes += size
        if not self._waiting:
            self._work.set()
        self._waiting.append(receipt)

    async def run(self, open_channel: OpenChannel, is_connected: Callable[[], bool]) -> None:
        """Send what waits until cancelled, through what *open_channel* returns, opened when there is something."""
        channel: ReceiptChannel | None = None
        try:
            while True:
                await self._work.wait()
                try:
                    channel = channel or await open_channel()
                    if await self._send(channel) > _FEW:
                        await asyncio.sleep(_PAUSE_SECONDS)
                except Exception as error:  # noqa: BLE001 - whatever is wrong with receipts, the work goes on
                    ended, channel = channel, None
                    if ended is not None:
                        await ended.end()
                    if is_connected():
                        self._interrupted(str(error) or type(error).__name__)
                    await asyncio.sleep(self._backoff.next())
        finally:
            if channel is not None:
                await channel.end()

    async def _send(self, channel: ReceiptChannel) -> int:
        """Send some of what waits, and return how many that were."""
        await channel.ready()
        batch = self._waiting[:_AT_ONCE]
        try:
            channel.send(batch)
        except AdapterError:
            raise
        except Exception:  # a receipt that cannot be written must not be tried for ever
            self._take(batch)
            self._reporter.receipts(ReceiptResult.DROPPED, len(batch))
            raise
        self._take(batch)
        self._backoff.reset()
        return len(batch)

    def _take(self, batch: Sequence[Outgoing]) -> None:
        del self._waiting[: len(batch)]
        self._bytes -= sum(map(len, map(_BODY, batch)))
        if not self._waiting:
            self._work.clear()

    def _interrupted(self, reason: str) -> None:
        now = self._clock.monotonic()
        if self._said_at is None or now - self._said_at >= _REMINDER_SECONDS:
            self._said_at = now
            self._reporter.warn("receipts_interrupted", reason=reason)


def _receipt(settled: Settled, properties: Properties, address: str, outcome: str, now: int) -> Outgoing:
    identity, failure = settled.identity, settled.failure
    event_id = identity.event_id
    document = _Document(
        outcome,
        event_id,
        identity.message_id,
        identity.conversation_id,
        settled.reason,
        None if failure is None else failure.code.value,
        () if failure is None else problem_entries(failure.problems),
        now,
    )
    body = _encode(document)
    if len(body) > _LONG:
        document.message_id, document.conversation_id = _cut(document.message_id), _cut(document.conversation_id)
        body = _encode(document)
    return Outgoing(
        "",
        address,
        f"{event_id or properties.message_id or ''}.{outcome}",
        body,
        properties.correlation_id or properties.message_id,
        contract.RECEIPT,
        contract.APP_ID,
        now // 1000,
    )


def _cut(text: str | None) -> str | None:
    return None if text is None else shortened(text)
