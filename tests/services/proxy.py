"""TCP proxies on loopback whose connections can be cut, black-holed and slowed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

_CHUNK = 64 * 1024


class Proxy:
    """Forwards every connection to one port. Lives in the harness's event loop."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay = 0.0
        self._refusing = False

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        self.cut()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self, *, on: bool) -> None:
        """Reset new connections at once, or stop doing so."""
        self._refusing = on

    def black_hole(self, *, on: bool) -> None:
        """Let connections stand while nothing gets through, or let everything through that was held back."""
        (self._flowing.clear if on else self._flowing.set)()

    def slow(self, delay: float) -> None:
        """Hold back each piece of data for *delay* seconds; 0 is full speed."""
        self._delay = delay

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refusing:
                return
            await self._flowing.wait()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(there_writer)
            try:
                await self._both_ways((reader, there_writer), (there_reader, writer))
            finally:
                there_writer.transport.abort()
                self._writers.discard(there_writer)
        except (OSError, asyncio.CancelledError):
            return  # nobody listens there now: the client sees a reset, as it would without us; or the run is over
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _both_ways(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        pumps = [asyncio.create_task(self._pump(*way)) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()


class Network:
    """The proxies in front of several ports, of which all share what happens to one."""

    def __init__(self, *target_ports: int) -> None:
        self._proxies = [Proxy(port) for port in target_ports]

    async def __aenter__(self) -> Self:
        """Listen."""
        for proxy in self._proxies:
            await proxy.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all connections."""
        for proxy in self._proxies:
            await proxy.__aexit__()

    @property
    def ports(self) -> list[int]:
        """Where they listen, in the order of the targets."""
        return [proxy.port for proxy in self._proxies]

    def cut(self) -> None:
        """Reset every connection."""
        for proxy in self._proxies:
            proxy.cut()

    def refuse(self, *, on: bool) -> None:
        """Reset new connections at once, or stop doing so."""
        for proxy in self._proxies:
            proxy.refuse(on=on)

    def black_hole(self, *, on: bool) -> None:
        """Let connections stand while nothing gets through, or let everything through that was held back."""
        for proxy in self._proxies:
            proxy.black_hole(on=on)

    def slow(self, delay: float) -> None:
        """Hold back each piece of data for *delay* seconds; 0 is full speed."""
        for proxy in self._proxies:
            proxy.slow(delay)
