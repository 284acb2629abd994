"""Load for an HTTP port: connections with one request after the other, as cheap as Python can send them.

`python -m tests.benchmarks.http_load PORT --connections 64 --seconds 5` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.benchmarks.messages import SIZE_BYTES

PATH = "/conversation-manager/activities"
_ID = b"%024x"


@dataclass
class Load:
    """What all connections share."""

    message: bytes
    """The body, with `_ID` where the id is."""
    until: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    sent: int = 0

    def next_request(self) -> bytes:
        self.sent += 1
        body = self.message % self.sent
        head = b"POST %b HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return head % (PATH.encode(), len(body)) + body


class Client(asyncio.Protocol):
    """One connection: sends, waits for the whole answer, sends again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._sent_at = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.next_request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if len(rest) < int(length):
            return
        self._buffer = b""
        self._load.latencies.append(time.perf_counter() - self._sent_at)
        self._load.statuses[int(head[9:12])] += 1
        if time.perf_counter() < self._load.until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def message(size: int = SIZE_BYTES) -> bytes:
    """Return a stand-alone activity of exactly *size* bytes, once `%` has put a number in."""
    document = {
        "id": "IDENTIFIER",
        "header": {
            "channelData": {"channelCustomerIdentifier": "441122", "additionalAttributes": []},
            "timestamp": 1764000001234,
            "intent": "LOAD",
            "conversationId": "6650f0a1c5d4f7a1b2c3d4e5",
            "customer": {"_id": "6650f0a1c5d4f7a1b2c3d4ff"},
            "sender": {"id": "load-1", "type": "APP", "senderName": "LOAD"},
        },
        "body": {"type": "PLAIN", "markdownText": ""},
    }
    empty = json.dumps(document, separators=(",", ":")).encode().replace(b"IDENTIFIER", _ID)
    padding = b"x" * (size - len(empty % 0))
    return empty.replace(b'"markdownText":""', b'"markdownText":"%b"' % padding)


async def run(port: int, connections: int, seconds: float) -> Load:
    """Return what *connections* brought about in *seconds*."""
    load = Load(message(), time.perf_counter() + seconds)
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(lambda: Client(load), "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.wait([client.ended for client in clients])
    return load


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    began = time.perf_counter()
    load = asyncio.run(run(options.port, options.connections, options.seconds))
    took = time.perf_counter() - began
    ordered = sorted(load.latencies)
    figures = {
        "per_second": round(len(ordered) / took, 1),
        **{f"p{share}_ms": round(ordered[int(len(ordered) * share / 100)] * 1000, 2) for share in (50, 95, 99)},
        "statuses": dict(load.statuses),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
