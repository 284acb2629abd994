"""Deciding about letters without sending them: discard, restore, purge, and the erasure of a customer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from worker.dead_letters.letter import DECIDED, Status, claim_state, reopened
from worker.desk.audit import Action
from worker.desk.errors import usage
from worker.desk.ports import Change
from worker.desk.query import count, matching

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.desk.desk import Desk
    from worker.desk.filter import Filter

_RESTORABLE: Final = tuple(sorted(one.value for one in DECIDED))


def _nobody(_count: int) -> None:
    """Progress that nobody follows."""


async def discard(desk: Desk, chosen: Filter, reason: str, progress: Callable[[int], None] = _nobody) -> Action:
    """Discard the open letters *chosen*; they are kept until the retention ends. Returns the audited action."""
    desk.check_may_change(reason)
    chosen = chosen.to_be("discarded")
    now = desk.clock.now_ms()
    values = {"status": Status.DISCARDED.value, "statusAt": now, "reason": reason}
    change = Change(values, expires_at=now + desk.retention_ms)
    action = await Action.begin(desk, "discard", reason, filter=str(chosen), words=chosen.words())
    return await _change_all(desk, action, chosen, change, "discarded", progress)


def restorable(chosen: Filter) -> Filter:
    """Return *chosen* for letters that can be restored: discarded ones unless it names other statuses."""
    if chosen.status == (Status.OPEN.value,):
        return chosen.of_status(Status.DISCARDED)
    if not chosen.status:
        return replace(chosen, status=_RESTORABLE)
    if wrong := set(chosen.status) - set(_RESTORABLE):
        raise usage(f"letters that are {', '.join(sorted(wrong))} cannot be restored; only {', '.join(_RESTORABLE)}")
    return chosen


async def restore(desk: Desk, chosen: Filter, reason: str, progress: Callable[[int], None] = _nobody) -> Action:
    """Open the letters *chosen* again (see `restorable`). Returns the audited action."""
    desk.check_may_change(reason)
    chosen = restorable(chosen)
    change = Change(reopened(desk.clock.now_ms()), remove=("expiresAt",))
    action = await Action.begin(desk, "restore", reason, filter=str(chosen), words=chosen.words())
    return await _change_all(desk, action, chosen, change, "restored", progress)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What a purge would delete."""

    letters: int
    activities: int = 0


async def purge_preview(desk: Desk, chosen: Filter, *, activities: bool = False) -> Erasure:
    """Return what `purge` would delete."""
    letters = await count(desk, chosen)
    if not activities:
        return Erasure(letters)
    customer = _customer(chosen)
    return Erasure(letters, await desk.activities.count_of_customer(customer))


JOURNAL_NOTE: Final = (
    "The journal cim.outcomes holds ids only (message, sender, conversation) and drops them with its age, "
    "CIM_JOURNAL_MAX_DAYS; letters that are no JSON name no customer, and parked ones are in their queue."
)
"""What an erasure does not delete."""


async def purge(
    desk: Desk, chosen: Filter, reason: str, *, activities: bool = False, progress: Callable[[int], None] = _nobody
) -> Action:
    """Delete the letters *chosen*, of whatever status it names, for good; with *activities*, its customer's, too.

    The only function that deletes anything. The audit keeps ids of letters and, of a customer, only a digest.
    """
    desk.check_may_change(reason)
    customer = _customer(chosen) if activities else ""
    action = await Action.begin(desk, "purge", reason, filter=_without_customer(chosen))
    async for page in matching(desk, chosen, bodies=False):
        await desk.letters.delete([letter.id for letter in page])
        for letter in page:
            action.note(letter.id, "purged")
        await action.flush()
        progress(len(page))
        if await action.was_cancelled():
            return action
    if activities:
        action.counts["activities"] += await desk.activities.delete_of_customer(customer)
    await action.end()
    return action


async def _change_all(
    desk: Desk, action: Action, chosen: Filter, change: Change, what: str, progress: Callable[[int], None]
) -> Action:
    async for page in matching(desk, chosen, bodies=False):
        by_state: dict[tuple[str, str], list[str]] = {}
        for letter in page:
            by_state.setdefault((letter.status, letter.job_id), []).append(letter.id)
        for state, ids in by_state.items():
            changed = await desk.letters.change(ids, claim_state(*state), change)
            for letter_id in ids:
                action.note(letter_id, what)
            if changed < len(ids):  # somebody else was faster with some of them
                action.counts[what] -= len(ids) - changed
                action.counts["changed meanwhile"] += len(ids) - changed
        await action.flush()
        progress(len(page))
        if await action.was_cancelled():
            return action
    await action.end()
    return action


def _customer(chosen: Filter) -> str:
    named = dict(chosen.equal).get("customer", ())
    if len(named) != 1 or len(chosen.equal) > 1 or chosen.where or chosen.letters or chosen.since or chosen.until:
        raise usage("to erase a customer name the customer and nothing else: purge --customer ID --activities")
    return named[0]


def _without_customer(chosen: Filter) -> str:
    """Return the filter for the audit: what erases a customer must not write the customer down again."""
    equal = tuple(
        (name, tuple(map(_digest, values)) if name == "customer" else values) for name, values in chosen.equal
    )
    return str(replace(chosen, equal=equal))


def _digest(value: str) -> str:
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:12]}"


def everything(chosen: Filter) -> Filter:
    """Return *chosen* for letters of any status: what an erasure means."""
    return replace(chosen, status=())
