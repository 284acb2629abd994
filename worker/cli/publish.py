"""`cim-worker publish`: put messages on the ingress queue, each confirmed by the broker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.errors import CommandError, say
from worker.cli.exit_codes import ExitCode
from worker.cli.findings import message_document
from worker.cli.messages import FileMessage, read_messages
from worker.cli.output import add_command, counted, print_json, print_line, print_table, progress
from worker.cli.services import command_settings, open_broker
from worker.cli.validate import Judged, judge, print_judged, rejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.cli.publish_state import PublishState
    from worker.cli.told import Told
    from worker.ports import Outgoing
    from worker.rabbit.connection import Connection
    from worker.rabbit.publisher import Publisher
    from worker.settings import Settings

_MESSAGES_PER_WINDOW = 500
_WINDOWS_PER_SECOND = 10
"""With --rate: in so many parts the messages of a second are sent."""
_SHORT_STRING_BYTES = 255
_WAIT_SECONDS: Final = 60.0
_SEND_AGAIN: Final = "publish again: the same message twice does no harm"
_GO_ON: Final = "the same command goes on there"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "publish",
        publish,
        "cim-worker publish recording.json",
        "cim-worker publish --wait recording.json          and what became of it?",
        "cim-worker publish --resume done.json --rate 500 exports/*.jsonl",
        "generate-messages | cim-worker publish - --json",
        environment=("CIM_RABBITMQ_URL",),
    )


def publish(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, or - for standard input.")],
    *,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Validate all first; --no-check sends what is invalid, too.")
    ] = True,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out what is invalid and publish the rest (exit code 6).")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, max=1e6, help="At most so many messages a second.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Publish all of it so many times.")] = 1,
    wait: Annotated[
        bool, typer.Option("--wait", help="Ask for receipts, and count what became of the messages.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="With --wait: seconds after the last confirm or receipt (default: 60)."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="STATE", help="Keep in the file STATE what is confirmed; with the same input again, go on there."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a sentence, what is invalid in it as validate has it.")
    ] = False,
) -> None:
    """Publish messages to the exchange cim.ingress: persistent, mandatory, confirmed.

    A file holds one message, a JSON array of messages, JSON lines, or JSON texts in a row. Nothing is sent if any
    message is invalid, unless --keep-going or --no-check is given: what the workers reject goes to the dead letters.

    Exit code 0: all confirmed, and with --wait none dead. 6: a message is invalid, too large or dead. 2: topology,
    rights or usage. 3: the broker is away, or refused messages. 5: --wait, and not all receipts came in time.
    """
    if timeout is not None and not wait:
        raise CommandError(
            ExitCode.CONFIGURATION, "--timeout is how long --wait waits for receipts: give both, or none"
        )
    if keep_going and not check:
        raise CommandError(ExitCode.CONFIGURATION, "--no-check leaves nothing out: give it or --keep-going, not both")
    settings = command_settings()
    messages = read_messages(files, "publish")
    judged = judge(messages, settings.max_message_bytes) if check else []
    bad = rejected(judged)
    if bad:
        messages = _valid(judged, bad, keep_going=keep_going, as_json=as_json)
    # All are made before the first one is sent: what cannot be sent must not be found out halfway.
    made = [outgoing(message.body) for message in messages] * repeat
    state = _state(resume, made)
    account = _Account(len(made), left_out=len(bad))
    try:
        asyncio.run(
            _publish(settings, made, _Manner(rate, (timeout or _WAIT_SECONDS) if wait else None, state), account)
        )
    except KeyboardInterrupt:
        if account.confirmations:
            _report(account, bad, as_json=as_json)
            say(f"interrupted; {_GO_ON if state else _SEND_AGAIN}")
        raise
    _report(account, bad, as_json=as_json)
    if problem := account.problem():
        raise problem


@dataclass(frozen=True, slots=True)
class _Manner:
    """How to publish."""

    rate: float | None
    timeout: float | None
    """How long to wait for receipts, in seconds; None: nobody asks for them."""
    state: PublishState | None


@dataclass(slots=True)
class _Account:
    """What became of each message, however the publishing ended."""

    total: int
    confirmations: Counter[str] = field(default_factory=Counter)
    failure: CommandError | None = None
    """Why the broker connection ended, if it did."""
    left_out: int = 0
    """Invalid messages that were not taken."""
    done_before: int = 0
    """Messages that an earlier run had confirmed."""
    told: Told | None = None
    """The receipts, if they were asked for."""

    @property
    def counts(self) -> dict[str, int]:
        """How many messages ended in which way; they add up to the total."""
        counts = {
            name: self.confirmations[name] for name in ("confirmed", "returned", "nacked", "too_large", "unknown")
        }
        counts["not_sent"] = self.total - self.done_before - sum(counts.values())
        extra = {"left_out": self.left_out, "done_before": self.done_before}
        return counts | {name: count for name, count in extra.items() if count}

    def problem(self) -> CommandError | None:
        """Return what the user has to do, if anything."""
        counts = self.counts
        if self.failure is not None:
            text = f"{self.failure}; confirmed: {counts['confirmed']} of {self.total}"
            return CommandError(self.failure.exit_code, text)
        for outcome, exit_code, what_to_do in _PROBLEMS:
            if counts.get(outcome):
                return CommandError(exit_code, f"{counted(counts[outcome], 'message')} {what_to_do}")
        return None if self.told is None else self.told.problem()


_PROBLEMS: Final = (
    ("returned", ExitCode.CONFIGURATION, "reached no queue; run `cim-worker topology apply` and publish again"),
    ("too_large", ExitCode.REJECTED, "larger than the broker's max_message_size: send links instead of contents"),
    ("nacked", ExitCode.BROKER_UNREACHABLE, f"not accepted; {_SEND_AGAIN}"),
    ("left_out", ExitCode.REJECTED, "left out as invalid; the others were published"),
)
"""What can become of a message besides its confirm, what it means for the exit code, and what to do."""


def _report(account: _Account, bad: Sequence[Judged], *, as_json: bool) -> None:
    told = account.told
    if as_json:
        outcomes = {} if told is None else {"outcomes": told.as_document()}
        invalid = {"invalid": [message_document(one) for one in bad]} if bad else {}
        print_json({**account.counts, **outcomes, **invalid})
        return
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in account.counts.items())
    print_line(f"{counted(account.total + account.left_out, 'message')}: {counts}")
    if told is not None and (rows := told.rows()):
        print_table(None, ("outcome", "why", "messages"), rows)


def outgoing(body: bytes) -> Outgoing:
    """Return the publish of one message: its id as AMQP message id, its first anchor as routing key."""
    from worker.contract import INGRESS
    from worker.ports import Outgoing

    document = _readable(body)
    message_id = _short(_text(document.get("id"))) or _derived_id(body)
    return Outgoing(INGRESS, _routing_key(document.get("header")), message_id, body)


def _derived_id(body: bytes) -> str:
    """Return the id the workers give a message that brings none."""
    from worker.cim import derived_id
    from worker.cim.decode import Decoded, decode

    decoded = decode(body)
    return derived_id(decoded.content() if isinstance(decoded, Decoded) else body)


def _state(file: str | None, messages: Sequence[Outgoing]) -> PublishState | None:
    from worker.cli.publish_state import PublishState

    return None if file is None else PublishState.read(file, [message.body for message in messages])


async def _publish(settings: Settings, messages: Sequence[Outgoing], manner: _Manner, account: _Account) -> None:
    """Publish what is left of *messages*, and count it in *account*, however it ends."""
    left = range(len(messages)) if manner.state is None else manner.state.left
    account.done_before = len(messages) - len(left)
    if not left:
        return
    try:
        async with open_broker(settings) as connection:
            publisher = await _publisher(connection, settings, manner, account)
            await _send(publisher, messages, left, manner, account)
            if account.told is not None:
                await account.told.wait(manner.timeout or 0.0, publisher.closed)
    except CommandError as error:
        if not account.confirmations:
            raise  # nothing was sent, so there is nothing to account for
        account.failure = error


async def _publisher(connection: Connection, settings: Settings, manner: _Manner, account: _Account) -> Publisher:
    from worker.contract import INGRESS
    from worker.rabbit.publisher import Publisher

    # Publishing to a missing exchange would cost the channel and with it the confirms of all the others.
    await (await connection.channel()).call("exchange_declare", INGRESS, passive=True)
    if manner.timeout is None:
        return await Publisher.open(connection, confirm_timeout_ms=settings.confirm_timeout_ms)
    from worker.cli.told import Told
    from worker.rabbit.asking import AskingPublisher

    account.told = Told()
    return await AskingPublisher.ask(connection, account.told.add, confirm_timeout_ms=settings.confirm_timeout_ms)


async def _send(
    publisher: Publisher, messages: Sequence[Outgoing], left: Sequence[int], manner: _Manner, account: _Account
) -> None:
    """Publish window by window and count in *account*. Raises the `BrokerError` that ended it."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    told = account.told
    with progress() as bar:
        task = bar.add_task("publishing", total=len(left))
        for start, places in _windows(left, manner.rate):
            if manner.rate is not None:
                await asyncio.sleep(started + start / manner.rate - loop.time())
            window = [messages[place] if told is None else _asking(messages[place], place) for place in places]
            try:
                confirmations = list(map(str, await publisher.publish(window)))
            except asyncio.CancelledError:
                account.confirmations["unknown"] += len(window)
                raise
            account.confirmations.update(confirmations)
            confirmed = [place for place, end in zip(places, confirmations, strict=True) if end == "confirmed"]
            if manner.state is not None:
                manner.state.note(confirmed)
            if told is not None:
                told.ask(len(confirmed))
            if account.confirmations["unknown"]:
                raise await publisher.closed
            bar.advance(task, len(window))


def _windows(left: Sequence[int], rate: float | None) -> Iterator[tuple[int, Sequence[int]]]:
    size = _MESSAGES_PER_WINDOW if rate is None else max(1, min(_MESSAGES_PER_WINDOW, int(rate / _WINDOWS_PER_SECOND)))
    for start in range(0, len(left), size):
        yield start, left[start : start + size]


def _asking(message: Outgoing, place: int) -> Outgoing:
    """Return the message as one that asks for a receipt, with a correlation id of its own: with --repeat ids repeat."""
    from worker.rabbit.asking import REPLIES

    return message._replace(
        reply_to=REPLIES, correlation_id=f"{message.message_id[: _SHORT_STRING_BYTES // 4]}#{place}"
    )


def _valid(judged: Sequence[Judged], bad: Sequence[Judged], *, keep_going: bool, as_json: bool) -> list[FileMessage]:
    """Return the messages that are not *bad*; those are reported. Raises `CommandError` if none is to be published.

    With *as_json* they are part of the one document that is printed: of the account, or where nothing is sent of this.
    """
    valid = [one.message for one in judged if not one.is_rejected()]
    goes_on = keep_going and bool(valid)
    if not as_json:
        print_judged(bad)
    elif not goes_on:
        _report(_Account(len(valid), left_out=len(bad)), bad, as_json=True)
    if goes_on:
        return valid
    text = f"{len(bad)} of {counted(len(judged), 'message')} would be rejected; nothing was published"
    raise CommandError(ExitCode.REJECTED, f"{text} (--keep-going leaves them out)" if not keep_going else text)


def _readable(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _routing_key(header: object) -> str:
    if not isinstance(header, dict):
        return "unknown"
    customer = header.get("customer")
    customer_id = customer.get("_id") if isinstance(customer, dict) else None
    anchors = (header.get("conversationId"), header.get("channelSessionId"), customer_id)
    return next(filter(None, (_short(_text(anchor)) for anchor in anchors)), "unknown")


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _short(text: str) -> str:
    """Return *text* if AMQP can carry it as a short string, else nothing: half surrogates are no UTF-8."""
    try:
        return text if len(text.encode()) <= _SHORT_STRING_BYTES else ""
    except UnicodeEncodeError:
        return ""
