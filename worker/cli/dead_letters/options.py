"""Options that the commands of `dead-letters` share: one filter for all of them, a reason, and who says yes."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit. Required for whatever changes letters.")]
ActsAs = Annotated[str, typer.Option("--as", metavar="NAME", help="Your name, where many share one system user.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask. Needed where there is no terminal.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show the values of payloads; kept in the audit.")]
Limit = Annotated[int | None, typer.Option(help="At most so many letters.", min=1, max=10**9)]
Force = Annotated[bool, typer.Option("--force", help="Also letters that were replayed CIM_MAX_REPLAYS times.")]
ForceChange = Annotated[bool, typer.Option("--force", help="Also what is locked, and what would die again.")]
LetterId = Annotated[str, typer.Argument(metavar="ID|CAUSE", help="A letter, or the newest letter of a cause.")]

_Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID|CAUSE…]", help="Only these letters or causes; the beginning of a cause will do."),
]
_Texts = list[str] | None


def _option(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Filter")


FILTER: Final = {
    "code": Annotated[_Texts, _option("Reason code, such as wrong_type; may be repeated, as the next ones.")],
    "sender": Annotated[_Texts, _option("Sender id.")],
    "user": Annotated[_Texts, _option("Broker user that published, as the broker checked it.")],
    "conversation": Annotated[_Texts, _option("Conversation id.")],
    "customer": Annotated[_Texts, _option("Customer id.")],
    "message": Annotated[_Texts, _option("Message id.")],
    "group": Annotated[_Texts, _option("Cause, by the beginning of its fingerprint.")],
    "since": Annotated[str | None, _option("Died since: 2h or 7d ago, or a time such as 2026-11-26T10:00Z.")],
    "until": Annotated[str | None, _option("Died before.")],
    "status": Annotated[_Texts, _option("open, sending, replayed, settled, died_again, discarded, parked or any.")],
    "where": Annotated[_Texts, _option("A field of the message: 'body.type=FORM_DATA' or 'header.intent!=X'.")],
}


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the filter: it gets `names` and `words`, and its other parameters are options of its own."""
    own = inspect.signature(function).parameters
    hints = get_type_hints(function, include_extras=True)
    names = inspect.Parameter("names", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Names)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in FILTER.items()
    ]
    others = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in own.items()
        if name not in {"names", "words"}
    ]

    def command(**arguments: Any) -> None:
        words = {name: arguments.pop(name) for name in FILTER}
        function(arguments.pop("names", None) or [], words, **arguments)

    command.__doc__ = function.__doc__
    command.__annotations__ = {one.name: one.annotation for one in (names, *others, *shared)}
    # typer reads a command's parameters here.
    vars(command)["__signature__"] = inspect.Signature([names, *others, *shared])
    return command


def without_command(function: Callable[..., None]) -> Callable[..., None]:
    """Return what a group does without a command: *function*, with its options but without its arguments.

    Options before a command would be ignored by it: they are refused.
    """
    hints = get_type_hints(function, include_extras=True)
    options = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "names"
    ]

    def callback(context: typer.Context, **arguments: Any) -> None:
        if context.invoked_subcommand is None:
            function(**arguments)
            return
        given = [f"--{name.removeprefix('as_')}" for name, value in arguments.items() if value != defaults[name]]
        if given:
            text = f"write {' '.join(given)} after {context.invoked_subcommand}"
            raise CommandError(ExitCode.CONFIGURATION, text)

    defaults = {one.name: one.default for one in options}
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    callback.__annotations__ = {one.name: one.annotation for one in (context, *options)}
    vars(callback)["__signature__"] = inspect.Signature([context, *options])
    return callback


def ask(question: str, *, yes: bool) -> None:
    """Return when *question* was answered with yes. Raises `CommandError`: not answered, or nobody is there to ask."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(ExitCode.CONFIGURATION, f"nothing was changed: {question} Give --yes to do it")
    if not typer.confirm(question, err=True):
        raise CommandError(ExitCode.OK, "nothing was changed")


def needs_reason(reason: str) -> None:
    """Raise `CommandError` before anything is looked at when there is no reason."""
    if not reason.strip():
        text = "say why: --reason 'what was wrong, and what has changed since'"
        raise CommandError(ExitCode.CONFIGURATION, text)
