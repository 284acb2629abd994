"""The HTTP server that health, gateway and desk share: quiet, bounded, and stopped without losing an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from tests.support.eventually import eventually_async
from worker.web.listening import ListenError, listen
from worker.web.server import Limits, WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

LIMITS = Limits(connections=8, head_seconds=0.2, request_seconds=0.5, keep_alive_seconds=1, drain_seconds=2)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@dataclass
class App:
    """Answers at once on /, when told to on /held, with what was sent on POST /, and never well on /bug."""

    entered: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def starlette(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.home, methods=["GET", "POST"]),
                Route("/held", self.held),
                Route("/bug", self.bug),
            ]
        )

    async def home(self, request: Request) -> Response:
        return PlainTextResponse(await request.body() or b"hello")

    async def held(self, _: Request) -> Response:
        self.entered.set()
        await self.go_on.wait()
        return PlainTextResponse("late")

    async def bug(self, _: Request) -> Response:
        raise KeyError("secret of a client")


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> bytes:
        self.writer.write(request)
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await self.reader.readexactly(int(length.split(b":")[1]))

    async def ending(self) -> bytes:
        """Return what comes until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5)
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def served(app: App | ASGIApp | None = None, limits: Limits = LIMITS) -> AsyncIterator[WebServer]:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    if app is None or isinstance(app, App):
        app = (app or App()).starlette()
    server = WebServer(app, listen("127.0.0.1", 0), name="test", limits=limits)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
    assert not complaints


@asynccontextmanager
async def connected(server: WebServer, count: int = 1) -> AsyncIterator[list[Client]]:
    clients = [Client(*await asyncio.open_connection("127.0.0.1", server.port)) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.writer.close()


async def test_a_connection_serves_many_requests_and_names_no_server_software() -> None:
    async with served() as server, connected(server) as (client,):
        for _ in range(3):
            answer = await client.ask(GET)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert answer.endswith(b"hello")
            assert b"uvicorn" not in answer


async def test_clients_beyond_the_limit_are_answered_503_and_make_room_when_they_go() -> None:
    patient = Limits(connections=8, head_seconds=30)
    async with served(limits=patient) as server:
        async with connected(server, 8), connected(server) as (ninth,):
            assert (await ninth.ending()).startswith(b"HTTP/1.1 503 ")

        async def answers() -> bool:
            async with connected(server) as (client,):
                return (await client.ask(GET)).startswith(b"HTTP/1.1 200 ")

        await eventually_async(answers)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HT", GET + b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["silent", "half a head", "half a second head", "half a body"],
)
async def test_a_client_that_does_not_go_on_is_cut_off(begun: bytes) -> None:
    async with served() as server, connected(server) as (client,):
        client.writer.write(begun)
        assert (await client.ending()).count(b"HTTP/1.1 200 ") == begun.startswith(GET)


async def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    size = 8 * 1024 * 1024
    async with served() as server, connected(server) as (client,):
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await eventually_async(lambda: not server._server.server_state.connections, seconds=5)


@pytest.mark.parametrize(
    "request_",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff\xfe\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, b"x" * 40_000],
)
async def test_what_is_no_http_ends_the_connection_quietly_and_harms_nobody(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with served() as server, connected(server) as (client,):
        client.writer.write(request_)
        assert b" 200 " not in await client.ending()
        async with connected(server) as (other,):
            assert b" 200 " in await other.ask(GET)
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "starlette", "asyncio"))] == []


HEADS = (
    ([b"GET / HTTP/1.1\r\nX: " + b"x" * 16_000 + b"\r\n\r\n"], 200),
    ([b"GET / HTTP/1.1\r\nX: " + b"x" * 117_000 + b"\r\n\r\n"], 431),
    ([b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 3_000 + b"\r\n"], 431),
    ([b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n\r\n"], 431),
    ([b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000, b"x" * 9_000], 431),
    ([b"x" * 17_000], 400),
    ([POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 30_000, b"x" * 30_000], 200),
    ([POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: x\r\n\r\n"], 200),
    ([POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 400),
    ([b"GET / HTTP/1.1\r\nX: a\x01b\r\n\r\n"], 400),
    ([b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"], 400),
)
CHUNK = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
ENDLESS_TRAILERS = [CHUNK, b"0\r\nX: " + b"x" * 17_000], [CHUNK, b"0\r\n" + b"X: x\r\n" * 3_000]


async def send_apart(client: Client, parts: Sequence[bytes]) -> None:
    """Send each part so that it is read alone."""
    for part in parts:
        client.writer.write(part)
        await asyncio.sleep(0.01)


async def test_a_head_is_bounded_however_it_comes_and_so_are_trailers_but_a_body_is_none() -> None:
    async with served() as server:
        for parts, status in HEADS:
            async with connected(server) as (client,):
                await send_apart(client, parts)
                answer = await client.ask(b"")
                assert answer.startswith(b"HTTP/1.1 %d " % status), parts[0][:60]
                if status != 200:
                    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == status
                    assert await client.ending() == b""
        for parts in ENDLESS_TRAILERS:
            async with connected(server) as (client,):
                await send_apart(client, parts)
                assert await client.ending() == b""


async def test_a_client_that_goes_on_sending_loses_no_answer() -> None:
    async with served(limits=Limits(connections=8)) as server, connected(server) as (client,):
        client.writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000)
        for _ in range(5):
            await asyncio.sleep(0.01)
            client.writer.write(b"x" * 100_000)
        assert (await client.ask(b"")).startswith(b"HTTP/1.1 431 ")
        assert await client.ending() == b""


async def test_what_is_no_http_behind_a_request_in_progress_does_not_cost_its_answer() -> None:
    app = App()
    async with served(app) as server, connected(server) as (client,):
        client.writer.write(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        await app.entered.wait()
        client.writer.write(b"no http\r\n\r\n")
        (connection,) = server._server.server_state.connections
        await eventually_async(lambda: cast("Any", connection)._is_refused)
        app.go_on.set()
        answer = await client.ending()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"late")


async def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order() -> None:
    async with served() as server, connected(server) as (client,):
        client.writer.write(b"".join(POST + b"Content-Length: 1\r\n\r\n%d" % number for number in range(9)))
        assert [(await client.ask(b""))[-1:] for _ in range(9)] == [b"%d" % number for number in range(9)]


async def test_a_client_that_offers_another_protocol_is_answered_in_this_one() -> None:
    """As Java's own client does with every request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    async with served() as server, connected(server) as (client,):
        for _ in range(2):
            assert (await client.ask(POST + offer + b"Content-Length: 6\r\n\r\nwhole!")).endswith(b"whole!")
        assert (await client.ask(GET[:-2] + offer + b"\r\n")).endswith(b"hello")
        client.writer.write(POST + offer + b"Content-Length: 6\r\n\r\nin ")
        assert (await client.ask(b"two")).endswith(b"in two")


async def test_whoever_reads_a_body_that_does_not_come_can_look_at_the_time() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        parts = [await receive(), await receive()]
        assert [part["body"] for part in parts] == [b"half", b""]
        await send({"type": "http.response.start", "status": 408, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with served(app) as server, connected(server) as (client,):
        assert b" 408 " in await client.ask(POST + b"Content-Length: 9\r\n\r\nhalf")


async def test_a_bug_is_a_500_and_one_line_without_the_text_of_its_exception(caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as lines:
        async with served() as server, connected(server, 3) as clients:
            for client in clients:
                client.writer.write(b"GET /bug HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b" 500 " in await client.ending()
    assert [line["event"] for line in lines] == ["http_request_failed"]
    assert "KeyError" in lines[0]["reason"]
    assert "secret" not in str(lines)
    assert [record for record in caplog.records if record.name.startswith(("uvicorn", "starlette", "asyncio"))] == []


async def test_a_hundred_clients_cut_off_are_two_lines_at_most() -> None:
    with capture_logs() as lines:
        async with served() as server, connected(server, 100) as clients:
            await asyncio.gather(*(client.ending() for client in clients))
    assert [line["event"] for line in lines] == ["http_clients_cut_off"] * len(lines)
    assert len(lines) <= 2
    assert sum(line["turned_away"] + line["too_slow"] for line in lines) == 100, "and each client is in one of them"


async def test_stopping_lets_a_request_in_progress_end_and_takes_no_further_one() -> None:
    app = App()
    async with served(app, Limits(connections=8)) as server, connected(server, 2) as (client, idle):
        assert b" 200 " in await idle.ask(GET)
        asking = asyncio.create_task(client.ask(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"))
        await app.entered.wait()
        stopping = asyncio.create_task(server.stop())
        assert await idle.ending() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert not stopping.done()
        app.go_on.set()
        assert (await asking).endswith(b"late")
        await asyncio.wait_for(stopping, 2)


async def test_stopping_ends_although_a_client_never_sends_the_rest_of_its_request() -> None:
    async with served(limits=Limits(drain_seconds=1)) as server, connected(server) as (client,):
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        await eventually_async(lambda: server._server.server_state.tasks)
        await asyncio.wait_for(server.stop(), 4)


async def test_a_server_that_never_started_gives_its_port_back() -> None:
    listener = listen("127.0.0.1", 0)
    server = WebServer(App().starlette(), listener, name="test", limits=LIMITS)
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [("127.0.0.1", 70_000, "port 70000"), ("203.0.113.1", 0, "assign requested address"), ("no.host.invalid", 0, "no")],
)
def test_a_port_that_cannot_be_opened_is_half_a_sentence(host: str, port: int, reason: str) -> None:
    with pytest.raises(ListenError, match=reason):
        listen(host, port)


def test_a_taken_port_is_said_before_anything_is_served() -> None:
    taken = listen("127.0.0.1", 0)
    with taken, pytest.raises(ListenError, match=r"^port \d+ of 127.0.0.1 cannot be opened: Address already in use$"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_it_listens_on_version_6_as_well() -> None:
    if socket.has_ipv6:
        with listen("::1", 0) as listener:
            assert listener.family is socket.AF_INET6
