"""Causes on the left, the sample letter on the right, and how the pool is doing at the top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import RedirectResponse, Response

from worker.desk.query import Cause, Order, groups, one
from worker.web.desk.asked import Chosen, choose
from worker.web.desk.letters import letter_facts
from worker.web.desk.render import Page

if TYPE_CHECKING:
    from worker.desk.status import Report
    from worker.web.desk.asked import Asked

_MOST: Final = 100
_FRESH_SECONDS: Final = 4.0
_LARGE: Final = 64 * 1024
"""Bytes of a message beyond which it is fetched anew each time rather than kept."""


async def overview(asked: Asked) -> Page | Response:
    """Return the page of all causes, nothing chosen."""
    return await show(asked)


async def show(asked: Asked) -> Page | Response:
    """Return causes, and of the one that is named its newest letter that fits the filter; a letter has its own page."""
    chosen = await asked.chosen()
    if chosen.name in chosen.filter.letters:
        return RedirectResponse(f"/letters/{chosen.name}", 303)
    facts = await _list_facts(asked, chosen)
    letter: dict[str, Any] | None = None
    cause = None
    if chosen.name:
        meant = dict(chosen.filter.equal).get("group", ())
        fingerprint = meant[0] if len(meant) == 1 else chosen.name
        cause = next((found for found in facts["every"] if found.fingerprint == fingerprint), None)
        letter = await _sample(asked, chosen.q, fingerprint, "" if cause is None else cause.sample)
    number = facts["total"] if not chosen.name else cause.letters if cause is not None else 0
    title = f"{cause.code} · {cause.letters}" if cause is not None else "Dead letters"
    return Page("causes.html", title, chosen=chosen, cause=cause, letter=letter, number=number, **facts)


async def _sample(asked: Asked, q: str, fingerprint: str, newest: str) -> dict[str, Any]:
    """Return what is shown of the *newest* letter of a cause that fits the filter *q*, or of its newest one of all.

    While the store has much to do, that is what was shown before.
    """

    async def told() -> dict[str, Any]:
        found = await asked.desk.letters.some({"_id": newest}, 1) if newest else []
        return await letter_facts(asked, found[0] if found else await one(asked.desk, fingerprint))

    fresh, key = asked.office.fresh, f"sample {fingerprint} {q}"
    found = await fresh.get(key, _FRESH_SECONDS, told)
    if len(found["record"].body) > _LARGE:
        fresh.forget(key)
    return {**found, "now": asked.now}


async def listed(asked: Asked) -> Page:
    """Return the list of causes alone, for a page that is open already."""
    return Page("_list.html", "", chosen=await asked.chosen(), **await _list_facts(asked, await asked.chosen()))


async def live(asked: Asked) -> Page:
    """Return how the pool is doing, for the head of an open page."""
    report: Report = await asked.office.fresh.get("status", _FRESH_SECONDS, asked.office.look)
    return Page("_live.html", "", report=report, attention=report.attention())


async def _list_facts(asked: Asked, chosen: Chosen) -> dict[str, Any]:
    order = Order.NEWEST if asked.text("order") == Order.NEWEST else Order.LARGEST
    all_of_them = await choose(asked.desk, chosen.q, "", now=asked.now)

    async def counted() -> list[Cause]:
        return await groups(asked.desk, all_of_them.filter, order)

    found = await asked.office.fresh.get(f"causes {order} {chosen.q}", _FRESH_SECONDS, counted)
    return {
        "every": found,
        "causes": found[:_MOST],
        "more": max(0, len(found) - _MOST),
        "total": sum(cause.letters for cause in found),
        "order": order.value,
        "now": asked.now,
    }
