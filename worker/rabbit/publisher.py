"""Confirmed, mandatory publishing in pipelined windows on one AMQP channel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import pika.exceptions

from worker import compiled
from worker.contract import PUBLISH
from worker.ports import Confirmation, Outgoing
from worker.rabbit.errors import BrokerError, ConfirmTimeout
from worker.rabbit.fitting import fit
from worker.rabbit.frames import HEADER_FRAME_OVERHEAD, encode_publish
from worker.rabbit.outstanding import Outstanding, Run
from worker.rabbit.probing import SizeLimit
from worker.rabbit.properties import PropertiesTemplate, cut, decode_properties, encode_properties, encode_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.rabbit.connection import Channel, Connection
    from worker.rabbit.outstanding import Settling

_RUN_BYTES = 64 * 1024
"""Frames are handed to the socket in runs of about this size: few system calls, little copying on a partial send."""
_REFUSED_SECONDS = 5.0
"""How long after a refusal the AMQP channel is renewed: RabbitMQ keeps telling an old one that a quorum queue is full,
for ever, when the limit that made it full was taken away."""


@dataclass(slots=True)
class _Window:
    """The publishes of one `publish` call that wait for their confirm."""

    confirmations: list[Confirmation]
    missing: int
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, index: int, count: int, confirmation: Confirmation) -> None:
        self.confirmations[index : index + count] = [confirmation] * count
        self.missing -= count
        if self.missing <= 0:
            self.done.set()


class Publisher:
    """Publishes on one confirm-mode channel until its connection ends. Not for two event loops."""

    def __init__(
        self,
        connection: Connection,
        channel: Channel,
        *,
        confirm_timeout_ms: int,
        max_outstanding: int,
        max_unsent_bytes: int,
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._confirm_timeout = confirm_timeout_ms / 1000
        self._max_outstanding = max_outstanding
        self._max_unsent_bytes = max_unsent_bytes
        self._user_id: str | None = None
        self._next_tag = 1
        self._pending = Outstanding()
        self._returned: set[int] = set()
        self._progress = asyncio.Event()
        self._lost = False
        self._lost_count = 0
        self._calls = 0
        self._sizes = SizeLimit(connection)
        self._frame_max = connection.raw.frame_max
        self._refused_at: float | None = None
        self._usable = asyncio.Event()
        self._usable.set()
        self._watch: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._adopt(channel)
        connection.closed.add_done_callback(lambda _: self._end(connection.closed))

    @classmethod
    async def open(
        cls,
        connection: Connection,
        *,
        confirm_timeout_ms: int = 30_000,
        max_outstanding: int = 4000,
        max_unsent_bytes: int = 16 * 1024 * 1024,
        user_id: str | None = None,
    ) -> Self:
        """Open a channel on *connection* and put it in confirm mode.

        *user_id*, if given, must be the connection's own user: the broker vouches for it on every message.
        """
        self = cls(
            connection,
            await _confirming_channel(connection),
            confirm_timeout_ms=confirm_timeout_ms,
            max_outstanding=max_outstanding,
            max_unsent_bytes=max_unsent_bytes,
        )
        self._user_id = user_id
        return self

    @property
    def closed(self) -> asyncio.Future[BrokerError]:
        """Done, with the reason, once nothing can be published any more."""
        return self._closed

    @property
    def is_waiting(self) -> bool:
        """Whether a `publish` waits for the broker: for a confirm, for its turn, or to hear which sizes are taken."""
        return self._calls > 0

    @property
    def settled(self) -> int:
        """Publishes that were confirmed, returned or refused; begins again at 0 when the channel is renewed."""
        return self._next_tag - 1 - len(self._pending) - self._lost_count

    async def publish(self, messages: Sequence[Outgoing]) -> list[Confirmation]:
        """Publish *messages* and wait until the effect of each is known.

        Returns confirmations in the order of *messages*. A message whose id is already in flight carries the header
        `cim-publish`, by which their returns are told apart. A confirm that does not come in time ends the connection
        and leaves every outstanding publish `UNKNOWN`; while the broker blocks publishers it keeps waiting.

        A body larger than the broker takes is not sent, and is `TOO_LARGE`; what it takes is asked on a channel apart.
        Headers too large for one frame of this connection are cut: fewer problems first, then shorter texts.
        Raises ValueError, OverflowError or AttributeError for a message that no frame can hold: a bug of the caller.
        """
        if not messages:
            return []
        self._calls += 1
        try:
            await self._renew_if_refused()
            window = _Window([Confirmation.UNKNOWN] * len(messages), len(messages))
            await self._send(messages, window)
            await self._wait(window.done, lambda: window.missing)
        finally:
            self._calls -= 1
        return window.confirmations

    def publish_now(self, messages: Sequence[Outgoing], window: Settling) -> bool:
        """Publish *messages* if nothing has to be waited for first, and tell *window* about each once it is known.

        Returns False, with nothing sent, when `publish` has to do it. What is promised there holds here as well.
        """
        if not self._can_send_at_once(messages):
            return False
        self._send_run(messages, window, 0)
        if self._watch is None:
            self._watch_progress()
        return True

    def _can_send_at_once(self, messages: Sequence[Outgoing]) -> bool:
        return (
            not self._lost
            and self._refused_at is None
            and self._usable.is_set()
            and len(self._pending) + len(messages) <= self._max_outstanding
            and self._connection.raw.unsent_bytes <= self._max_unsent_bytes
            and max(len(message.body) for message in messages) <= self._sizes.proven
        )

    def _watch_progress(self, settled_before: int | None = None) -> None:
        """While anything is outstanding, see to it that something is settled within each confirm timeout."""
        self._watch = None
        if not self._pending:
            return
        settled = None if self._connection.blocked_reason is not None else self.settled
        if settled is not None and settled == settled_before:
            self._give_up()
            return
        self._watch = asyncio.get_running_loop().call_later(self._confirm_timeout, self._watch_progress, settled)

    def _give_up(self) -> None:
        self._connection.abort(ConfirmTimeout(f"no confirm within {self._confirm_timeout:g} s"))
        self._lose_all()

    async def close(self) -> None:
        """Close the channel; outstanding publishes become `UNKNOWN`."""
        await self._channel.close()

    async def _send(self, messages: Sequence[Outgoing], window: _Window) -> None:
        """Send *messages* within the bounds, in runs: few system calls, little copying on a partial send."""
        await self._usable.wait()
        start = 0
        while start < len(messages) and not self._lost:
            end = self._end_of_run(messages, start)
            if end == start:  # what came before has gone out, and need not wait for the answer
                end += 1
                if not await self._admits(messages[start]):
                    window.settle(start, 1, Confirmation.TOO_LARGE)
                    start = end
                    continue
            if not self._lost:
                self._send_run(messages[start:end], window, start)
                start = end
            if start < len(messages):
                await self._wait_for_room()
                await self._usable.wait()
        if start < len(messages):
            window.settle(start, len(messages) - start, Confirmation.UNKNOWN)

    def _end_of_run(self, messages: Sequence[Outgoing], start: int) -> int:
        """Return before which message a run from *start* ends: *start* itself for one that has to be asked for."""
        size = 0
        for end in range(start, len(messages)):
            body = len(messages[end].body)
            if body > self._sizes.proven:
                return end
            size += body
            if size >= _RUN_BYTES:
                return end + 1
        return len(messages)

    async def _admits(self, message: Outgoing) -> bool:
        """Return whether the broker takes a body as large as this one; true also when the connection has ended."""
        answer = asyncio.ensure_future(self._sizes.admits(message.exchange, len(message.body)))
        answered = asyncio.Event()
        answer.add_done_callback(lambda _: answered.set())
        try:
            await self._wait(answered, lambda: self._connection.raw.unsent_bytes)
            await self._usable.wait()
            return answer.result()
        except BrokerError:
            return True
        finally:
            answer.cancel()

    def _adopt(self, channel: Channel) -> None:
        """Publish on *channel* from now on. Nothing may be outstanding: tags begin again."""
        self._channel = channel
        self._number = channel.raw.channel_number
        self._next_tag = 1
        self._refused_at = None
        self._connection.raw.attach(self._number, self)
        channel.closed.add_done_callback(lambda _: self._end(channel.closed) if channel is self._channel else None)

    def _end(self, reason: asyncio.Future[BrokerError]) -> None:
        self._lose_all()
        if not self._closed.done():
            self._closed.set_result(reason.result())

    async def _renew_if_refused(self) -> None:
        """Go on with a fresh AMQP channel when the broker began to refuse some time ago; others wait meanwhile."""
        now = asyncio.get_running_loop().time()
        if self._refused_at is None or now < self._refused_at + _REFUSED_SECONDS or not self._usable.is_set():
            return
        self._usable.clear()
        try:
            while self._pending:
                self._progress.clear()
                await self._wait(self._progress, lambda: len(self._pending))
            if not self._lost:
                old, fresh = self._channel, await _confirming_channel(self._connection)
                self._adopt(fresh)
                await old.close()
        except BrokerError:
            pass  # the connection ended, and `closed` says so
        finally:
            self._usable.set()

    def _send_run(self, messages: Sequence[Outgoing], window: Settling, index: int) -> None:
        """Send *messages*, the first of which has *index* in *window*; one that cannot be written ends the run."""
        messages, ids = self._told_apart(messages)
        run = self._encode_compiled(messages)
        if run is not None:
            self._track(Run(self._next_tag, ids, window, index), [run])
            return
        frames: list[bytes] = []
        try:
            frames.extend(map(self._encode, messages))
        finally:  # what was written before has its tag and must go out, or all later tags are wrong
            self._track(Run(self._next_tag, ids[: len(frames)], window, index), frames)

    def _track(self, run: Run, frames: list[bytes]) -> None:
        if run.ids:
            self._next_tag = run.end
            self._pending.add(run)
            self._flush(frames)

    def _told_apart(self, messages: Sequence[Outgoing]) -> tuple[Sequence[Outgoing], Sequence[str | None]]:
        """Return *messages* and the ids by which their returns are known; None for one that brings back its tag."""
        ids = [cut(message.message_id) for message in messages]
        if self._pending.are_new(ids):
            return messages, ids
        seen: set[str] = set()
        marked: list[Outgoing] = []
        kept: list[str | None] = []
        for tag, (message, message_id) in enumerate(zip(messages, ids, strict=True), self._next_tag):
            is_new = message_id not in seen and self._pending.tag_of(message_id) is None
            marked.append(message if is_new else message._replace(headers={**(message.headers or {}), PUBLISH: tag}))
            kept.append(message_id if is_new else None)
            seen.add(message_id)
        return marked, kept

    def _encode_compiled(self, messages: Sequence[Outgoing]) -> bytes | None:
        """Write all of *messages*, where that is compiled and nothing has to be cut, fitted or split; else None."""
        if compiled.frames is None:
            return None
        run: bytes | None = compiled.frames.publish_run(
            self._number, messages, self._frame_max, self._user_id, encode_table
        )
        return run

    def _encode(self, message: Outgoing) -> bytes:
        frame_max = self._frame_max
        properties = _usual_properties(message, self._user_id) or self._encode_properties(message, message.headers)
        if len(properties) > frame_max - HEADER_FRAME_OVERHEAD:
            properties = fit(
                lambda headers: self._encode_properties(message, headers),
                message.headers or {},
                frame_max - HEADER_FRAME_OVERHEAD,
            )
        return encode_publish(
            self._number,
            message.exchange,
            message.routing_key,
            properties,
            message.body,
            frame_max=frame_max,
        )

    def _encode_properties(self, message: Outgoing, headers: Mapping[str, str | int] | None) -> bytes:
        return encode_properties(
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            headers=headers,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            timestamp=message.timestamp,
            type_=message.type,
            app_id=message.app_id,
            user_id=self._user_id,
            reply_to=message.reply_to,
        )

    def _flush(self, run: list[bytes]) -> None:
        try:
            if run:
                self._connection.raw.send(run)
        except pika.exceptions.AMQPError:
            self._lose_all()

    async def _wait_for_room(self) -> None:
        while not self._lost and (
            len(self._pending) >= self._max_outstanding or self._connection.raw.unsent_bytes > self._max_unsent_bytes
        ):
            self._progress.clear()
            await self._wait(self._progress, lambda: (self._next_tag, len(self._pending)))

    async def _wait(self, event: asyncio.Event, state: Callable[[], object]) -> None:
        """Wait until *event* was set once, even if another task cleared it since.

        No change of *state* within the confirm timeout ends the connection, unless it is blocked.
        """
        while True:
            before = state(), self._connection.blocked_reason
            try:
                async with asyncio.timeout(self._confirm_timeout):
                    await event.wait()
            except TimeoutError:
                if before == (state(), None) and self._connection.blocked_reason is None:
                    self._give_up()
            else:
                return

    def _lose_all(self) -> None:
        self._lost = True
        self._lost_count += len(self._pending)
        for run in self._pending.take_all():
            run.window.settle(run.index, len(run.ids), Confirmation.UNKNOWN)
        self._progress.set()

    def on_confirm(self, tag: int, multiple: bool, positive: bool) -> None:  # noqa: FBT001 - fixed by Sink
        """Settle the publishes a confirm speaks of; tags settled before, or never seen, are ignored."""
        for run in self._pending.take(tag, multiple=multiple):
            if positive and not self._returned:
                run.window.settle(run.index, len(run.ids), Confirmation.CONFIRMED)
            else:
                for offset in range(len(run.ids)):
                    confirmation = self._confirmation(run.first + offset, positive=positive)
                    run.window.settle(run.index + offset, 1, confirmation)
        self._progress.set()

    def _confirmation(self, tag: int, *, positive: bool) -> Confirmation:
        if tag in self._returned:
            self._returned.discard(tag)
            return Confirmation.RETURNED
        if positive:
            return Confirmation.CONFIRMED
        if self._refused_at is None:
            self._refused_at = asyncio.get_running_loop().time()
        return Confirmation.NACKED

    def on_return(self, exchange: str, routing_key: str, properties: bytes) -> None:  # noqa: ARG002 - fixed by Sink
        """Note that the publish with this message id, or `cim-publish`, reached no queue; its confirm follows."""
        returned = decode_properties(properties)
        tag = returned.headers.get(PUBLISH) or self._pending.tag_of(returned.message_id or "")
        if self._pending.holds(tag):
            self._returned.add(tag)

    def on_deliver(self, *_: object) -> None:
        """Never called: nothing is consumed on a publishing channel."""

    def on_read(self) -> None:
        """Nothing to do: confirms are settled one by one."""


def _usual_properties(message: Outgoing, user_id: str | None) -> bytes | None:
    """Return the properties of a message that has those of an event and no headers; None for others."""
    _, _, message_id, _, correlation_id, type_, app_id, timestamp, content_type, encoding, headers, reply_to = message
    if headers or encoding is not None or reply_to is not None:
        return None
    if correlation_id is None or timestamp is None or type_ is None or app_id is None or content_type is None:
        return None
    return _template(content_type, type_, app_id, user_id).write(message_id, correlation_id, timestamp)


@lru_cache(maxsize=64)
def _template(content_type: str, type_: str, app_id: str, user_id: str | None) -> PropertiesTemplate:
    return PropertiesTemplate(content_type=content_type, type_=type_, app_id=app_id, user_id=user_id)


async def _confirming_channel(connection: Connection) -> Channel:
    channel = await connection.channel()
    await channel.call("confirm_delivery", lambda _: None)
    return channel
