"""One run: publish, break, wait for quiet, compare."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo.errors

from tests.chaos import evidence as reading
from tests.chaos import faults as _faults  # noqa: F401 - enters its faults into the catalogue
from tests.chaos import nodes as _nodes  # noqa: F401 - the same
from tests.chaos import order, verdict
from tests.chaos import sick as _sick  # noqa: F401 - the same
from tests.chaos.fault import FAULTS, OF_NODES, OF_ORDER, PENDING, Fault
from tests.chaos.latency import Latency, feel
from tests.chaos.messages import LONG_MIX, TRAP, VHOST, Kind, Mix
from tests.chaos.platform import CALM_QUEUE, Platform
from tests.chaos.pool import LogFacts, read_log
from tests.chaos.world import DATABASE, DRAIN_SECONDS, MAX_ATTEMPTS, PREFETCH, World, world
from tests.services.broker import installed_version

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.ledger import Findings

_MAX_DEPTH = (4_000, 25_000)
"""Messages in the ingress queue above which the publisher waits, in a short run and in a long one."""
_LIMBO_SECONDS = 200.0
"""A broker that restarts looks again after its dead-lettered messages only every 180 s."""
_GOOD_ONES = 10
_LONG_FROM_MESSAGES = 100_000
_OF_ONE_NODE = {"broker", "queues"}
_NOT_IN_A_CLUSTER: dict[str, Any] = {"refused": 0, "narrow": 0}
"""A quorum queue takes a few more than its limit, so nobody can say which message its fullness refuses."""
_QUEUES = (
    "cim.ingress",
    "cim.ingress.waiting",
    "cim.ingress.retry.1s",
    "cim.ingress.retry.2s",
    "cim.dead-letters",
    "cim.conversation-events",
)


@dataclass(frozen=True)
class Plan:
    """What to do in one run."""

    seed: int
    minutes: float = 5.0
    messages: int = 50_000
    every: float = 5.0
    """Seconds between the beginnings of two faults, on average."""
    at_once: int = 2
    only: tuple[str, ...] = ()
    """Names of faults; all when empty."""
    mix: Mix | None = None
    feel: tuple[str, ...] | None = None
    """Names of faults during which live messages are timed before everything is broken at random; None: all that
    touch neither the broker nor the workers."""
    code: Path | None = None
    """A folder with the worker package to run instead of the tree's."""
    keep: Path | None = None
    """A folder to copy logs to."""
    cluster: bool = False
    """Whether the broker is three nodes, and the nodes fail."""
    partitions: int = 0
    """Into how many partitions the ingress is divided, and the order of each key kept and checked; 0: neither."""
    quiet_timeout: float = _LIMBO_SECONDS
    broker_root: Path | None = None
    """Root file system of another RabbitMQ; this machine's unless given."""
    store: str = "embedded"
    """A name of `tests.contract.store.servers`."""

    @property
    def traffic(self) -> Mix:
        """The mix of messages."""
        if self.cluster:
            return replace(self.mix or Mix(), **_NOT_IN_A_CLUSTER)
        return self.mix or (LONG_MIX if self.is_long else Mix())

    @property
    def is_long(self) -> bool:
        """Whether there are so many messages that most of them have to be easy."""
        return self.messages >= _LONG_FROM_MESSAGES

    @property
    def max_depth(self) -> int:
        """Messages in the ingress queue above which the publisher waits."""
        return _MAX_DEPTH[self.is_long]


@dataclass
class Report:
    """The figures of one run. `violations` is empty when every invariant held."""

    seed: int
    messages: int = 0
    published: int = 0
    seconds: float = 0.0
    seconds_until_quiet: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    at_subscribers: int = 0
    in_store: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    parked: int = 0
    gone_with_queues: int = 0
    """Messages that were in queues which a fault deleted with their virtual host."""
    overtaken: int = 0
    """Messages that arrived after later ones of their key, whose order had been given up."""
    given_up: int = 0
    """How often the order of a key was given up."""
    duplicates: int = 0
    double_letters: int = 0
    duplicates_bound: int = 0
    sessions: int = 0
    pool_starts: int = 0
    publisher_connections: int = 0
    """Of the harness: each loss makes it publish again what was unconfirmed."""
    clean_ends: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    outages: dict[str, int] = field(default_factory=dict)
    flaps: int = 0
    """Outages of the store that were said to be over and began again at once."""
    peak_mib: float = 0.0
    latency_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By fault: the 99th percentile of live messages (median of one-second windows) and the worst, milliseconds."""
    latency_bound_ms: float = 0.0
    violations: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self)


class Progress:
    """What the progress line shows."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.active: list[str] = []
        self.faults: Counter[str] = Counter()


async def run(plan: Plan, say: Callable[[str], None], progress: Callable[[World, Progress], None]) -> Report:
    """Do one run and return its report. *progress* is called twice a second."""
    started = time.monotonic()
    state = Progress()
    where, store, cluster = plan.broker_root, plan.store, plan.cluster
    services = world(
        plan.seed,
        plan.traffic,
        say,
        code=plan.code,
        broker_root=where,
        store=store,
        cluster=cluster,
        in_order=bool(plan.partitions),
    )
    async with services as made:
        platform = Platform(made)
        watching = asyncio.create_task(_watch(made, state, progress))
        try:
            state.phase = "opening conversations"
            await _open(made, platform, plan.partitions)
            state.phase = "timing live messages"
            latency = await feel(made, platform, timed(plan)) if timed(plan) else Latency()
            state.phase = "publishing"
            await _break_while_publishing(made, platform, plan, state)
            state.phase = "waiting for quiet"
            broken = time.monotonic()
            evidence = await _settled(made, plan.quiet_timeout, state)
            until_quiet = time.monotonic() - broken
            state.phase = "stopping"
            await _stop_pool(made)
            await _read_queues(made, evidence)
            report = _report(plan, made, state, evidence, time.monotonic() - started, until_quiet)
            _add_latency(report, latency, made.ledger.findings)
            return report
        finally:
            watching.cancel()
            if plan.keep is not None:
                _keep_logs(made, plan.keep)


async def _watch(made: World, state: Progress, progress: Callable[[World, Progress], None]) -> None:
    while True:
        for pid, (size, peak) in (await asyncio.to_thread(made.pool.memory_mib)).items():
            made.memory.setdefault(pid, []).append((time.monotonic(), size))
            made.peak_mib = max(made.peak_mib, peak)
        for _ in range(4):
            progress(made, state)
            await asyncio.sleep(0.5)


async def _open(made: World, platform: Platform, partitions: int) -> None:
    divided = ("--partitions", str(partitions)) if partitions else ()
    await asyncio.to_thread(made.pool.command, "topology", "apply", *divided)
    await made.make_trap()
    made.pool.start()
    await platform.open_all()
    # Closed ones have no exchange to wait for; their registry entry is what counts.
    await platform.wait_for_registry()


async def _break_while_publishing(made: World, platform: Platform, plan: Plan, state: Progress) -> None:
    publishing = asyncio.create_task(_publish(made, plan))
    breaking = asyncio.create_task(_Injector(made, platform, plan, state).run(publishing))
    try:
        await publishing
        await breaking
        await made.publisher.flushed()
    finally:
        for task in (publishing, breaking):
            task.cancel()
        await asyncio.gather(publishing, breaking, return_exceptions=True)


async def _publish(made: World, plan: Plan) -> None:
    """Publish evenly over the time, and slower when the ingress queue fills."""
    started = time.monotonic()
    rate = plan.messages / (plan.minutes * 60)
    await made.publisher.publish(made.traffic.parked())
    while made.traffic.count < plan.messages:
        due = min(plan.messages, int((time.monotonic() - started) * rate) + 1)
        if made.traffic.count >= due or made.publisher.ingress_depth > plan.max_depth:
            await asyncio.sleep(0.02)
            continue
        for _ in range(min(50, due - made.traffic.count)):
            await made.publisher.publish(made.traffic.next())
        await asyncio.sleep(0)


def chosen(plan: Plan) -> list[Fault]:
    """Return the faults of a run: the named ones, or all but those the worker does not pass yet."""
    if plan.only:
        return [(FAULTS | PENDING | OF_NODES | OF_ORDER)[name] for name in plan.only]
    if plan.partitions:
        names = order.faults_in_order(installed_version(plan.broker_root))
        return [*OF_ORDER.values(), *(FAULTS[name] for name in names)]
    if plan.cluster:
        return [*OF_NODES.values(), *(one for one in FAULTS.values() if not one.needs & _OF_ONE_NODE)]
    return list(FAULTS.values())


def timed(plan: Plan) -> list[Fault]:
    """Return the faults during which live messages are timed."""
    if plan.feel is not None:
        return [(FAULTS | PENDING)[name] for name in plan.feel]
    if plan.partitions:
        return []
    return [fault for fault in chosen(plan) if fault.elsewhere]


class _Injector:
    """Starts faults at random times, several at once if they do not touch the same thing."""

    def __init__(self, made: World, platform: Platform, plan: Plan, state: Progress) -> None:
        self._made = made
        self._platform = platform
        self._plan = plan
        self._state = state
        self._rng: random.Random = made.rng
        self._catalogue = chosen(plan)
        self._due: list[Fault] = []
        self._rounds = 0
        self._active: dict[asyncio.Task[None], Fault] = {}

    async def run(self, publishing: asyncio.Task[None]) -> None:
        """Break things until the time is over, everything is published and every fault has been."""
        ends = time.monotonic() + self._plan.minutes * 60
        try:
            while time.monotonic() < ends or not publishing.done() or not self._every_fault_was_started():
                self._start_one()
                await asyncio.sleep(self._rng.uniform(0.4, 1.6) * self._plan.every)
                self._collect()
            while self._active:
                await asyncio.wait(self._active)
                self._collect()
        finally:
            for task in self._active:
                task.cancel()
            await asyncio.gather(*self._active, return_exceptions=True)

    def _every_fault_was_started(self) -> bool:
        return all(self._state.faults[fault.name] for fault in self._catalogue)

    def _start_one(self) -> None:
        if len([one for one in self._active.values() if one.every == 1]) >= self._plan.at_once:
            return
        if not self._due:
            self._due = self._next_round()
        taken = {need for fault in self._active.values() for need in fault.needs}
        fault = next((fault for fault in self._due if not fault.needs & taken), None)
        if fault is None:
            return
        self._due.remove(fault)
        self._state.faults[fault.name] += 1
        self._made.say(f"{fault.name} …")
        task = asyncio.create_task(self._inject(fault), name=fault.name)
        self._active[task] = fault
        self._state.active = [one.name for one in self._active.values()]

    def _next_round(self) -> list[Fault]:
        """Every fault once, in random order; the rare ones only in every third round."""
        self._rounds += 1
        faults = [fault for fault in self._catalogue if fault.every == 1 or self._rounds % fault.every == 1]
        return self._rng.sample(faults, len(faults))

    async def _inject(self, fault: Fault) -> None:
        await fault.inject(self._made, self._platform, self._rng)

    def _collect(self) -> None:
        for task in [task for task in self._active if task.done()]:
            fault = self._active.pop(task)
            if error := task.exception():
                said = getattr(error, "stderr", None) or ""
                self._made.ledger.findings.add("a fault that could not be done", f"{fault.name}: {error!r} {said}")
        self._state.active = [one.name for one in self._active.values()]


async def _settled(made: World, patience: float, state: Progress) -> reading.Evidence:
    """Wait until nothing is under way and everything has arrived, or the time is over; return the evidence."""
    deadline = time.monotonic() + patience
    evidence = reading.Evidence()
    while True:
        await _show_that_the_store_is_well(made)
        busy = await _busy_queues(made)
        if not busy or time.monotonic() > deadline:
            with contextlib.suppress(pymongo.errors.PyMongoError):
                evidence = await asyncio.to_thread(reading.read_store, made.store.uri, DATABASE, made.ledger)
                evidence.parked = Counter(_parked_numbers(made, evidence))
                missing = verdict.missing(made.ledger, evidence)
                if not missing and not busy:
                    return evidence
                state.phase = _waiting_for(made, missing, busy)
        if time.monotonic() > deadline:
            for queue, count in busy.items():
                made.ledger.findings.add("not quiet", f"{count} messages still in {queue} after {patience:g} s")
            return evidence
        await asyncio.sleep(1)


async def _show_that_the_store_is_well(made: World) -> None:
    """Have good documents stored while unstorable ones are left, with which alone the store would look sick."""
    left = made.ledger.kinds.count(Kind.UNSTORABLE)
    with contextlib.suppress(pymongo.errors.PyMongoError):
        left -= await asyncio.to_thread(reading.count_letters, made.store.uri, DATABASE, "unexpected_error")
    for _ in range(_GOOD_ONES if left > 0 else 0):
        await made.publisher.publish(made.traffic.stand_alone())
        await asyncio.sleep(0.1)


def _waiting_for(made: World, missing: list[int], busy: dict[str, int]) -> str:
    examples = ", ".join(f"{number} {made.ledger.kind(number).name}" for number in missing[:3])
    return f"waiting for quiet, {len(missing)} not arrived ({examples}), busy {busy or 'nothing'}"


def _parked_numbers(made: World, evidence: reading.Evidence) -> list[int]:
    """Take the letters' word for it until the queue itself can be read, at the very end."""
    return [number for number in evidence.letters if made.ledger.kind(number) is Kind.PARKED]


async def _busy_queues(made: World) -> dict[str, int]:
    """Return the queues with messages in them or in somebody's hands."""
    answer: list[dict[str, Any]] = []
    path = f"/queues/{VHOST}?columns=name,messages,messages_ready,messages_unacknowledged"
    await made.manage(lambda: answer.extend(made.broker.management.request("GET", path)))
    depths = await made.admin(lambda channel: {q: channel.queue_declare(q, passive=True) for q in _QUEUES})
    busy = {queue["name"]: int(queue.get("messages") or 0) for queue in answer}
    busy = {name: count for name, count in busy.items() if count and _has_to_run_empty(name)}
    return busy | {q: d.method.message_count for q, d in depths.items() if d.method.message_count}


def _has_to_run_empty(queue: str) -> bool:
    return queue not in (TRAP, CALM_QUEUE, "cim.dead-letters.parked", "cim.outcomes")


async def _stop_pool(made: World) -> None:
    """Stop the pool as an operator would; nothing may be left of it."""
    made.pool.supervisor.terminate()
    left = await asyncio.to_thread(made.pool.wait_for_end, made.pool.alive(), DRAIN_SECONDS + 15)
    left = [pid for pid in left if pid != made.pool.supervisor.pid] or [
        pid for pid in made.pool.alive() if pid != made.pool.supervisor.pid
    ]
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = made.pool.supervisor.wait(1)
        if code != 0:
            made.ledger.findings.add("the pool ended with an error", f"exit code {code}")
    if left:
        made.ledger.findings.add("processes left behind", f"{len(left)} after the pool was stopped")


async def _read_queues(made: World, evidence: reading.Evidence) -> None:
    evidence.parked = await made.admin(lambda channel: reading.read_parked(channel, made.ledger))
    evidence.trapped = await made.admin(reading.read_trap)
    for queue, count in (await _depths(made)).items():
        made.ledger.findings.add("not quiet", f"{count} messages came back to {queue} when the pool stopped")


async def _depths(made: World) -> dict[str, int]:
    declared = await made.admin(lambda channel: {q: channel.queue_declare(q, passive=True) for q in _QUEUES})
    return {queue: frame.method.message_count for queue, frame in declared.items() if frame.method.message_count}


def _report(
    plan: Plan, made: World, state: Progress, evidence: reading.Evidence, seconds: float, until_quiet: float
) -> Report:
    ledger, findings = made.ledger, made.ledger.findings
    facts = read_log(made.pool.log)
    verdict.judge(ledger, evidence, findings, max_attempts=MAX_ATTEMPTS)
    verdict.judge_counts(facts, findings)
    late = order.overtaken(ledger, facts.given_up)
    order.judge_order(late, findings)
    faults = sum(state.faults.values()) + len(timed(plan))
    verdict.judge_outages(facts, faults, ledger.kinds.count(Kind.UNSTORABLE), findings)
    report = Report(plan.seed, messages=len(ledger), published=sum(ledger.attempts), seconds=round(seconds, 1))
    report.duplicates, report.double_letters = verdict.duplicates(ledger), verdict.double_letters(ledger, evidence)
    report.duplicates_bound = verdict.judge_duplicates(report.duplicates, facts, PREFETCH, findings)
    verdict.judge_double_letters(report.double_letters, report.duplicates_bound, faults, findings)
    report.overtaken = late.given_up
    report.given_up = sum(1 for line in facts.given_up if line.until == line.at)
    report.peak_mib = round(made.peak_mib, 1)
    verdict.judge_memory(made.memory, made.peak_mib, findings)
    report.seconds_until_quiet = round(until_quiet, 1)
    report.faults = dict(sorted(state.faults.items()))
    report.kinds = {Kind(kind).name: count for kind, count in sorted(Counter(ledger.kinds).items())}
    report.at_subscribers = sum(1 for count in ledger.live if count)
    report.in_store, report.parked = len(evidence.stored), sum(evidence.parked.values())
    report.gone_with_queues = verdict.gone_with_queues(ledger, evidence)
    report.dead = dict(Counter(letter.code for letters in evidence.letters.values() for letter in letters))
    _add_log_facts(report, facts, made)
    return report


def _add_latency(report: Report, latency: Latency, findings: Findings) -> None:
    latency.judge(findings)
    for name in latency.windows:
        report.latency_ms[name] = (round(latency.p99(name) * 1000, 1), round(latency.worst(name) * 1000, 1))
        report.latency_bound_ms = round(latency.bound() * 1000, 1)
    report.violations, report.examples = dict(findings.counts), findings.examples


def _add_log_facts(report: Report, facts: LogFacts, made: World) -> None:
    report.sessions, report.clean_ends, report.pool_starts = facts.sessions, facts.ended_cleanly, made.pool.starts
    report.publisher_connections = made.publisher.connections
    report.counted, report.outages, report.flaps = facts.outcomes, facts.outages, facts.flaps


def _keep_logs(made: World, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for log in (made.pool.log, *made.broker.logs):
        with contextlib.suppress(OSError):
            shutil.copy(log, folder / Path(log).name)
