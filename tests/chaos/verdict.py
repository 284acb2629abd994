"""The invariants: compares what the ledger expects with the evidence. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.chaos.ledger import Shaken
from tests.chaos.messages import AT_SUBSCRIBER, EITHER, IN_STORE, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.chaos.evidence import Evidence, Letter
    from tests.chaos.ledger import Findings, Ledger
    from tests.chaos.pool import LogFacts

_STEADY_SECONDS = 60.0
_WARM_UP_SECONDS = 15.0
_MAX_MIB = 180.0
_GROWTH = 1.25
_GROWTH_MIB = 40.0
_FLAPS_OF_UNSTORABLE = 12
_LETTERS_PROBED_WITH = 8


def missing(ledger: Ledger, evidence: Evidence) -> list[int]:
    """Return the messages that were published and have not arrived anywhere they may end."""
    return [
        number
        for number in ledger.published()
        if ledger.shaken[number] < Shaken.LOST and not has_arrived(number, ledger, evidence)
    ]


def gone_with_queues(ledger: Ledger, evidence: Evidence) -> int:
    """Return how many are nowhere and are no finding: a fault deleted the queues while they were under way."""
    nowhere = (number for number in ledger.published() if not has_arrived(number, ledger, evidence))
    return sum(1 for number in nowhere if ledger.shaken[number] >= Shaken.LOST)


def has_arrived(number: int, ledger: Ledger, evidence: Evidence) -> bool:
    """Tell whether a message is somewhere it may end."""
    kind = ledger.kind(number)
    if kind in AT_SUBSCRIBER and not ledger.shaken[number]:
        return ledger.live[number] > 0
    if kind in AT_SUBSCRIBER | EITHER:
        return ledger.live[number] > 0 or evidence.stored[number] > 0
    if kind is Kind.PARKED:
        return number in evidence.letters and evidence.parked[number] > 0
    if kind in IN_STORE:
        return evidence.stored[number] > 0
    return number in evidence.letters


def judge(ledger: Ledger, evidence: Evidence, findings: Findings, *, max_attempts: int) -> None:
    """Add every violation of an invariant that concerns single messages."""
    for number in missing(ledger, evidence):
        kind = ledger.kind(number)
        what = "a valid message lost" if kind < Kind.INVALID else "a message that has to die has no letter"
        findings.add(what, f"{number} ({kind.name}, {ledger.places[number]})")
    for invariant, example in evidence.wrong:
        findings.add(invariant, example)
    for example in evidence.strangers:
        findings.add("a letter nobody published", example)
    for number, count in evidence.stored.items():
        _judge_stored(number, count, ledger, findings)
    for number, letters in evidence.letters.items():
        _judge_letters(number, letters, ledger, findings, max_attempts)
    for number, count in enumerate(ledger.live):
        if count and ledger.kind(number) not in AT_SUBSCRIBER | EITHER:
            findings.add("at a subscriber though it must not", f"{number} ({ledger.kind(number).name}), {count} times")
    if evidence.trapped > ledger.trapped:
        findings.add("a CC header travelled on", f"{evidence.trapped} in the trap, at most {ledger.trapped} sent there")


def _judge_stored(number: int, count: int, ledger: Ledger, findings: Findings) -> None:
    kind = ledger.kind(number)
    if count > 1:
        findings.add("a document twice", f"{number} ({kind.name}), {count} documents")
    if kind in AT_SUBSCRIBER and not ledger.shaken[number]:
        findings.add("in the store though its conversation is live", f"{number} ({kind.name})")
    if kind >= Kind.INVALID:
        findings.add("stored though it must die", f"{number} ({kind.name})")


def _judge_letters(
    number: int, letters: Sequence[Letter], ledger: Ledger, findings: Findings, max_attempts: int
) -> None:
    kind = ledger.kind(number)
    for letter in letters:
        example = f"{number} ({kind.name}): {letter.code}, attempt {letter.attempt}"
        if kind < Kind.INVALID:
            findings.add("a valid message dead-lettered", example)
        elif letter.code != ledger.codes[number]:
            findings.add("another code", f"{example}, not {ledger.codes[number]}")
        elif kind is Kind.UNSTORABLE and letter.attempt != max_attempts:
            findings.add("another number of attempts", f"{example}, not {max_attempts}")
        elif (kind is Kind.PARKED) != (letter.status == "parked"):
            findings.add("another status", f"{example}: {letter.status}")


def duplicates(ledger: Ledger) -> int:
    """Return how many events subscribers received more often than the harness published their message."""
    return sum(max(0, seen - sent) for seen, sent in zip(ledger.live, ledger.attempts, strict=True))


def double_letters(ledger: Ledger, evidence: Evidence) -> int:
    """Return how many letters there are beyond one for each publish."""
    return sum(max(0, len(letters) - ledger.attempts[number]) for number, letters in evidence.letters.items())


def judge_duplicates(count: int, facts: LogFacts, prefetch: int, findings: Findings) -> int:
    """Add a violation when there are more duplicates than were in flight at the ends of sessions; return the bound."""
    bound = prefetch * max(0, facts.sessions - facts.drained)
    if count > bound:
        findings.add("more duplicates than were in flight", f"{count}, at most {bound}")
    return bound


def judge_double_letters(count: int, duplicates_bound: int, faults: int, findings: Findings) -> None:
    """Add a violation when more letters were counted twice than a session's end or a probe can count twice.

    A process that probes with a letter another process has recorded meanwhile counts it once more.
    """
    bound = duplicates_bound + _LETTERS_PROBED_WITH * faults
    if count > bound:
        findings.add("letters counted twice", f"{count}, at most {bound}")


def judge_outages(facts: LogFacts, faults: int, unstorable: int, findings: Findings) -> None:
    """Add a violation when outages of the store flap: said to be over, and begun again at once.

    One fault may follow another at once. A message that the store always fails for looks like a sick store at each of
    its attempts, and each of its two tries.
    """
    bound = faults + _FLAPS_OF_UNSTORABLE * unstorable
    if facts.flaps > bound:
        findings.add("an outage that flaps", f"{facts.flaps} times, at most {bound} for {faults} faults")


def judge_counts(facts: LogFacts, findings: Findings) -> None:
    """Add a violation for every process whose final counts do not add up."""
    for line in facts.unbalanced:
        findings.add("counters do not add up", line)
    if not facts.ended_cleanly:
        findings.add("counters do not add up", "no process ended cleanly, so there is nothing to check")
    for line in facts.unreadable:
        findings.add("a log line that is no JSON", line)


def judge_memory(samples: Mapping[int, Sequence[tuple[float, float]]], peak: float, findings: Findings) -> None:
    """Add a violation for every process whose memory grows, and for a *peak* (MiB) that is too large."""
    for pid, points in samples.items():
        begun, ended = points[0][0], points[-1][0]
        if ended - begun < _STEADY_SECONDS:
            continue
        first = max(size for at, size in points if at < begun + max(_WARM_UP_SECONDS, (ended - begun) / 3))
        last = min(size for at, size in points if at > ended - (ended - begun) / 4)
        if last > first * _GROWTH + _GROWTH_MIB:
            findings.add("memory grows", f"process {pid}: {first:.0f} to {last:.0f} MiB in {ended - begun:.0f} s")
    if peak > _MAX_MIB:
        findings.add("too much memory", f"{peak:.0f} MiB, at most {_MAX_MIB:.0f}")
