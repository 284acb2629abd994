"""`cim-worker conversations`: the registry by hand, with the same effect as the platform's lifecycle events."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import add_command, print_json, print_table
from worker.cli.services import command_settings, open_broker, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.conversations.conversation import ConversationRecord, UnreadableRecord
    from worker.conversations.lifecycle import LifecycleChange
    from worker.failure import Failure
    from worker.settings import Settings

_BOTH = ("CIM_RABBITMQ_URL", "CIM_MONGODB_URI", "CIM_MONGODB_DATABASE")
_STORE = ("CIM_MONGODB_URI", "CIM_MONGODB_DATABASE")
_Id = Annotated[str, typer.Argument(metavar="ID", help="Conversation id.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Open, close and show conversations. Needs no running worker.", no_args_is_help=True)
    add_command(
        group,
        "open",
        open_,
        "cim-worker conversations open c-1",
        "cim-worker conversations open c-1 --customer u-9 --session s-1 --session s-2",
        """cim-worker conversations open c-1 --room-info '{"id": "r-1", "mode": "CONTACT_CENTER"}'""",
        environment=_BOTH,
    )
    add_command(
        group,
        "close",
        close,
        "cim-worker conversations close c-1",
        "cim-worker conversations close c-1 --now",
        environment=_BOTH,
    )
    add_command(
        group,
        "show",
        show,
        "cim-worker conversations show c-1",
        "cim-worker conversations show c-1 --json",
        environment=_STORE,
    )
    add_command(
        group,
        "list",
        list_,
        "cim-worker conversations list --active",
        "cim-worker conversations list --state CLOSED --limit 20 --json",
        environment=_STORE,
    )
    app.add_typer(group, name="conversations")


def open_(
    conversation_id: _Id,
    customer: Annotated[str | None, typer.Option(help="Customer id.")] = None,
    room_info: Annotated[str | None, typer.Option(help="Room as a JSON object with id and mode.")] = None,
    session: Annotated[list[str] | None, typer.Option(help="Channel session id; may be repeated.")] = None,
    as_json: _Json = False,
) -> None:
    """Make a conversation active: its activities go to its exchange from now on. Opening twice is harmless."""
    change = opening(conversation_id, _now_ms(), customer, _room(room_info), session or ())
    _print_record(asyncio.run(change_conversation(command_settings(), change)), as_json=as_json)


def close(
    conversation_id: _Id,
    now: Annotated[
        bool, typer.Option("--now", help="Delete the exchange at once, not after CIM_CONVERSATION_GRACE_MS.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Close a conversation: its activities go to the store from now on. Closing twice is harmless.

    Exit code 5 when the registry does not know it, 6 when the registry has newer news and it stays open.

    The exchange is taken off the hub at once, so that new activities go to the store; running workers delete it after
    the grace period.
    """
    change = closing(conversation_id, _now_ms())
    record = asyncio.run(change_conversation(command_settings(), change, must_exist=True, delete_exchange=now))
    _print_record(record, as_json=as_json)


def show(conversation_id: _Id, as_json: _Json = False) -> None:
    """Show what the registry knows about a conversation; exit code 5 when it knows nothing."""
    record = asyncio.run(_get(command_settings(), conversation_id))
    _print_record(_known(conversation_id, record), as_json=as_json)


def list_(
    state: Annotated[str | None, typer.Option(help="Only those in this state, such as ACTIVE.")] = None,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Only active, or only closed ones.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of conversations to print.", min=1, max=100_000)] = 100,
    as_json: _Json = False,
) -> None:
    """List the conversations of the registry in the order of their ids."""
    records = asyncio.run(_list(command_settings(), state, active, limit))
    if as_json:
        print_json([_document(record) for record in records])
        return
    columns = ("id", "state", "active", "customer", "sessions", "updated")
    print_table(None, columns, [_row(record) for record in records])


def opening(
    conversation_id: str,
    at: int,
    customer: str | None,
    room: dict[str, Any] | None,
    sessions: Sequence[str],
) -> LifecycleChange:
    """Return the change that makes a conversation active at *at* (epoch ms)."""
    from worker.conversations.conversation import ConversationState, Fact, SessionFact
    from worker.conversations.lifecycle import LifecycleChange

    return LifecycleChange(
        _checked_id(conversation_id),
        "conversations open",
        at,
        state=Fact(str(ConversationState.ACTIVE), at),
        customer_id=None if customer is None else Fact(_checked_id(customer, "--customer"), at),
        room_info=None if room is None else Fact(room, at),
        sessions=tuple(SessionFact(_session(one, conversation_id), at, started_at=at) for one in sessions),
    )


def closing(conversation_id: str, at: int) -> LifecycleChange:
    """Return the change that closes a conversation at *at* (epoch ms)."""
    from worker.conversations.conversation import ConversationState, Fact
    from worker.conversations.lifecycle import LifecycleChange

    state = Fact(str(ConversationState.CLOSED), at)
    return LifecycleChange(_checked_id(conversation_id), "conversations close", at, state=state)


async def change_conversation(
    settings: Settings, change: LifecycleChange, *, must_exist: bool = False, delete_exchange: bool = False
) -> ConversationRecord:
    """Write *change* into the registry and make the conversation's exchange match, as the workers do.

    Returns the record as it is afterwards. Raises `CommandError`, also when newer news won over the change.
    """
    from worker.conversations.convergence import Convergence
    from worker.mongo.registry import Registry
    from worker.rabbit.exchanges import ConversationExchanges

    async with open_store(settings) as store, open_broker(settings) as connection:
        registry = Registry(store)
        known = await registry.get(change.conversation_id)
        if must_exist or known is not None:
            _known(change.conversation_id, known)
        convergence = Convergence(registry, ConversationExchanges(connection))
        applied = await registry.apply(change)
        converged = await convergence.converge([applied.record])
        failures = {**converged.failures}
        if delete_exchange:
            failures |= await convergence.delete_closed([applied.record.id])
        for failure in failures.values():
            raise _exchange_refused(applied.record.id, failure)
        _check_won(applied.record, change)
        return converged.records[applied.record.id]


def _check_won(record: ConversationRecord, change: LifecycleChange) -> None:
    from worker.conversations.conversation import is_active

    if change.state is None or record.active == is_active(change.state.value):
        return
    text = f"{record.id!r} stays {record.state.value}: the registry has newer news of it, of {_time(record.state.at)}"
    raise CommandError(ExitCode.REJECTED, text)


def _exchange_refused(conversation_id: str, failure: Failure) -> CommandError:
    text = f"the registry has the change to {conversation_id!r}, but the broker refused its exchange: {failure.detail}"
    return CommandError(ExitCode.CONFIGURATION, text)


async def _get(settings: Settings, conversation_id: str) -> ConversationRecord | UnreadableRecord | None:
    from worker.mongo.registry import Registry

    async with open_store(settings) as store:
        return await Registry(store).get(conversation_id)


async def _list(
    settings: Settings, state: str | None, active: bool | None, limit: int
) -> Sequence[ConversationRecord | UnreadableRecord]:
    from worker.mongo.registry import Registry

    async with open_store(settings) as store:
        return await Registry(store).list(state=state, active=active, limit=limit)


def _checked_id(text: str, what: str = "a conversation id") -> str:
    from worker.cim.ids import MAX_ID_BYTES, is_valid_id

    if not is_valid_id(text):
        problem = f"{what} is not blank, has no control character and at most {MAX_ID_BYTES} bytes: not {text!r}"
        raise CommandError(ExitCode.CONFIGURATION, problem)
    return text


def _room(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        room = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        room = None
    if not isinstance(room, dict):
        raise CommandError(ExitCode.CONFIGURATION, """--room-info is a JSON object, for example '{"id": "r-1"}'""")
    return room


def _refuse_constant(name: str) -> None:
    raise ValueError(name)  # NaN and the infinities are no JSON, and no store has to take them


def _session(session_id: str, conversation_id: str) -> dict[str, Any]:
    state = {"name": "STARTED", "reasonCode": None}
    _checked_id(session_id, "--session")
    return {"participantType": "ChannelSession", "id": session_id, "conversationId": conversation_id, "state": state}


def _print_record(record: ConversationRecord, *, as_json: bool) -> None:
    if as_json:
        print_json({**record.to_document(), "active": _is_active(record)})
        return
    rows = [
        ("id", record.id),
        ("state", f"{record.state.value} since {_time(record.state.at)}"),
        ("active", _is_active(record)),
        ("customer", record.customer_id.value),
        ("room", record.room_info.value and json.dumps(record.room_info.value, default=str)),
        ("sessions", [_session_line(fact.value, live=record.active) for fact in record.sessions]),
        ("updated", _time(record.updated_at)),
    ]
    print_table(None, ("field", "value"), rows)


def _session_line(session: dict[str, Any], *, live: bool) -> str:
    from worker.conversations.conversation import session_ended

    still = "live" if live else "closed"
    return f"{session['id']} ({'ended' if session_ended(session) else still})"


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds") if at else "unknown"


def _document(record: ConversationRecord | UnreadableRecord) -> dict[str, Any]:
    from worker.conversations.conversation import UnreadableRecord

    if isinstance(record, UnreadableRecord):
        return {"_id": record.id, "unreadable": record.problem}
    return record.to_document()


def _known(conversation_id: str, record: ConversationRecord | UnreadableRecord | None) -> ConversationRecord:
    from worker.conversations.conversation import UnreadableRecord

    if record is None:
        text = f"the registry knows no conversation {conversation_id!r}; see `cim-worker conversations list`"
        raise CommandError(ExitCode.NOT_FOUND, text)
    if isinstance(record, UnreadableRecord):
        text = f"the registry's record of {record.id!r} cannot be read: {record.problem}; correct it, or delete it"
        raise CommandError(ExitCode.REJECTED, text)
    return record


def _row(record: ConversationRecord | UnreadableRecord) -> tuple[object, ...]:
    from worker.conversations.conversation import UnreadableRecord

    if isinstance(record, UnreadableRecord):
        return record.id, f"unreadable: {record.problem}", None, None, None, None
    sessions = ", ".join(fact.id for fact in record.sessions)
    state, customer = record.state.value, record.customer_id.value
    return record.id, state, _is_active(record), customer, sessions, _time(record.updated_at)


def _is_active(record: ConversationRecord) -> bool:
    return record.active


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
