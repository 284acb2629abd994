"""`cim-worker publish`: put messages on the ingress queue, each confirmed by the broker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.messages import FileMessage, read_messages
from worker.cli.output import add_command, counted, print_json, print_line, progress
from worker.cli.services import command_settings, open_broker
from worker.cli.validate import judge, print_judged, rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ports import Outgoing
    from worker.rabbit.connection import Connection
    from worker.settings import Settings

_MESSAGES_PER_WINDOW = 500
_SHORT_STRING_BYTES = 255


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "publish",
        publish,
        "cim-worker publish recording.json",
        "cim-worker publish --check exports/*.jsonl",
        "generate-messages | cim-worker publish - --json",
        environment=("CIM_RABBITMQ_URL",),
    )


def publish(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, or - for standard input.")],
    check: Annotated[
        bool, typer.Option("--check", help="Validate first; publish nothing if any message is rejected (exit code 6).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a sentence.")] = False,
) -> None:
    """Publish messages to the exchange cim.ingress: persistent, mandatory, confirmed.

    A file holds one message, a JSON array of messages, or JSON lines. Nothing is validated unless --check is given:
    what the workers reject goes to cim.dead-letters with its reasons.
    """
    settings = command_settings()
    messages = read_messages(files, "publish")
    if check:
        _refuse_invalid(messages, settings.max_message_bytes)
    # All are made before the first one is sent: what cannot be sent must not be found out halfway.
    account = asyncio.run(_publish(settings, [outgoing(message.body) for message in messages]))
    if as_json:
        print_json(account.counts)
    else:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in account.counts.items())
        print_line(f"{counted(len(messages), 'message')}: {counts}")
    if problem := account.problem():
        raise problem


@dataclass(slots=True)
class _Account:
    """What became of each message, however the publishing ended."""

    total: int
    confirmations: Counter[str] = field(default_factory=Counter)
    failure: CommandError | None = None
    """Why the broker connection ended, if it did."""

    @property
    def counts(self) -> dict[str, int]:
        """How many messages ended in which way; they add up to the total."""
        counts = {
            name: self.confirmations[name] for name in ("confirmed", "returned", "nacked", "too_large", "unknown")
        }
        return {**counts, "not_sent": self.total - sum(counts.values())}

    def problem(self) -> CommandError | None:
        """Return what the user has to do, if anything."""
        counts = self.counts
        if self.failure is not None:
            text = f"{self.failure}; confirmed: {counts['confirmed']} of {self.total}"
            return CommandError(self.failure.exit_code, text)
        for outcome, exit_code, what_to_do in _PROBLEMS:
            if counts[outcome]:
                return CommandError(exit_code, f"{counted(counts[outcome], 'message')} {what_to_do}")
        return None


_PROBLEMS: Final = (
    ("returned", ExitCode.CONFIGURATION, "reached no queue; run `cim-worker topology apply` and publish again"),
    ("too_large", ExitCode.REJECTED, "larger than the broker's max_message_size: send links instead of contents"),
    ("nacked", ExitCode.BROKER_UNREACHABLE, "not accepted; publish again: the same message twice does no harm"),
)
"""What can become of a message besides its confirm, what it means for the exit code, and what to do."""


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


async def _publish(settings: Settings, messages: Sequence[Outgoing]) -> _Account:
    account = _Account(len(messages))
    try:
        async with open_broker(settings) as connection:
            await _publish_on(connection, settings, messages, account)
    except CommandError as error:
        if not account.confirmations:
            raise  # nothing was sent, so there is nothing to account for
        account.failure = error
    return account


async def _publish_on(
    connection: Connection, settings: Settings, messages: Sequence[Outgoing], account: _Account
) -> None:
    """Publish window by window and count in *account*. Raises the `BrokerError` that ended it."""
    from worker.contract import INGRESS
    from worker.rabbit.publisher import Publisher

    # Publishing to a missing exchange would cost the channel and with it the confirms of all the others.
    await (await connection.channel()).call("exchange_declare", INGRESS, passive=True)
    publisher = await Publisher.open(connection, confirm_timeout_ms=settings.confirm_timeout_ms)
    with progress() as bar:
        task = bar.add_task("publishing", total=len(messages))
        for start in range(0, len(messages), _MESSAGES_PER_WINDOW):
            window = messages[start : start + _MESSAGES_PER_WINDOW]
            account.confirmations.update(map(str, await publisher.publish(window)))
            if account.confirmations["unknown"]:
                raise await publisher.closed
            bar.advance(task, len(window))


def _refuse_invalid(messages: Sequence[FileMessage], max_bytes: int) -> None:
    judged = judge(messages, max_bytes)
    bad = rejected(judged)
    if bad:
        print_judged(bad)
        text = f"{len(bad)} of {counted(len(judged), 'message')} would be rejected; nothing was published"
        raise CommandError(ExitCode.REJECTED, text)


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
