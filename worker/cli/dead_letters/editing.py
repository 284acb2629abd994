"""`edit`: the message of one letter changed by hand."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.dead_letters.given import given
from worker.cli.dead_letters.opening import open_desk
from worker.cli.dead_letters.options import ActsAs, ForceChange, Json, LetterId, Reason, Yes, ask
from worker.cli.dead_letters.printed import forecast_document, forecast_sentence
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import print_json, print_line

if TYPE_CHECKING:
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk


def edit(
    letter: LetterId,
    file: Annotated[str | None, typer.Option(help="Take the message from this file, or - for standard input.")] = None,
    reason: Reason = "",
    force: ForceChange = False,
    yes: Yes = False,
    as_json: Json = False,
    acts_as: ActsAs = "",
) -> None:
    """Change one open letter's message in $EDITOR: validated, shown as a diff, then saved; the original is kept.

    What is no JSON, or would die again, is refused (exit code 2 or 6) and nothing is changed. Opening it in an editor
    shows its values, and is kept in the audit.
    """
    asyncio.run(_edit(letter, file, reason, acts_as, force=force, yes=yes, as_json=as_json))


async def _edit(
    name: str, file: str | None, reason: str, acts_as: str, *, force: bool, yes: bool, as_json: bool
) -> None:
    from worker.desk import edit as editing
    from worker.desk.audit import revealed
    from worker.desk.query import one

    async with open_desk(acts_as) as desk:
        desk.check_may_change("", needs_reason=False)
        letter = await one(desk, name)
        if file is None:
            await revealed(desk, letter.id)
            body = await _edited_by_hand(desk, letter, force=force, yes=yes)
        else:
            body = given(file)
            after, _ = await editing.tried(desk, letter.id, body, revision=letter.revision, force=force)
            for line in [] if as_json else editing.diff(letter, after) or ["(only masked values change)"]:
                print_line(line)
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
