"""A proxy between the driver and the store that can be told to answer chosen commands in the store's place.

    with wire_proxy(store.uri) as proxy:                      # proxy.uri goes where the store's URI would go
        full = proxy.on("insert", "ConversationActivities", answer=error(14031, "OutOfDiskSpace"))
        ...                                                   # full.count: how many commands it has answered
        full.end()                                            # or proxy.heal(): from now on the store answers again

Everything that no rule is about passes through, to the real store and back. The last rule that fits a command counts.
The proxy lives in a thread of its own: use it from a test on an event loop or not, or around a worker in another
process; every method may be called from any thread. Rules are about OP_MSG only, so the driver's very first greeting on
a connection (OP_QUERY) always reaches the store; `greeting` may change what it answers, as `replica_set.py` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import bson
from bson.raw_bson import RawBSONDocument

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    Answer = Callable[["Exchange"], Awaitable[None]]
    """What becomes of a command: answer it, forward it first or not, or do nothing at all, which is silence."""

Document = dict[str, Any]

_HEADER = struct.Struct("<iiii")  # length of the whole message, request id, response to, opcode
_OP_MSG, _OP_QUERY, _OP_REPLY = 2013, 2004, 1
_REPLY = struct.Struct("<iqii")  # flags, cursor, number of the first document, number of documents
_GREETINGS = {"hello", "ismaster", "isMaster"}
_START_SECONDS = 10
_OPERATIONS = {"insert": "documents", "update": "updates", "delete": "deletes"}
_LIMIT = 64 * 1024 * 1024


# -- what can be answered ---------------------------------------------------------------------------------------------


def error(code: int, name: str = "", *, labels: Sequence[str] = (), message: str = "injected") -> Answer:
    """Return an answer that fails the whole command; the store never sees it."""
    document = {"ok": 0.0, "errmsg": message, "code": code, "codeName": name or f"Error{code}"}
    if labels:
        document["errorLabels"] = list(labels)

    async def answer(exchange: Exchange) -> None:
        exchange.reply(document)

    return answer


def write_error(code: int, which: Callable[[Mapping[str, Any]], bool] = lambda _: True) -> Answer:
    """Return an answer that fails single documents (of an insert) or operations (of an update or delete).

    *which* chooses them; all by default. The store gets the others, and its own errors are passed on.
    """

    async def answer(exchange: Exchange) -> None:
        command = exchange.command
        failing = [index for index, one in enumerate(command.operations) if which(one)]
        passing = [index for index in range(len(command.operations)) if index not in set(failing)]
        reply: Document = {"n": 0, "ok": 1.0}
        if passing:
            reply = await exchange.forward([command.operations[index] for index in passing])
        errors = [{**one, "index": passing[one["index"]]} for one in reply.get("writeErrors", ())]
        errors += [{"index": index, "code": code, "errmsg": "injected"} for index in failing]
        if errors:
            reply["writeErrors"] = sorted(errors, key=lambda one: int(one["index"]))
        exchange.reply(reply)

    return answer


def write_concern_error(code: int, name: str = "", *, labels: Sequence[str] = ()) -> Answer:
    """Return an answer that lets the store do the write, and then says that a majority has not got it."""
    document: Document = {"code": code, "codeName": name or f"Error{code}", "errmsg": "injected"}

    async def answer(exchange: Exchange) -> None:
        reply = await exchange.forward()
        reply["writeConcernError"] = document
        if labels:
            reply["errorLabels"] = list(labels)
        exchange.reply(reply)

    return answer


def delayed(seconds: float) -> Answer:
    """Return an answer that is the store's, *seconds* later."""

    async def answer(exchange: Exchange) -> None:
        reply = await exchange.forward()
        await asyncio.sleep(seconds)
        exchange.reply(reply)

    return answer


def slower(times: float) -> Answer:
    """Return an answer that is the store's, after *times* as long as the store took."""

    async def answer(exchange: Exchange) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        reply = await exchange.forward()
        await asyncio.sleep((times - 1) * (clock() - started))
        exchange.reply(reply)

    return answer


async def silence(exchange: Exchange) -> None:
    """Never answer, and do not tell the store; the connection stays open."""


async def cut(exchange: Exchange) -> None:
    """Reset the connection instead of telling the store."""
    exchange.cut()


async def cut_after(exchange: Exchange) -> None:
    """Let the store do it, and reset the connection instead of passing its answer on: the effect is unknown."""
    await exchange.forward()
    exchange.cut()


# -- the proxy --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Rule:
    """Which commands get which answer, until `end`."""

    proxy: WireProxy
    commands: frozenset[str]
    collection: str | None
    answer: Answer
    times: int | None
    count: int = 0
    """How many commands it has answered."""

    def fits(self, command: Command) -> bool:
        """Tell whether the rule is about *command*, and has answers left."""
        is_left = self.times is None or self.count < self.times
        is_meant = not self.commands or command.name in self.commands
        return is_left and is_meant and self.collection in {None, command.collection}

    def end(self) -> None:
        """Let the store answer again, from the next command on. Ending it twice does nothing."""
        self.proxy.forget(self)


class WireProxy:
    """Made by `wire_proxy`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._rules: tuple[Rule, ...] = ()
        self._writing = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.greeting: Callable[[Document], Document] | None = None
        """Changes what the store says of itself when a driver greets it."""
        self.seen: Counter[str] = Counter()
        """How many commands of each name have come, answered by a rule or not."""

    @property
    def uri(self) -> str:
        """Where the driver finds the store through this proxy.

        A server that reports changes of its own accord does not report our answers: after "not primary" the driver
        would wait ten seconds for news. So it asks.
        """
        return f"mongodb://127.0.0.1:{self.port}/?serverMonitoringMode=poll"

    def on(self, *commands: str, collection: str | None = None, answer: Answer, times: int | None = None) -> Rule:
        """Give *commands* (none named: all) on *collection* (None: any) this *answer*, *times* times at most."""
        rule = Rule(self, frozenset(commands), collection, answer, times)
        with self._writing:
            self._rules = (rule, *self._rules)
        return rule

    def forget(self, rule: Rule) -> None:
        """Drop one rule."""
        with self._writing:
            self._rules = tuple(one for one in self._rules if one is not rule)

    def heal(self) -> None:
        """Drop all rules. Commands that met silence stay unanswered."""
        with self._writing:
            self._rules = ()

    def cut_all(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._cancel_connections)

    def stop_listening(self) -> None:
        """Refuse every new connection from now on, and reset those there are."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_START_SECONDS)

    def run(self) -> None:
        """Serve until `stop`; the thread's own function."""
        self._loop.run_forever()
        self._loop.run_until_complete(_end_all_tasks())
        self._loop.close()

    def start(self) -> None:
        """Listen on a free port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_START_SECONDS)

    def stop(self) -> None:
        """End all connections, and `run`."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def rule_for(self, command: Command) -> Rule | None:
        """Count *command*, and return the rule about it; None: the store answers."""
        self.seen[command.name] += 1
        rule = next((rule for rule in self._rules if rule.fits(command)), None)
        if rule is not None:
            rule.count += 1
        return rule

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._cancel_connections()

    def _cancel_connections(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio reports a cancelled handler as an error.
        task = asyncio.create_task(_Connection(self, self._target, reader, writer).serve())
        self._connections.add(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            return  # the proxy ends; asyncio would report it as an error
        finally:
            self._connections.discard(task)
            writer.transport.abort()


async def _end_all_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # a reset connection is closed in the loop's next round


@contextmanager
def wire_proxy(uri: str) -> Iterator[WireProxy]:
    """Yield a proxy in front of the store at *uri*; it ends with the block, and its connections with it."""
    target = urlsplit(uri)
    proxy = WireProxy(target.hostname or "127.0.0.1", target.port or 27017)
    thread = threading.Thread(target=proxy.run, name="wire proxy", daemon=True)
    thread.start()
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()


# -- one connection ---------------------------------------------------------------------------------------------------


class Exchange:
    """One command and its answer."""

    def __init__(self, connection: _Connection, command: Command) -> None:
        self._connection = connection
        self.command = command

    async def forward(self, operations: Sequence[Mapping[str, Any]] | None = None) -> Document:
        """Let the store answer, with other *operations* than the driver's if given; return what it says."""
        message = self.command.message if operations is None else self.command.with_operations(operations)
        return await self._connection.ask(self.command.request_id, message)

    def reply(self, document: Mapping[str, Any]) -> None:
        """Answer the driver."""
        self._connection.to_driver(_op_msg(document, response_to=self.command.request_id))

    def cut(self) -> None:
        """Reset the driver's connection."""
        self._connection.cut()


class _Connection:
    """One connection of the driver, and its own to the store."""

    def __init__(
        self,
        proxy: WireProxy,
        target: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._target = target
        self._driver = reader
        self._to_driver = writer
        self._to_store: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Document]] = {}
        self._greeted: set[int] = set()
        """Requests whose answer says what the store is."""

    async def serve(self) -> None:
        """Pass messages both ways until one side ends."""
        with contextlib.suppress(OSError):  # nobody listens there now: the driver sees the end, as without us
            store, self._to_store = await asyncio.open_connection(*self._target, limit=_LIMIT)
            ways = [asyncio.create_task(self._commands()), asyncio.create_task(self._answers(store))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._to_store.transport.abort()
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def ask(self, request_id: int, message: bytes) -> Document:
        """Send *message* to the store and return its answer, which is not passed on."""
        answer: asyncio.Future[Document] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = answer
        self._send_to_store(message)
        return await answer

    def to_driver(self, message: bytes) -> None:
        """Send *message* to the driver."""
        self._to_driver.write(message)

    def cut(self) -> None:
        """Reset the driver's connection."""
        self._to_driver.transport.abort()

    async def _commands(self) -> None:
        async for message in _messages(self._driver):
            command = Command.read(message)
            rule = None if command is None else self._proxy.rule_for(command)
            if self._proxy.greeting is not None and (command is None or command.name in _GREETINGS):
                self._greeted.add(_HEADER.unpack_from(message)[1])
                self._send_to_store(message)
            elif command is None or rule is None:
                self._send_to_store(message)
            else:
                await rule.answer(Exchange(self, command))

    async def _answers(self, store: asyncio.StreamReader) -> None:
        async for message in _messages(store):
            request_id = _HEADER.unpack_from(message)[2]
            asked = self._asked.pop(request_id, None)
            if asked is None:
                greeting = self._proxy.greeting if request_id in self._greeted else None
                self._greeted.discard(request_id)
                self._to_driver.write(_changed(message, greeting) if greeting else message)
                await self._to_driver.drain()
            else:
                answer = Command.read(message)
                asked.set_result({} if answer is None else answer.body)

    def _send_to_store(self, message: bytes) -> None:
        if self._to_store is not None:
            self._to_store.write(message)


# -- OP_MSG -----------------------------------------------------------------------------------------------------------


@dataclass
class Command:
    """One OP_MSG of the driver: a document, and beside it the documents or operations of a write."""

    message: bytes
    request_id: int
    name: str
    _document: bytes
    _sequences: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, message: bytes) -> Command | None:
        """Return the command in *message*, without decoding more than its name; None if it is no OP_MSG."""
        _, request_id, _, opcode = _HEADER.unpack_from(message)
        if opcode != _OP_MSG:
            return None
        document, sequences = b"", {}
        (flags,) = struct.unpack_from("<I", message, 16)
        position, end = 20, len(message) - (4 if flags & 1 else 0)
        while position < end:
            kind = message[position]
            (length,) = struct.unpack_from("<i", message, position + 1)
            section = message[position + 1 : position + 1 + length]
            position += 1 + length
            if kind == 0:
                document = section
            else:
                name, _, operations = section[4:].partition(b"\0")
                sequences[name.decode()] = operations
        return cls(message, request_id, document[5 : document.index(b"\0", 5)].decode(), document, sequences)

    @cached_property
    def body(self) -> Document:
        """The document, decoded."""
        decoded: Document = bson.decode(self._document)
        return decoded

    @property
    def collection(self) -> str | None:
        """The collection it is about; None for a command that is about none."""
        value = self.body.get("collection" if self.name == "getMore" else self.name)
        return value if isinstance(value, str) else None

    @cached_property
    def operations(self) -> list[RawBSONDocument]:
        """The documents of an insert; the single updates or deletes of the others."""
        field_name = _OPERATIONS.get(self.name, "")
        if field_name in self._sequences:
            return _split(self._sequences[field_name])
        return [RawBSONDocument(bson.encode(one)) for one in self.body.get(field_name, ())]

    def with_operations(self, operations: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the same command about *operations* only."""
        document = {**self.body, _OPERATIONS[self.name]: list(operations)}
        return _op_msg(document, request_id=self.request_id)


def _split(data: bytes) -> list[RawBSONDocument]:
    documents, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("<i", data, position)
        documents.append(RawBSONDocument(data[position : position + length]))
        position += length
    return documents


def _op_msg(document: Mapping[str, Any], *, request_id: int = 0, response_to: int = 0) -> bytes:
    body = b"\0\0\0\0\0" + bson.encode(document)  # no flags, then one section of kind 0
    return _HEADER.pack(_HEADER.size + len(body), request_id, response_to, _OP_MSG) + body


def _changed(message: bytes, change: Callable[[Document], Document]) -> bytes:
    """Return the store's answer to a greeting with its document changed."""
    _, request_id, response_to, opcode = _HEADER.unpack_from(message)
    if opcode != _OP_REPLY:
        answer = Command.read(message)
        return message if answer is None else _op_msg(change(answer.body), response_to=response_to)
    start = _HEADER.size + _REPLY.size
    body = message[_HEADER.size : start] + bson.encode(change(bson.decode(message[start:])))
    return _HEADER.pack(_HEADER.size + len(body), request_id, response_to, _OP_REPLY) + body


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the whole messages of one side until it ends."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            header = await reader.readexactly(_HEADER.size)
            yield header + await reader.readexactly(_HEADER.unpack(header)[0] - _HEADER.size)
