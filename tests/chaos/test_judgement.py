"""What the harness calls a violation, on small made-up evidence."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.chaos import faults, sick  # noqa: F401 - they enter their faults into the catalogue
from tests.chaos.evidence import Evidence
from tests.chaos.fault import FAULTS, OF_ORDER, PENDING
from tests.chaos.latency import UNDISTURBED, Latency
from tests.chaos.ledger import Findings, Ledger, Shaken
from tests.chaos.messages import Kind, Mix, Places, Sample, Traffic, canonical
from tests.chaos.order import BROKEN, faults_in_order, judge_order, overtaken
from tests.chaos.pool import REPOSITORY, GivenUp, LogFacts, read_log
from tests.chaos.verdict import gone_with_queues, judge_outages, missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def _published(ledger: Ledger, *samples: Sample) -> None:
    for sample in samples:
        ledger.expect(sample)
        ledger.confirmed[sample.number] = 1


def _traffic() -> Traffic:
    return Traffic(random.Random(1), "run", Places.of("run"), Mix(), now_ms=1_760_000_000_000)


def test_one_slow_moment_is_not_felt_and_a_slow_fault_is() -> None:
    quick, slow = [0.01] * 100, [0.01] * 90 + [1.0] * 10
    findings = Findings()
    Latency({UNDISTURBED: [quick, quick], "one moment": [quick, slow, quick], "all along": [slow, slow]}).judge(
        findings
    )
    assert [example.partition(":")[0] for example in findings.examples["live messages feel what fails elsewhere"]] == [
        "all along"
    ]


def test_a_live_message_that_never_came_is_lost() -> None:
    findings = Findings()
    Latency({UNDISTURBED: [[0.01] * 100]}, lost=1).judge(findings)
    assert findings.counts == {"a valid message lost": 1}


def test_what_was_in_a_deleted_queue_may_be_gone_and_a_live_one_without_its_exchange_may_be_stored() -> None:
    ledger, evidence, traffic = Ledger("run"), Evidence(), _traffic()
    gone, stored, lost = (traffic.large(10) for _ in range(3))
    _published(ledger, gone, stored, lost)
    ledger.shake([gone.number], Shaken.LOST)
    ledger.shake([stored.number], Shaken.STORED)
    evidence.stored[stored.number] = evidence.stored[lost.number] = 1
    assert missing(ledger, evidence) == [lost.number]
    assert gone_with_queues(ledger, evidence) == 1


def test_a_repetition_that_has_not_arrived_may_still_be_in_a_queue() -> None:
    ledger, traffic = Ledger("run"), _traffic()
    arrived, repeated, never = samples = [traffic.large(10) for _ in range(3)]
    _published(ledger, *samples)
    for sample in (*samples, repeated):
        ledger.handed_over(sample)
    for sample in (arrived, repeated):
        ledger.live[sample.number] += 1
    assert list(ledger.since(0)) == [repeated.number, never.number]


def test_a_message_written_again_is_the_same_to_a_reader_of_json_and_other_bytes() -> None:
    traffic = _traffic()
    first = traffic.stand_alone()
    (again,) = traffic.written_again(1)
    assert again.body != first.body
    assert canonical(json.loads(again.body)) == first.body


def test_other_content_under_the_same_id_is_told_apart() -> None:
    ledger, traffic = Ledger("run"), _traffic()
    samples = [traffic.stand_alone()]
    while samples[-1].kind is not Kind.VARIANT:
        samples.append(traffic.next())
    for sample in samples:
        ledger.expect(sample)
    variant = samples[-1]
    message = json.loads(variant.body)
    assert ledger.number_of(message["id"]) != variant.number
    assert ledger.number_of_message(message, variant.body) == variant.number


def test_an_outage_that_is_over_and_begins_again_at_once_is_counted(tmp_path: Path) -> None:
    def line(second: str, event: str) -> str:
        entry = {"timestamp": f"2026-11-26T01:00:{second}Z", "event": event, "dependency": "store", "pid": 1}
        return json.dumps(entry) + "\n"

    log = tmp_path / "log"
    log.write_text(
        line("01.0", "dependency_down")
        + line("02.0", "dependency_up")
        + line("02.1", "dependency_down")
        + line("03.0", "dependency_up")
        + line("09.0", "dependency_down")
    )
    assert read_log(log).flaps == 1


def test_outages_may_flap_once_a_fault() -> None:
    findings = Findings()
    judge_outages(LogFacts(flaps=3), 3, 0, findings)
    assert not findings.counts
    judge_outages(LogFacts(flaps=4), 3, 0, findings)
    assert findings.counts == {"an outage that flaps": 1}


def test_the_readme_names_every_sick_fault() -> None:
    text = (REPOSITORY / "tests/chaos/README.md").read_text()
    names = [one.name for one in (FAULTS | PENDING).values() if one.inject.__module__ == sick.__name__]
    assert [name for name in names if f"`{name}`" not in text] == []


def _arrived(keys: str, arrivals: Sequence[int]) -> Ledger:
    """Return a ledger in which one message after the other was entered, a second each, and arrived as how manieth."""
    ledger, traffic = Ledger("run"), _traffic()
    for key, arrival in zip(keys, arrivals, strict=True):
        sample = replace(traffic.stand_alone(), key=key)
        ledger.expect(sample)
        ledger.entered_at[sample.number] = 100.0 + sample.number
        ledger.arrivals[sample.number], ledger.arrived_at[sample.number] = arrival, 200.0 + arrival
    return ledger


def test_what_arrives_after_a_later_one_of_its_key_breaks_the_order_unless_the_log_gave_it_up_meanwhile() -> None:
    ledger = _arrived("aabba", [2, 1, 3, 4, 5])
    findings = Findings()
    judge_order(overtaken(ledger, []), findings)
    assert findings.counts == {BROKEN: 1}
    assert findings.examples[BROKEN] == ["0 of a arrived 1.000 s after 1"]
    for line, promised in (
        (GivenUp("a", 150, 150), 0),
        (GivenUp("b", 150, 150), 1),
        (GivenUp("a", 50, 50), 1),
        (GivenUp("a", 50, 150), 0),
        (GivenUp("a", 300, 300), 1),
    ):
        found = overtaken(ledger, [line])
        assert (len(found.promised), found.given_up) == (promised, 1 - promised), line


def test_what_never_arrived_or_has_no_place_in_an_order_is_overtaken_by_nobody() -> None:
    ledger = _arrived("aaa", [1, 0, 2])
    assert overtaken(ledger, []).promised == []
    ledger = _arrived("aaa", [1, 3, 2])
    ledger.keys[1] = None
    assert overtaken(ledger, []).promised == []


def test_a_message_that_is_repeated_before_it_arrived_may_arrive_as_repeated_and_has_no_place_in_an_order() -> None:
    ledger, traffic = Ledger("run"), _traffic()
    arrived, missing = (replace(traffic.stand_alone(), key="a") for _ in range(2))
    for sample in (arrived, missing):
        ledger.expect(sample)
    ledger.live[arrived.number] = 1
    for sample in (arrived, missing):
        ledger.expect(sample)
    assert ledger.keys == ["a", None]


def test_the_log_says_when_the_order_of_which_key_was_given_up_and_when_it_dropped_such_lines(tmp_path: Path) -> None:
    def line(second: float, key: str) -> str:
        entry = {"event": "order_given_up", "key": key, "queue": "q", "reason": "r", "pid": 1}
        return json.dumps({"timestamp": f"2026-11-26T01:00:{second:06.3f}Z", **entry}) + "\n"

    at = 1795654801.0
    log = tmp_path / "log"
    log.write_text(line(1, "k") + line(2, "l"))
    assert read_log(log).given_up == [GivenUp("k", at, at), GivenUp("l", at + 1, at + 1)]
    log.write_text(line(1, "k") + "".join(line(2, "l") for _ in range(99)) + line(12, "l"))
    found = read_log(log).given_up
    assert [one for one in found if one.until != one.at] == [GivenUp("k", at, at + 10), GivenUp("l", at + 1, at + 10)]
    assert len(found) == 103


def test_the_readme_names_every_fault_of_an_order() -> None:
    text = (REPOSITORY / "tests/chaos/README.md").read_text()
    assert [name for name in OF_ORDER if f"`{name}`" not in text] == []
    assert set(faults_in_order((4, 3))) <= set(FAULTS)
    assert set(faults_in_order((4, 3))) - set(faults_in_order((3, 10, 8))) == {"broker_restart", "broker_kill_9"}


CUT_START = """Traceback (most recent call last):
  File "<string>", line 1, in <module>
  File "/usr/lib/python3.11/multiprocessing/spawn.py", line 122, in spawn_main
    exitcode = _main(fd, parent_sentinel)
               ^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.11/multiprocessing/spawn.py", line 130, in _main
    preparation_data = reduction.pickle.load(from_parent)
                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
EOFError: Ran out of input
"""


def test_only_a_process_whose_supervisor_died_while_it_started_it_may_leave_a_traceback(tmp_path: Path) -> None:
    log, line = tmp_path / "pool.log", '{"event": "consuming"}\n'
    log.write_text(line + CUT_START + line + CUT_START)
    facts = read_log(log)
    assert (facts.sessions, facts.unreadable) == (2, [])
    for of_ours in (CUT_START.replace("multiprocessing/spawn.py", "worker/process/entry.py"), "EOFError: what\n"):
        log.write_text(line + of_ours + CUT_START)
        assert read_log(log).unreadable == of_ours.splitlines()
