"""One AMQP connection on the running asyncio loop: pika's callbacks turned into awaitables, its errors into ours."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from typing import TYPE_CHECKING, Any, Self

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from worker import __version__
from worker.rabbit.errors import (
    ACCESS_REFUSED,
    VHOST_NOT_ALLOWED,
    AccessRefused,
    BrokerError,
    BrokerUnreachable,
    ChannelClosed,
    ConnectionLost,
)
from worker.rabbit.fast_path import FramingConnection

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.asyncio_connection import AsyncioConnection
    from pika.channel import Channel as PikaChannel

_LEAST_SECONDS = 0.1
_FAREWELL_SECONDS, _FAILED_FAREWELL_SECONDS, _BLOCKED_FAREWELL_SECONDS = 5.0, 1.0, 0.2
_CHANNELS = 16
"""Channels that one of our connections may need, with room to spare."""


class Connection:
    """An open AMQP connection. Build it with `open`; it never reconnects by itself."""

    def __init__(self, raw: FramingConnection, url: str, max_bytes_in_hand: int | None = None) -> None:
        self._raw = raw
        self.url = url
        """The address it was opened with, of one node; holds the password."""
        self._max_bytes_in_hand = max_bytes_in_hand
        self._bytes_in_hand = 0
        self._largest_run = 0
        self._paused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_closing: list[Callable[[bool], object]] = []
        """Called before we close the connection, with whether the work on it failed."""
        self.closed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        """Done, with the reason as its result, once the connection has ended."""
        self.blocked_reason: str | None = None
        """Why the broker has stopped reading from this connection (a resource alarm), or None."""
        self.on_blocked_change: Callable[[str | None], None] = lambda _reason: None
        raw.add_on_connection_blocked_callback(lambda _, frame: self._set_blocked(frame.method.reason))
        raw.add_on_connection_unblocked_callback(lambda _, __: self._set_blocked(None))

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        heartbeat_seconds: int = 20,
        ca_file: str | None = None,
        timeout_seconds: float = 10,
        max_bytes_in_hand: int | None = None,
        avoid: str | None = None,
    ) -> Self:
        """Open a connection.

        Args:
            url: amqp:// or amqps:// address; certificates and host names are checked for amqps. Several, comma
                separated, are nodes of one cluster: they are tried in a random order, each with its share of the time
                that is left, so that one that is frozen does not hide the others.
            name: shown in the broker's connection list.
            heartbeat_seconds: heartbeat interval offered to the broker.
            ca_file: PEM file of trusted authorities; None means the system's.
            timeout_seconds: longest the whole opening may take.
            max_bytes_in_hand: when deliveries hold this many bytes of bodies, the socket is not read until they hold
                half of it; None means no bound.
            avoid: one of the addresses, to be tried last: its node did not answer a moment ago.

        Raises:
            BrokerUnreachable: nobody answers, or TLS fails.
            AccessRefused: credentials or virtual host refused, or the address cannot be used.
        """
        urls = url.split(",")
        random.shuffle(urls)
        urls.sort(key=lambda one: one != avoid)  # the last one is tried first
        ends_at = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            share = max(_LEAST_SECONDS, ends_at - asyncio.get_running_loop().time()) / len(urls)
            try:
                one = urls.pop()
                parameters = _parameters(one, name, heartbeat_seconds, ca_file, share)
                return await cls._open(parameters, one, share, max_bytes_in_hand)
            except BrokerUnreachable:
                if not urls:
                    raise

    @classmethod
    async def _open(
        cls, parameters: pika.URLParameters, url: str, timeout_seconds: float, max_bytes_in_hand: int | None
    ) -> Self:
        opened: asyncio.Future[FramingConnection] = asyncio.get_running_loop().create_future()
        self: list[Connection] = []

        def on_close(_: AsyncioConnection, reason: BaseException) -> None:
            if self:
                self[0]._end(reason)  # noqa: SLF001 - the callback belongs to the class

        raw = FramingConnection(
            parameters,
            on_open_callback=lambda connection: _resolve(opened, connection),
            on_open_error_callback=lambda closed, error: _fail(opened, _opening_error(error, closed.closed_by_broker)),
            on_close_callback=on_close,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                await opened
        except TimeoutError:
            _abandon(raw)
            msg = f"no answer within {round(timeout_seconds, 1):g} s"
            raise BrokerUnreachable(msg) from None
        except BaseException:
            if opened.cancelled() or not opened.done():
                _abandon(raw)
            raise
        self.append(cls(raw, url, max_bytes_in_hand))
        return self[0]  # type: ignore[return-value]

    @property
    def raw(self) -> FramingConnection:
        """The pika connection, for the fast path in this package only."""
        return self._raw

    @property
    def is_open(self) -> bool:
        """Whether AMQP operations can be sent now."""
        return not self.closed.done() and self._raw.is_open

    @property
    def is_paused(self) -> bool:
        """Whether its socket is not read, because its deliveries hold too many bytes."""
        return self._paused.done()

    @property
    def heartbeat_seconds(self) -> int:
        """The interval of heartbeats that both sides agreed on; 0: none."""
        return int(self._raw.params.heartbeat or 0)

    @property
    def server_version(self) -> tuple[int, ...]:
        """The broker's version, from its own words; (0,) if it does not say."""
        version = str((self._raw.server_properties or {}).get("version", "0"))
        return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal()) or (0,)

    def hold(self, size: int) -> None:
        """Count *size* bytes of bodies that one read completed; at the bound, pause until enough is released."""
        self._bytes_in_hand += size
        self._largest_run = max(self._largest_run, size)
        if self._max_bytes_in_hand is not None and self._bytes_in_hand >= self._max_bytes_in_hand:
            self._raw.pause_reading(self._largest_run)
            _resolve(self._paused, None)

    def release(self, size: int) -> None:
        """Count *size* bytes of bodies that are in hand no more; at half the bound, read again."""
        self._bytes_in_hand -= size
        if self._paused.done() and self._bytes_in_hand <= (self._max_bytes_in_hand or 0) // 2:
            self._paused = asyncio.get_running_loop().create_future()
            self._raw.resume_reading()

    async def unless_paused(self, reply: asyncio.Future[None]) -> None:
        """Wait for *reply*, but not while reading is paused: it may be behind deliveries that cannot be read."""
        await asyncio.wait([reply, self._paused], return_when=asyncio.FIRST_COMPLETED)

    async def channel(self) -> Channel:
        """Open an AMQP channel.

        Raises `BrokerError` if the connection ends meanwhile, `AccessRefused` if the broker allows no more channels.
        """
        if not self.is_open:
            raise self._reason()
        opened: asyncio.Future[PikaChannel] = asyncio.get_running_loop().create_future()
        try:
            raw = self._raw.channel(on_open_callback=lambda channel: _resolve(opened, channel))
        except pika.exceptions.NoFreeChannels:
            most = self._raw.params.channel_max
            msg = f"the broker allows {most} channels for each connection; set channel_max to {_CHANNELS} or more there"
            raise AccessRefused(msg) from None
        self._raw.detach(raw.channel_number)  # an earlier channel of this number may have been taken over
        channel = Channel(raw)
        await _first(opened, channel.closed)
        return channel

    async def close(self, *, failed: bool = False) -> None:
        """Close politely and wait for the end, at most five seconds, one after a failure; a dead peer does not keep us.

        A broker that has stopped reading from us, because of a resource alarm, is not waited for: it cannot answer.

        Consumers hand back what they hold; *failed* as in `Consumer.hand_back`.
        """
        for call in self.on_closing:
            call(failed)
        if self._raw.is_open:
            with contextlib.suppress(pika.exceptions.ConnectionWrongStateError):
                self._raw.close()
        if not self.closed.done():
            await asyncio.wait([self.closed], timeout=self._farewell_seconds(failed=failed))
        if not self.closed.done():
            self.abort(ConnectionLost("the broker did not answer the close"))

    def _farewell_seconds(self, *, failed: bool) -> float:
        if self.blocked_reason is not None:
            return _BLOCKED_FAREWELL_SECONDS
        return _FAILED_FAREWELL_SECONDS if failed else _FAREWELL_SECONDS

    def abort(self, reason: BrokerError) -> None:
        """Drop the connection at once, without the AMQP farewell; what was unconfirmed is of unknown effect."""
        self._end(reason)
        _abandon(self._raw)

    def _reason(self) -> BrokerError:
        return self.closed.result() if self.closed.done() else ConnectionLost("the connection is closing")

    def _end(self, reason: BaseException) -> None:
        if not self.closed.done():
            self.closed.set_result(reason if isinstance(reason, BrokerError) else _loss(reason))

    def _set_blocked(self, reason: str | bytes | None) -> None:
        self.blocked_reason = reason.decode(errors="replace") if isinstance(reason, bytes) else reason
        self.on_blocked_change(self.blocked_reason)


class Channel:
    """An open AMQP channel whose synchronous methods are awaited with `call`."""

    def __init__(self, raw: PikaChannel) -> None:
        self.raw = raw
        self.closed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        """Done, with the reason as its result, once the channel has ended."""
        raw.add_on_close_callback(self._on_close)

    async def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Run a pika channel method that has a `callback`, such as `queue_declare`, and return the reply's method.

        Raises:
            ChannelClosed: the broker said no and closed the channel.
            AccessRefused: it said no for lack of permission.
            ConnectionLost: the connection ended before the reply.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            getattr(self.raw, method)(*args, callback=lambda frame: _resolve(reply, frame), **kwargs)
        except (pika.exceptions.ChannelWrongStateError, pika.exceptions.ConnectionWrongStateError):
            raise (self.closed.result() if self.closed.done() else ConnectionLost("the channel is closed")) from None
        return (await _first(reply, self.closed)).method

    def keep_consumers_until_closed(self) -> None:
        """Leave it to the end of the channel to end its consumers: pika would cancel each of them before."""
        self.raw._consumers.clear()  # noqa: SLF001 - pika has no public way to close without a cancel

    async def close(self) -> None:
        """Close the channel and wait for the end; does nothing when it is closed already."""
        with contextlib.suppress(pika.exceptions.ChannelWrongStateError):
            self.raw.close()
        if not self.closed.done():
            await asyncio.wait([self.closed], timeout=5)

    def _on_close(self, _: PikaChannel, reason: BaseException) -> None:
        if not self.closed.done():
            self.closed.set_result(_loss(reason))


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)


async def _first(wanted: asyncio.Future[Any], ended: asyncio.Future[BrokerError]) -> Any:
    """Wait for *wanted*; raise the reason in *ended* if that comes first."""
    await asyncio.wait([wanted, ended], return_when=asyncio.FIRST_COMPLETED)
    if wanted.done():
        return wanted.result()
    raise ended.result()


def _parameters(url: str, name: str, heartbeat: int, ca_file: str | None, timeout: float) -> pika.URLParameters:
    try:
        parameters = pika.URLParameters(url)
    except Exception:  # noqa: BLE001 - pika evaluates options as Python; its errors quote what may be secret
        msg = "an option in the address cannot be used"
        raise AccessRefused(msg) from None
    parameters.client_properties = {"connection_name": name, "product": "cim-worker", "version": __version__}
    parameters.heartbeat = heartbeat
    parameters.socket_timeout = timeout
    parameters.stack_timeout = timeout
    parameters.connection_attempts = 1
    parameters.blocked_connection_timeout = None
    if url.lower().startswith("amqps:"):
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            msg = f"the authorities in {ca_file} cannot be read: {error.strerror or type(error).__name__}"
            raise BrokerUnreachable(msg) from None
        parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    return parameters


def _abandon(raw: AsyncioConnection) -> None:
    """End a connection that is not to be waited for, whatever state it is in."""
    with contextlib.suppress(Exception):
        raw._terminate_stream(ConnectionAbortedError("abandoned"))  # noqa: SLF001 - pika has no public abort


def _opening_error(error: BaseException, said: str | None) -> BrokerError:
    """Return why no connection could be opened; *said* is the broker's own reason if it gave one."""
    refused = (pika.exceptions.ProbableAuthenticationError, pika.exceptions.ProbableAccessDeniedError)
    if said is not None and ("ACCESS_REFUSED" in said or "NOT_ALLOWED" in said):
        return AccessRefused(said)
    if isinstance(error, refused):
        return AccessRefused("the broker refuses the user, the password or the virtual host")
    return BrokerUnreachable(said or _in_words(error))


def _in_words(error: BaseException) -> str:
    """Say the innermost cause in words; pika's own texts can repeat connection parameters."""
    causes = getattr(error, "exceptions", None) or getattr(error, "args", None) or ()
    wrapped = getattr(error, "exception", None)
    inner = next((cause for cause in (wrapped, *reversed(causes)) if isinstance(cause, BaseException)), None)
    if inner is not None:
        return _in_words(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pika.exceptions.ConnectionClosedByBroker):
        return str(error.reply_text)
    return next((words for kind, words in _WORDS if isinstance(error, kind)), type(error).__name__)


_WORDS = (
    (pika.exceptions.StreamLostError, "the connection was cut"),
    (pika.exceptions.AMQPHeartbeatTimeout, "the broker sent no heartbeat"),
    (pika.exceptions.IncompatibleProtocolError, "what answers there does not speak AMQP 0-9-1"),
    (pika.exceptions.InvalidFrameError, "what answers there does not speak AMQP 0-9-1, or bytes were damaged"),
    (AMQPConnectorException, "no answer in time"),
    (TimeoutError, "no answer in time"),
)


def _loss(reason: BaseException) -> BrokerError:
    if isinstance(reason, pika.exceptions.ChannelClosedByBroker | pika.exceptions.ConnectionClosedByBroker):
        if reason.reply_code in {ACCESS_REFUSED, VHOST_NOT_ALLOWED}:
            return AccessRefused(reason.reply_text)
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return ChannelClosed(reason.reply_code, reason.reply_text)
        return ConnectionLost(f"the broker closed the connection: {reason.reply_code} {reason.reply_text}")
    if isinstance(reason, pika.exceptions.ChannelClosedByClient | pika.exceptions.ConnectionClosedByClient):
        return ConnectionLost("closed by us")
    return ConnectionLost(_in_words(reason))
