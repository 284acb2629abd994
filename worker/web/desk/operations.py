"""Plan, replay, fix, discard, restore: previewed, started in the background, followed and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import RedirectResponse, Response

from worker.desk.audit import Action
from worker.desk.decide import discard, restorable, restore
from worker.desk.edit import FixPreview, diff, fix, parse_rules, preview
from worker.desk.errors import DeskError, not_found, usage
from worker.desk.numbers import whole_number
from worker.desk.options import Options, parse_allowed, parse_ramp
from worker.desk.plan import Plan, plan
from worker.desk.query import count
from worker.desk.steps import Control
from worker.web.desk.asked import STATUS
from worker.web.desk.render import Page
from worker.web.desk.tasks import Task

if TYPE_CHECKING:
    from collections import Counter

    from worker.desk.edit import Rules
    from worker.web.desk.asked import Asked, Chosen

_FAILURES: Final = "5%"
_ALL: Final = "all"
_MOST_DIFF_LINES: Final = 200


async def plan_letters(asked: Asked) -> Response:
    """Begin to work out what a replay would do."""
    chosen, desk = await asked.chosen(), asked.desk
    facts = {"chosen": chosen, "reason": asked.text("reason")}
    task = Task("plan", _title("Plan", chosen), chosen.command("plan"), facts, changes=False)
    task.total = await count(desk, chosen.filter)

    async def work(task: Task) -> Plan:
        return await plan(desk, chosen.filter, progress=task.advance)

    return _begun(asked.tasks.start(task, work))


async def replay_letters(asked: Asked) -> Response:
    """Begin to send letters to where they came from; for all of them the plan comes first."""
    chosen, desk, reason = await asked.open_letters("replayed"), asked.desk, asked.text("reason")
    desk.check_may_change(reason)
    if asked.text("number") == _ALL and not asked.text("plan"):
        return await plan_letters(asked)
    options = _options(asked)
    task = Task("replay", _title("Replay", chosen), chosen.command("replay", *_flags(asked)), {"chosen": chosen})
    task.can_stop = True
    found = await count(desk, chosen.filter)
    task.total = found if options.limit is None else min(found, options.limit)
    plan_hash = asked.text("plan")

    async def work(task: Task) -> Action:
        return await asked.office.replay(desk, chosen.filter, reason, options, plan_hash, _control(task))

    return _begun(asked.tasks.start(task, work))


async def fix_form(asked: Asked) -> Page:
    """Return the form for rules that change messages."""
    chosen = await asked.open_letters("fixed")
    asked.desk.check_may_change("", needs_reason=False)
    return await _fix_page(asked, chosen)


async def _fix_page(asked: Asked, chosen: Chosen, problem: str = "", status: int = 200) -> Page:
    written = {"set_": asked.text("set"), "unset": asked.text("unset"), "rename": asked.text("rename")}
    number = await _number(asked, chosen)
    return Page("fix.html", "Fix", status, chosen=chosen, number=number, problem=problem, **written)


async def preview_fix(asked: Asked) -> Page | Response:
    """Begin to work out what rules would do; of rules that cannot be read, return the form again."""
    chosen, desk = await asked.open_letters("fixed"), asked.desk
    try:
        rules = _rules(asked)
    except DeskError as error:
        return await _fix_page(asked, chosen, str(error), STATUS[error.kind])
    written = {name: asked.text(name) for name in ("set", "unset", "rename")}
    command = chosen.command("fix", *rules.words())
    facts = {"chosen": chosen, "rules": rules, "written": written}
    task = Task("fix preview", _title("Fix", chosen), command, facts, changes=False)
    task.total = await count(desk, chosen.filter)

    async def work(task: Task) -> FixPreview:
        return await preview(desk, chosen.filter, rules, task.advance)

    return _begun(asked.tasks.start(task, work))


async def apply_fix(asked: Asked) -> Response:
    """Begin to save what rules make of letters."""
    chosen, desk, rules, reason = await asked.open_letters("fixed"), asked.desk, _rules(asked), asked.text("reason")
    desk.check_may_change(reason)
    command = chosen.command("fix", *rules.words(), "--apply", "--reason", reason)
    task = Task("fix", _title("Fix", chosen), command, {"chosen": chosen})
    task.total = await count(desk, chosen.filter)

    async def work(task: Task) -> Action:
        return await fix(desk, chosen.filter, rules, reason, progress=task.advance)

    return _begun(asked.tasks.start(task, work))


async def discard_form(asked: Asked) -> Page:
    """Return the preview of discarding letters."""
    chosen = await asked.open_letters("discarded")
    asked.desk.check_may_change("", needs_reason=False)
    return Page("discard.html", "Discard", chosen=chosen, number=await _number(asked, chosen))


async def discard_letters(asked: Asked) -> Response:
    """Begin to discard letters."""
    chosen, desk, reason = await asked.open_letters("discarded"), asked.desk, asked.text("reason")
    desk.check_may_change(reason)
    task = Task("discard", _title("Discard", chosen), chosen.command("discard", "--reason", reason), {"chosen": chosen})
    task.total = await count(desk, chosen.filter)

    async def work(task: Task) -> Action:
        return await discard(desk, chosen.filter, reason, task.advance)

    return _begun(asked.tasks.start(task, work))


async def restore_letters(asked: Asked) -> Response:
    """Begin to open letters again."""
    chosen, desk, reason = await asked.chosen(), asked.desk, asked.text("reason")
    desk.check_may_change(reason)
    task = Task("restore", _title("Restore", chosen), chosen.command("restore", "--reason", reason), {"chosen": chosen})
    task.total = await count(desk, restorable(chosen.filter))

    async def work(task: Task) -> Action:
        return await restore(desk, chosen.filter, reason, task.advance)

    return _begun(asked.tasks.start(task, work))


async def task(asked: Asked) -> Page:
    """Return how far an operation is, or how it ended."""
    found = _found(asked)
    template = "_task.html" if asked.text("part") else "task.html"
    return Page(template, found.title, task=found, **_result_facts(found))


async def stop(asked: Asked) -> Response:
    """Ask an operation to stop."""
    found = _found(asked)
    asked.desk.check_may_change("", needs_reason=False)
    found.stop.set()
    return _begun(found)


def _found(asked: Asked) -> Task:
    found = asked.tasks.get(asked.path("task_id"))
    if found is None:
        raise not_found("this operation is not known here any more; what it changed is in the audit and in jobs")
    return found


def _result_facts(task: Task) -> dict[str, Any]:
    if isinstance(task.result, FixPreview):
        pairs = task.result.examples
        return {"diffs": [diff(before, after)[:_MOST_DIFF_LINES] for before, after in pairs], "action": None}
    return {"diffs": [], "action": task.result if isinstance(task.result, Action) else None}


def _begun(task: Task) -> Response:
    return RedirectResponse(f"/tasks/{task.id}", 303)


def _title(verb: str, chosen: Chosen) -> str:
    return f"{verb} {chosen.name or chosen.q or 'all open letters'}"


async def _number(asked: Asked, chosen: Chosen) -> int:
    return await count(asked.desk, chosen.filter)


def _options(asked: Asked) -> Options:
    number = asked.text("number") or "1"
    limit = whole_number(number)
    if number != _ALL and not limit:
        raise usage(f"{number!r} is no number of letters")
    ramp = asked.text("ramp")
    return Options(
        limit=limit,
        rate=_rate(asked.text("rate")),
        ramp=parse_ramp(ramp) if ramp else (),
        max_failures=parse_allowed(asked.text("failures") or _FAILURES),
        keep_order=asked.text("order") == "keep",
    )


def _rate(text: str) -> float | None:
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise usage(f"{text!r} is no number of letters a second")
    return rate


def _flags(asked: Asked) -> list[str]:
    flags = []
    if (number := asked.text("number") or "1") != _ALL:
        flags += ["--limit", number]
    for name, flag in (("ramp", "--ramp"), ("rate", "--rate"), ("failures", "--max-failures")):
        if value := asked.text(name):
            flags += [flag, value]
    if asked.text("order") == "keep":
        flags.append("--keep-order")
    return [*flags, "--reason", asked.text("reason")]


def _control(task: Task) -> Control:
    def progress(counts: Counter[str]) -> None:
        task.counts = dict(counts)
        task.done = counts["sent"]

    return Control(progress=progress, stop=task.stop)


def _rules(asked: Asked) -> Rules:
    def lines(name: str) -> list[str]:
        return [line.strip() for line in asked.text(name).split("\n") if line.strip()]

    return parse_rules(set_=lines("set"), unset=lines("unset"), rename=lines("rename"))
