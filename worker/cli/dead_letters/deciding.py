"""Commands that change letters without sending them."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.dead_letters.opening import chosen_by, open_desk
from worker.cli.dead_letters.options import ActsAs, Json, LetterId, Reason, Reveal, Yes, ask, filtered, needs_reason
from worker.cli.dead_letters.printed import forecast_document, forecast_sentence
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_json, print_line, progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.audit import Action
    from worker.desk.desk import Desk
    from worker.desk.edit import FixPreview

_Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="header.sender.type='\"APP\"'.")]
_Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="body.secret; may be repeated.")]
_Rename = Annotated[
    list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="header.customer.id=header.customer._id.")
]
_Force = Annotated[bool, typer.Option("--force", help="Also what is locked, and what would die again.")]


@filtered
def fix(
    names: list[str],
    words: dict[str, Any],
    *,
    set_: _Set = None,
    unset: _Unset = None,
    rename: _Rename = None,
    apply: Annotated[bool, typer.Option("--apply", help="Save it; without, only the preview is shown.")] = False,
    reason: Reason = "",
    force: _Force = False,
    reveal: Reveal = False,
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Change the messages of open letters by rules: shows what would change, and with --apply saves it.

    Every changed message is validated by today's code; one that would still die stays as it is, unless forced.
    The original bytes are kept. Nothing is sent: `replay` does that.
    """
    if apply:
        needs_reason(reason)
    from worker.cli.dead_letters.opening import desk_errors
    from worker.desk.edit import parse_rules

    with desk_errors():
        rules = parse_rules(set_=set_ or (), unset=unset or (), rename=rename or (), force=force)
    asyncio.run(
        _fix(names, words, rules, reason, acts_as, apply=apply, force=force, reveal=reveal, yes=yes, as_json=as_json)
    )


def edit(
    letter: LetterId,
    file: Annotated[str | None, typer.Option(help="Take the message from this file, or - for standard input.")] = None,
    reason: Reason = "",
    force: _Force = False,
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Change one open letter's message in $EDITOR: validated, shown as a diff, then saved; the original is kept.

    What is no JSON, or would die again, is refused (exit code 2 or 6) and nothing is changed. Opening it in an editor
    shows its values, and is kept in the audit.
    """
    asyncio.run(_edit(letter, file, reason, acts_as, force=force, yes=yes, as_json=as_json))


@filtered
def discard(
    names: list[str],
    words: dict[str, Any],
    *,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Discard open letters: they are out of the way, and kept until CIM_LETTER_RETENTION ends."""
    needs_reason(reason)
    asyncio.run(_decide("discard", names, words, reason, acts_as, yes=yes, as_json=as_json))


@filtered
def restore(
    names: list[str],
    words: dict[str, Any],
    *,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Open discarded letters again; with --status also replayed, settled or died_again ones."""
    needs_reason(reason)
    asyncio.run(_decide("restore", names, words, reason, acts_as, yes=yes, as_json=as_json))


@filtered
def purge(
    names: list[str],
    words: dict[str, Any],
    *,
    activities: Annotated[
        bool, typer.Option("--activities", help="With --customer: its activities in the store, too.")
    ] = False,
    reason: Reason = "",
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Delete letters for good. To erase a customer: purge --customer ID --activities.

    Asks for "purge N" to be typed. With a customer and no --status, letters of every status are meant.
    """
    needs_reason(reason)
    asyncio.run(_purge(names, words, reason, acts_as, activities=activities, yes=yes, as_json=as_json))


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export --reveal` wrote, or - for standard input.")],
    reason: Reason = "",
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Add exported letters as open ones; those that are there already stay as they are."""
    needs_reason(reason)
    asyncio.run(_import(_lines(file), reason, acts_as, as_json=as_json))


async def _fix(
    names: Sequence[str],
    words: Mapping[str, Any],
    rules: Any,
    reason: str,
    acts_as: str,
    *,
    apply: bool,
    force: bool,
    reveal: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from worker.desk import edit as editing
    from worker.desk.audit import revealed
    from worker.desk.query import count

    async with open_desk(acts_as) as desk:
        chosen = await chosen_by(desk, names, words)
        with progress() as bar:
            task = bar.add_task("trying", total=await count(desk, chosen))
            preview = await editing.preview(desk, chosen, rules, lambda number: bar.advance(task, number))
        for before, _ in preview.examples if reveal else ():
            await revealed(desk, before.id)
        if not (as_json and apply):
            _print_preview(preview, reveal=reveal, as_json=as_json)
        if not apply:
            return
        to_save = preview.changed if force else preview.fixed
        if not to_save:
            raise CommandError(ExitCode.REJECTED, "nothing to save: no letter would be better for it")
        ask(f"Save {counted(to_save, 'changed letter')}?", yes=yes)
        with progress() as bar:
            task = bar.add_task("saving", total=preview.letters)
            action = await editing.fix(
                desk, chosen, rules, reason, force=force, progress=lambda number: bar.advance(task, number)
            )
    print_action(action, as_json=as_json)


def _print_preview(preview: FixPreview, *, reveal: bool, as_json: bool) -> None:
    from worker.desk.edit import diff

    if as_json:
        failures = [
            {"code": code, "pointer": pointer, "letters": number}
            for (code, pointer), number in preview.still_fail.most_common()
        ]
        print_json(
            {"letters": preview.letters, "changed": preview.changed, "fixed": preview.fixed, "stillFail": failures}
        )
        return
    for before, after in preview.examples[:1]:
        print_line(f"for example letter {before.id}:")
        for line in diff(before, after, reveal=reveal) or ["(only masked values change; --reveal shows them)"]:
            print_line(f"  {line}")
    letters, changed, fixed = counted(preview.letters, "letter"), preview.changed, preview.fixed
    print_line(f"{letters}: {changed} would change, {fixed} of them would not die again")
    for (code, pointer), number in preview.still_fail.most_common(10):
        print_line(f"  {number} would still die: {code} at {pointer or 'the whole message'}")


async def _edit(
    name: str, file: str | None, reason: str, acts_as: str, *, force: bool, yes: bool, as_json: bool
) -> None:
    from worker.desk import edit as editing
    from worker.desk.audit import revealed
    from worker.desk.query import one

    async with open_desk(acts_as) as desk:
        letter = await one(desk, name)
        if file is None:
            desk.check_may_change("", needs_reason=False)
            await revealed(desk, letter.id)
            body = await _edited_by_hand(desk, letter, force=force, yes=yes)
        else:
            body = sys.stdin.buffer.read() if file == "-" else _read(file)
        forecast = await editing.edit(desk, letter.id, body, reason, revision=letter.revision, force=force)
    if as_json:
        print_json({"id": letter.id, "replayedNow": forecast_document(forecast)})
        return
    print_line(f"saved; replayed now it {forecast_sentence(forecast)}")
    print_line(f"next: cim-worker dead-letters replay {letter.id} --reason '…'")


async def _edited_by_hand(desk: Desk, letter: LetterRecord, *, force: bool, yes: bool) -> bytes:
    """Return what somebody made of a message, valid and agreed to. What is refused can be edited again."""
    from worker.desk import edit as editing
    from worker.desk.errors import DeskError
    from worker.desk.masking import unmasked_text

    text = before = unmasked_text(editing.unpacked(letter))
    while True:
        text = _in_editor(text)
        if text == before:
            raise CommandError(ExitCode.OK, "the message is as it was; nothing was changed")
        body = text.encode("utf-8", "surrogateescape")
        try:
            after, _ = await editing.tried(desk, letter.id, body, revision=letter.revision, force=force)
        except DeskError as error:
            if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            typer.echo(str(error), err=True)
            if not typer.confirm("Edit it again?", default=True, err=True):
                raise CommandError(ExitCode.REJECTED, "nothing was changed") from None
            continue
        for line in editing.diff(letter, after, reveal=True):
            print_line(line)
        ask(f"Save the message of letter {letter.id}?", yes=yes)
        return body


async def _decide(
    kind: str, names: Sequence[str], words: Mapping[str, Any], reason: str, acts_as: str, *, yes: bool, as_json: bool
) -> None:
    from worker.desk import decide
    from worker.desk.query import count

    async with open_desk(acts_as) as desk:
        chosen = await chosen_by(desk, names, words)
        chosen = decide.restorable(chosen) if kind == "restore" else chosen
        number = await count(desk, chosen)
        if not number:
            raise CommandError(ExitCode.NOT_FOUND, chosen.none_found)
        print_line(f"{counted(number, 'letter')}: {chosen}") if not as_json else None
        ask(f"{kind.capitalize()} {counted(number, 'letter')}?", yes=yes or number == 1)
        do = decide.discard if kind == "discard" else decide.restore
        with progress() as bar:
            task = bar.add_task(kind, total=number)
            action = await do(desk, chosen, reason, lambda done: bar.advance(task, done))
    print_action(action, as_json=as_json)


async def _purge(
    names: Sequence[str],
    words: Mapping[str, Any],
    reason: str,
    acts_as: str,
    *,
    activities: bool,
    yes: bool,
    as_json: bool,
) -> None:
    from worker.desk import decide

    async with open_desk(acts_as) as desk:
        chosen = await chosen_by(desk, names, words)
        if words["customer"] and not words["status"]:
            chosen = decide.everything(chosen)
        found = await decide.purge_preview(desk, chosen, activities=activities)
        what = counted(found.letters, "letter")
        if activities:
            what += f" and {counted(found.activities, 'activity').replace('activitys', 'activities')}"
        if not found.letters and not found.activities:
            raise CommandError(ExitCode.NOT_FOUND, chosen.none_found)
        if not as_json:
            print_line(f"{what} would be deleted for good: {chosen}")
        _ask_typed(f"purge {found.letters + found.activities}", yes=yes)
        action = await decide.purge(desk, chosen, reason, activities=activities)
    print_action(action, as_json=as_json)
    if activities and not as_json:
        print_line(decide.JOURNAL_NOTE)


async def _import(lines: Iterator[str], reason: str, acts_as: str, *, as_json: bool) -> None:
    from worker.desk.transfer import import_ as add

    async with open_desk(acts_as) as desk:
        action = await add(desk, lines, reason)
    print_action(action, as_json=as_json)


def print_action(action: Action, *, as_json: bool) -> None:
    """Print what an action has done."""
    if as_json:
        print_json({**{name: value for name, value in action.document.items() if name != "_id"}, "id": action.id})
        return
    counts = ", ".join(f"{number} {what}" for what, number in action.counts.items() if number) or "nothing to do"
    print_line(f"{action.document['kind']} {action.id}: {counts}")


def _ask_typed(words: str, *, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CommandError(ExitCode.CONFIGURATION, "nothing was deleted: give --yes to do it")
    if typer.prompt(f"This cannot be undone. Type {words!r}", err=True, default="", show_default=False) != words:
        raise CommandError(ExitCode.OK, "nothing was deleted")


def _in_editor(text: str) -> str:
    """Return *text* as it was left in the editor: $VISUAL, $EDITOR, or the one that Debian calls `editor`, or vi."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or shutil.which("editor") or shutil.which("vi")
    if not editor:
        raise CommandError(ExitCode.CONFIGURATION, "set EDITOR, or give the message with --file")
    with tempfile.TemporaryDirectory(prefix="cim-letter-") as folder:
        file = Path(folder) / "message.json"
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            subprocess.run([*shlex.split(editor), str(file)], check=True)  # noqa: S603 - the user's own editor
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            why = f"ended with code {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else error
            text = f"the editor {editor!r} did not work ({why}); set EDITOR, or give the message with --file"
            raise CommandError(ExitCode.CONFIGURATION, f"{text}. Nothing was changed") from None
        return file.read_text(encoding="utf-8", errors="surrogateescape")


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CommandError(ExitCode.CONFIGURATION, f"cannot read {file}: {error.strerror}") from None


def _lines(file: str) -> Iterator[str]:
    body = sys.stdin.buffer.read() if file == "-" else _read(file)
    yield from body.decode("utf-8", "replace").splitlines()
