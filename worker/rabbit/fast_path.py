"""The one seam into pika: how bytes from the broker become deliveries, returns and confirms, and how ours go out.

pika spends most of a small message's cost on three sends per publish, on objects per frame and on slicing its receive
buffer once per frame. Channels that register a sink here have their basic.deliver, basic.return, basic.ack and
basic.nack read in place and written in runs; every other frame, and every other channel, stays with pika.

What is leaned on in pika: `Connection._on_data_available`, `_frame_buffer`, `_process_frame`,
`_output_marshaled_frames`, `bytes_sent`, `bytes_received` and `frames_received` (the heartbeat checker counts bytes),
the transport's `_sock` and `_MAX_RECV_BYTES`, and for pausing its `_sigint_safe_recv`, `_on_socket_readable` and the
heartbeat checker's check timer.
`tests/integration/test_fast_path.py` fails when one of them changes.
"""

from __future__ import annotations

import errno
import ssl
import struct
from typing import TYPE_CHECKING, Any, Protocol

from pika import exceptions, frame
from pika.adapters.asyncio_connection import AsyncioConnection

from worker import compiled
from worker.rabbit.frames import (
    BASIC_ACK,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_RETURN,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_METHOD,
    FRAME_OVERHEAD,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

_RECEIVE_BYTES = 128 * 1024
_A_LITTLE_EVERY_SECONDS = 13.0
"""RabbitMQ waits 30 seconds for a socket to take a whole write, which may be more than is read at once. So two reads
come before that: every 15 seconds the second came just when it gave up."""
_head = struct.Struct(">BHI")
_OURS = frozenset({BASIC_ACK, BASIC_DELIVER, BASIC_NACK, BASIC_RETURN})


class Sink(Protocol):
    """What a channel does with the frames it takes over. No method may raise or block."""

    def on_deliver(
        self,
        tag: int,
        redelivered: bool,  # noqa: FBT001 - one call per delivery: positional is cheaper
        exchange: str,
        routing_key: str,
        properties: bytes,
        body: bytes,
    ) -> None:
        """Take a delivery; *properties* are undecoded."""

    def on_return(self, exchange: str, routing_key: str, properties: bytes) -> None:
        """Take a returned publish."""

    def on_confirm(self, tag: int, multiple: bool, positive: bool) -> None:  # noqa: FBT001
        """Take a publisher confirm."""

    def on_read(self) -> None:
        """Called after each run of received bytes."""


class _Content:
    """A delivery or return on its way in: its method frame is here, header and body may follow."""

    __slots__ = ("body", "body_size", "method", "missing", "properties")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.properties = b""
        self.body: list[bytes] = []
        self.body_size = 0
        self.missing = 0


class FramingConnection(AsyncioConnection):  # type: ignore[misc]
    """pika's asyncio connection with the frames of registered channels taken over."""

    _frame_buffer: bytes
    _heartbeat_checker: Any
    closed_by_broker: str | None = None
    """What the broker said when it closed the connection. It names users, virtual hosts and limits, no passwords."""
    _paused = False
    _little_timer: Any
    _readable_now: int
    """Bytes that may be read although reading is paused."""
    bytes_received: int
    bytes_sent: int
    frames_received: int

    def attach(self, channel: int, sink: Sink) -> None:
        """Take over deliveries, returns and confirms of *channel*."""
        if "_sinks" not in self.__dict__:
            self._sinks: dict[int, Sink] = {}
            self._contents: dict[int, _Content] = {}
            self._transport._MAX_RECV_BYTES = _RECEIVE_BYTES  # noqa: SLF001
        self._sinks[channel] = sink

    def detach(self, channel: int) -> None:
        """Leave *channel*, which has ended, to pika again: its number may be given to another one."""
        if "_sinks" in self.__dict__:
            self._sinks.pop(channel, None)
            self._contents.pop(channel, None)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send complete frames. The caller bounds what is outstanding; this never waits.

        Raises pika's ConnectionWrongStateError when the connection is closed.
        """
        if not self.is_open:
            msg = "the connection is closed"
            raise exceptions.ConnectionWrongStateError(msg)
        data = b"".join(frames)
        taken = self._send_at_once(data)
        if taken < len(data):
            self._output_marshaled_frames([data[taken:]])

    def _send_at_once(self, data: bytes) -> int:
        """Return how much of *data* the operating system took: most often all, and pika need not wait to be asked."""
        sock = self._transport._sock  # noqa: SLF001
        if self.unsent_bytes or isinstance(sock, ssl.SSLSocket):
            return 0
        try:
            taken: int = sock.send(data)
        except OSError:  # it is full, or at an end: pika meets the same, and does what there is to do
            return 0
        self.bytes_sent += taken
        return taken

    @property
    def unsent_bytes(self) -> int:
        """Bytes written but not yet taken by the operating system."""
        return int(self._transport.get_write_buffer_size()) if self._transport else 0

    @property
    def frame_max(self) -> int:
        """The frame size agreed with the broker, in bytes."""
        return int(self._body_max_length) + FRAME_OVERHEAD

    def pause_reading(self, largest_run: int) -> None:
        """Leave what the broker sends in the socket, so that TCP makes it wait. Our heartbeats go on.

        RabbitMQ drops a connection that takes nothing for 30 seconds, so a little is read all the same in between: as
        much as the broker may be trying to send at once. *largest_run* is the most bytes of bodies that one read has
        completed. pika takes a connection without received bytes for dead; its check is suspended with the reading.
        """
        if self._paused or not self.is_open:
            return
        self._paused = True
        self._readable_now = 0
        self._least_read = largest_run + _RECEIVE_BYTES
        self._transport._sigint_safe_recv = self._receive_a_little  # noqa: SLF001
        self._watch_socket(readable=False)
        self._little_timer = self._adapter_call_later(_A_LITTLE_EVERY_SECONDS, self._read_a_little)
        checker = self._heartbeat_checker
        if checker is not None and checker._check_timer is not None:  # noqa: SLF001
            self._adapter_remove_timeout(checker._check_timer)  # noqa: SLF001
            checker._check_timer = None  # noqa: SLF001

    def resume_reading(self) -> None:
        """Read again; the check of received bytes begins anew."""
        if not self._paused:
            return
        self._paused = False
        self._adapter_remove_timeout(self._little_timer)
        if not self._has_live_transport:
            return
        del self._transport._sigint_safe_recv  # noqa: SLF001
        self._watch_socket(readable=True)
        if self._heartbeat_checker is not None:
            self._heartbeat_checker._start_check_timer()  # noqa: SLF001

    @property
    def _has_live_transport(self) -> bool:
        transport = self._transport
        return transport is not None and transport._state == transport._STATE_ACTIVE  # noqa: SLF001

    def _watch_socket(self, *, readable: bool) -> None:
        transport = self._transport
        loop, descriptor = transport._nbio, transport._sock.fileno()  # noqa: SLF001
        if not readable:
            loop.remove_reader(descriptor)
            return
        loop.set_reader(descriptor, transport._on_socket_readable)  # noqa: SLF001
        # TLS may hold bytes that it has taken from the socket already.
        loop.add_callback_threadsafe(transport._on_socket_readable)  # noqa: SLF001

    def _read_a_little(self) -> None:
        if not self._has_live_transport:
            return
        self._readable_now = self._least_read + sum(content.missing for content in self._contents.values())
        self._watch_socket(readable=True)
        self._little_timer = self._adapter_call_later(_A_LITTLE_EVERY_SECONDS, self._read_a_little)

    def _receive_a_little(self, sock: socket.socket, max_bytes: int) -> bytes:
        """Stand in for pika's recv while reading is paused: nothing has come, but for a little now and then."""
        if self._readable_now > 0:
            data = sock.recv(max_bytes)
            self._readable_now -= len(data)
            return data
        self._watch_socket(readable=False)
        if isinstance(sock, ssl.SSLSocket):
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "reading is paused")
        raise BlockingIOError(errno.EAGAIN, "reading is paused")

    def _on_connection_close_from_broker(self, method_frame: Any) -> None:
        """Keep the broker's own reason: while a connection is being opened, pika replaces it by a guess."""
        self.closed_by_broker = str(method_frame.method.reply_text)
        super()._on_connection_close_from_broker(method_frame)

    def _on_data_available(self, data_in: bytes) -> None:
        if "_sinks" not in self.__dict__:
            super()._on_data_available(data_in)
            return
        rest: bytes = self._frame_buffer
        data = rest + data_in if rest else data_in
        self._frame_buffer = b""
        offset = self._read_frames(data)
        if not self.is_closed:
            self._frame_buffer = data[offset:] if offset else data
        for sink in self._sinks.values():
            sink.on_read()

    def _read_frames(self, data: bytes) -> int:
        """Handle every complete frame in *data* and return where the first incomplete one starts."""
        offset: int = 0
        size = len(data)
        sinks = self._sinks
        while size - offset >= FRAME_OVERHEAD:
            if compiled.frames is not None:
                start = offset
                offset, frames = compiled.frames.read_run(data, offset, sinks, self._contents)
                self.bytes_received += offset - start
                self.frames_received += frames
                if size - offset < FRAME_OVERHEAD:
                    break
            kind, channel, length = _head.unpack_from(data, offset)
            end: int = offset + FRAME_OVERHEAD + length
            if end > size:
                break
            if data[end - 1] != FRAME_END:
                self._terminate_stream(exceptions.InvalidFrameError("Invalid FRAME_END marker"))
                return offset
            self.bytes_received += end - offset
            if channel not in sinks or not self._take(kind, channel, data, offset + 7, end - 1):
                self._give_to_pika(data[offset:end])
                if self.is_closed:
                    return end
            else:
                self.frames_received += 1
            offset = end
        return offset

    def _take(self, kind: int, channel: int, data: bytes, start: int, end: int) -> bool:
        """Handle a frame of a taken-over channel; return False if it is pika's."""
        if kind == FRAME_METHOD:
            method = int.from_bytes(data[start : start + 4], "big")
            if method not in _OURS:
                return False
            if method in {BASIC_ACK, BASIC_NACK}:
                tag = int.from_bytes(data[start + 4 : start + 12], "big")
                self._sinks[channel].on_confirm(tag, bool(data[start + 12] & 1), method == BASIC_ACK)
            else:
                self._contents[channel] = _Content(data[start:end])
            return True
        content = self._contents.get(channel)
        if content is None:
            return False
        if kind == FRAME_HEADER:
            content.body_size = content.missing = int.from_bytes(data[start + 4 : start + 12], "big")
            content.properties = data[start + 12 : end]
        elif kind == FRAME_BODY:
            content.body.append(data[start:end])
            content.missing -= end - start
        else:
            return False
        if content.missing <= 0:
            del self._contents[channel]
            _dispatch(self._sinks[channel], content)
        return True

    def _give_to_pika(self, frame_bytes: bytes) -> None:
        try:
            _, value = frame.decode_frame(frame_bytes)
        except Exception as error:  # noqa: BLE001 - a frame pika cannot read ends the connection, not the process
            self._terminate_stream(error)
            return
        if value is not None:
            self._process_frame(value)


def _dispatch(sink: Sink, content: _Content) -> None:
    body = content.body[0] if len(content.body) == 1 else b"".join(content.body)
    method = content.method
    if method[3] == BASIC_DELIVER & 0xFF:
        offset = 5 + method[4]
        tag = int.from_bytes(method[offset : offset + 8], "big")
        exchange, routing_key = _two_short_strings(method, offset + 9)
        sink.on_deliver(tag, method[offset + 8] & 1 == 1, exchange, routing_key, content.properties, body)
    else:
        exchange, routing_key = _two_short_strings(method, 7 + method[6])
        sink.on_return(exchange, routing_key, content.properties)


def _two_short_strings(raw: bytes, offset: int) -> tuple[str, str]:
    middle = offset + 1 + raw[offset]
    end = middle + 1 + raw[middle]
    return raw[offset + 1 : middle].decode("utf-8", "replace"), raw[middle + 1 : end].decode("utf-8", "replace")
