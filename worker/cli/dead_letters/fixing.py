"""`fix`: the messages of many letters changed by rules."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.dead_letters.opening import chosen_by, desk_errors, open_desk
from worker.cli.dead_letters.options import ActsAs, ForceChange, Json, Reason, Reveal, Yes, ask, filtered, needs_reason
from worker.cli.dead_letters.printed import print_action
from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import counted, print_json, print_line, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.desk.edit import FixPreview

_Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=JSON", help="header.sender.type='\"APP\"'.")]
_Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="PATH", help="body.secret; may be repeated.")]
_Rename = Annotated[
    list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="header.customer.id=header.customer._id.")
]


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
    force: ForceChange = False,
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
    from worker.desk.edit import parse_rules

    with desk_errors():
        rules = parse_rules(set_=set_ or (), unset=unset or (), rename=rename or (), force=force)
    asyncio.run(
        _fix(names, words, rules, reason, acts_as, apply=apply, force=force, reveal=reveal, yes=yes, as_json=as_json)
    )


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
    from worker.desk.query import count, none_found

    async with open_desk(acts_as) as desk:
        chosen = (await chosen_by(desk, names, words)).to_be("fixed")
        with progress() as bar:
            task = bar.add_task("trying", total=await count(desk, chosen))
            preview = await editing.preview(desk, chosen, rules, lambda number: bar.advance(task, number))
        if not preview.letters:
            raise CommandError(ExitCode.NOT_FOUND, await none_found(desk, chosen))
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
