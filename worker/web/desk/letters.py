"""One letter: why it died, where in the message, where it came from and what it became; and editing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import RedirectResponse, Response

from worker.dead_letters.letter import LetterRecord, Status
from worker.desk.audit import revealed
from worker.desk.details import details
from worker.desk.edit import edit, unpacked
from worker.desk.errors import DeskError, rejected
from worker.desk.masking import unmasked_text
from worker.desk.numbers import whole_number
from worker.desk.query import get, list_letters
from worker.web.desk.asked import STATUS, choose
from worker.web.desk.payload import payload
from worker.web.desk.render import Page

if TYPE_CHECKING:
    from worker.web.desk.asked import Asked

_MOST: Final = 100
_MOST_EDITED_BYTES: Final = 1024 * 1024


async def show(asked: Asked) -> Page:
    """Return the page of one letter, with what can be done with it."""
    return await _page(asked, await get(asked.desk, asked.path("letter_id")))


async def listed(asked: Asked) -> Page:
    """Return the newest letters of a filter."""
    chosen = await asked.chosen()
    found = await list_letters(asked.desk, chosen.filter, _MOST)
    return Page("letters.html", "Letters", chosen=chosen, letters=found, most=_MOST, now=asked.now)


async def reveal(asked: Asked) -> Page:
    """Return a letter with its values unmasked; who looked is written down."""
    return await _page(asked, await get(asked.desk, asked.path("letter_id")), reveal=True)


async def _page(asked: Asked, letter: LetterRecord, *, reveal: bool = False) -> Page:
    facts = await letter_facts(asked, letter, reveal=reveal)
    q = "" if letter.status == Status.OPEN else f"--status={letter.status}"
    chosen = await choose(asked.desk, q, letter.id, now=asked.now)
    return Page("letter.html", f"Letter {letter.id}", letter=facts, chosen=chosen, number=1)


async def edit_form(asked: Asked) -> Page:
    """Return the form to edit one letter by hand: it shows the message as it is, so that is written down, too."""
    desk = asked.desk
    desk.check_may_change("", needs_reason=False)
    letter = await get(desk, asked.path("letter_id"))
    body = unpacked(letter)
    if letter.status != Status.OPEN:
        raise rejected(f"letter {letter.id} is {letter.status}: only open letters can be edited")
    if len(body) > _MOST_EDITED_BYTES:
        raise rejected(f"its message has {len(body)} bytes; use cim-worker dead-letters edit {letter.id}")
    await revealed(desk, letter.id)
    return _edit_page(letter.id, letter.revision, unmasked_text(body), "")


def _edit_page(letter_id: str, revision: int | None, text: str, reason: str, error: DeskError | None = None) -> Page:
    status, problem = (200, "") if error is None else (STATUS[error.kind], str(error))
    facts = {"letter_id": letter_id, "revision": revision, "text": text, "reason": reason, "problem": problem}
    return Page("edit.html", f"Edit {letter_id}", status, **facts)


async def save(asked: Asked) -> Page | Response:
    """Save the message of a letter, if today's code takes it; else return the form again, with what was typed."""
    desk, letter_id = asked.desk, asked.path("letter_id")
    text, reason = asked.form.get("text", ""), asked.text("reason")
    desk.check_may_change(reason)
    revision = whole_number(asked.form.get("revision", ""))
    try:
        await edit(desk, letter_id, text.encode("utf-8", "surrogatepass"), reason, revision=revision)
    except DeskError as error:
        return _edit_page(letter_id, revision, text, reason, error)
    asked.office.fresh.clear()
    return RedirectResponse(f"/letters/{letter_id}", 303)


async def letter_facts(asked: Asked, letter: LetterRecord, *, reveal: bool = False) -> dict[str, Any]:
    """Return what a page shows of one letter."""
    told = await details(asked.desk, letter, reveal=reveal)
    faults = {mark.line or 1 for mark in told.marks}
    hints = {hint.line for hint in told.hints}
    return {
        "record": letter,
        "marks": told.marks,
        "hints": told.hints,
        "renames": [one.rename for one in told.hints if one.rename],
        "payload": payload(told.text, faults, hints, is_masked=not reveal),
        "original": None if told.original is None else payload(told.original, (), is_masked=not reveal),
        "forecast": told.forecast if letter.status == Status.OPEN else None,
        "lineage": told.lineage if len(told.lineage) > 1 else [],
        "now": asked.now,
    }
