"""What the desk promises, each with the one line that keeps it, what breaks it, and the test that has to notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path


class PatchError(Exception):
    """The text to replace is not in the source exactly once: the promise has to follow the source."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise, and how to break it."""

    says: str
    file: str
    """Below `worker/`."""
    kept: str
    """Text that is in it exactly once."""
    broken: str
    """What it becomes."""
    shown_by: str
    """The test that goes red then, as pytest names it; more than one: with a blank between."""


def plant(promise: Promise, folder: Path) -> None:
    """Break a promise in the copy of the tree in *folder*. Raises `PatchError`."""
    file = folder / "worker" / promise.file
    source = file.read_text()
    if source.count(promise.kept) != 1:
        raise PatchError(f"{promise.says}: found {source.count(promise.kept)} times in {promise.file}: {promise.kept}")
    changed = source.replace(promise.kept, promise.broken)
    compile(changed, str(file), "exec")
    file.write_text(changed)


_DESK: Final = "tests/integration/test_desk.py"
_LETTERS: Final = "tests/contract/store/test_letters.py"
_COMMANDS: Final = "tests/acceptance/test_deciding.py"
_PAGE: Final = "tests/acceptance/test_desk_page.py"
_FILTER: Final = "tests/unit/test_desk_filter.py"
_LIVE: Final = "tests/unit/test_desk_live.py"
_DOOR: Final = "tests/unit/test_desk_page.py"
_RECORDER: Final = "tests/integration/test_recorder.py"

PROMISES: Final = (
    # -- replay --------------------------------------------------------------------------------------------------------
    Promise(
        "a letter is claimed by compare and set",
        "desk/sending.py",
        "change(ids, claim_state(Status.OPEN), Change(claim,",
        "change(ids, {}, Change(claim,",
        f"{_DESK}::test_letters_that_a_colleague_has_claimed_are_left_to_them",
    ),
    Promise(
        "one claims only what is open at the store",
        "mongo/letters.py",
        'updates = [UpdateOne({"_id": one, **guard}, update) for one in ids]',
        'updates = [UpdateOne({"_id": one}, update) for one in ids]',
        f"{_LETTERS}::test_a_letter_is_changed_by_compare_and_set",
    ),
    Promise(
        "and on the embedded store",
        "mongo/letters.py",
        'update_many({**guard, "_id": {"$in": ids}}, update)',
        'update_many({"_id": {"$in": ids}}, update)',
        f"{_LETTERS}::test_a_letter_is_changed_by_compare_and_set",
    ),
    Promise(
        "only what the broker confirmed is marked",
        "desk/sending.py",
        "sent = [one for one, confirmation in results.items() if confirmation is Confirmation.CONFIRMED]",
        "sent = [one for one, confirmation in results.items() if confirmation not in _NOT_SENT]",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id "
        f"{_DESK}::test_of_a_lost_broker_only_what_was_on_its_way_is_unknown_and_what_was_claimed_next_is_open",
    ),
    Promise(
        "what the broker returns is open again",
        "desk/sending.py",
        "        if back:\n            await self._give_back(back)\n",
        "",
        f"{_DESK}::test_what_comes_back_stays_open_and_is_not_counted_as_a_replay",
    ),
    Promise(
        "the next page is published when the one before is marked",
        "desk/sending.py",
        "                done |= await self.finish()\n",
        "",
        f"{_DESK}::test_the_next_page_is_claimed_while_one_is_on_its_way_and_published_when_that_one_is_marked",
    ),
    Promise(
        "what was claimed and not published is given back when a job stops",
        "desk/sending.py",
        "        except (Stop, BrokerLost):\n            await self._give_back(left)\n",
        "        except (Stop, BrokerLost):\n",
        f"{_DESK}::test_of_a_lost_broker_only_what_was_on_its_way_is_unknown_and_what_was_claimed_next_is_open "
        f"{_DESK}::test_large_letters_go_in_smaller_pages_and_none_stays_claimed",
    ),
    Promise(
        "an outcome that is there already is not overwritten by the mark",
        "desk/sending.py",
        "await self._desk.letters.change(ids, self._mine, Change(values))",
        "await self._desk.letters.change(ids, {}, Change(values))",
        f"{_DESK}::test_a_letter_expires_once_it_is_decided_and_never_while_it_is_open "
        f"{_DESK}::test_a_ramp_waits_for_outcomes_and_stops_when_too_many_die_again",
    ),
    Promise(
        "resuming looks up what was in hand",
        "desk/steps.py",
        "        await refresh(self._desk, self._journal, sending)\n",
        "",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "in the store",
        "desk/outcomes.py",
        "    outcomes |= await _stored(desk, left)\n",
        "",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "in the journal",
        "desk/outcomes.py",
        "        outcomes |= await journal.outcomes_of({letter.id: letter.job_id for letter in left}, since)\n",
        "",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "and among the letters",
        "desk/outcomes.py",
        "    outcomes = await _successors(desk, letters)\n",
        "    outcomes: dict[str, tuple[str, str]] = {}\n",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "what nobody knows is sent again",
        "desk/steps.py",
        "            await self._pages.publish(page, again=True)\n",
        "            pass\n",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "with the id it had",
        "desk/sending.py",
        'message_id = properties.pop("message_id", None) or letter.id',
        "message_id = job_id",
        f"{_DESK}::test_a_replay_is_sent_as_it_came_with_what_it_is_a_replay_of "
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "and it says how many",
        "desk/sending.py",
        "            self._action.counts[AGAIN] += len(sent)\n",
        "            pass\n",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "one of two who resume a job does",
        "desk/replay.py",
        'update(job_id, mine, {"updatedAt": document["updatedAt"]})',
        "update(job_id, mine, {})",
        f"{_DESK}::test_of_two_people_who_resume_a_job_one_does",
    ),
    Promise(
        "a job that runs is not resumed",
        "desk/replay.py",
        '    if document["state"] == "running":\n',
        "    if False:\n",
        f"{_DESK}::test_a_job_runs_until_its_process_has_ended_or_is_silent_and_is_resumed_by_nobody_before",
    ),
    Promise(
        "a job that was killed is told from one that runs",
        "desk/jobs.py",
        'silent or desk.has_ended(document.get("process", ""))',
        "False",
        f"{_DESK}::test_a_job_runs_until_its_process_has_ended_or_is_silent_and_is_resumed_by_nobody_before",
    ),
    Promise(
        "a ramp stops when too many die again",
        "desk/steps.py",
        "        if new > self._options.max_failures.of(size):\n",
        "        if False:\n",
        f"{_DESK}::test_a_ramp_waits_for_outcomes_and_stops_when_too_many_die_again",
    ),
    Promise(
        "a step of the ramp waits for the outcomes of the one before",
        "desk/steps.py",
        "        await self._wait_for_outcomes(needed=True)\n        await self._check_failures()\n",
        "        await self._check_failures()\n",
        f"{_DESK}::test_a_ramp_stops_when_nobody_settles",
    ),
    Promise(
        "it stops when nobody settles",
        "desk/steps.py",
        "                if left and needed:\n",
        "                if False:\n",
        f"{_DESK}::test_a_ramp_stops_when_nobody_settles",
    ),
    Promise(
        "it stops when live traffic lags",
        "desk/steps.py",
        "            raise Stop(jobs.STOPPED, lagging)\n",
        "            pass\n",
        f"{_DESK}::test_live_traffic_that_lags_and_a_colleague_end_a_replay",
    ),
    Promise(
        "live traffic lags beyond two seconds",
        "desk/live.py",
        "_LIMIT_SECONDS: Final = 2.0",
        "_LIMIT_SECONDS: Final = 20.0",
        _LIVE,
    ),
    Promise(
        "or beyond twice of what it took before",
        "desk/live.py",
        "min(_LIMIT_SECONDS, max(2 * self._usual, _FLOOR_SECONDS))",
        "_LIMIT_SECONDS",
        _LIVE,
    ),
    Promise(
        "replays do not count as live traffic",
        "desk/live.py",
        "        if entry.replay_of is None and status_after(entry.outcome):\n            self._seen",
        "        if status_after(entry.outcome):\n            self._seen",
        _LIVE,
    ),
    Promise(
        "Ctrl-C ends a job after the page in hand",
        "desk/steps.py",
        "        if self._control.stop.is_set():\n",
        "        if False:\n",
        f"{_DESK}::test_a_replay_that_is_stopped_ends_after_the_letters_in_hand",
    ),
    Promise(
        "a colleague can stop it",
        "desk/steps.py",
        '        if document is not None and document.get("cancelledBy"):\n',
        "        if False:\n",
        f"{_DESK}::test_live_traffic_that_lags_and_a_colleague_end_a_replay "
        f"{_DESK}::test_a_colleague_stops_a_job_and_whoever_ran_it_reads_who_did",
    ),
    Promise(
        "no more are sent than the limit",
        "desk/steps.py",
        "min(PAGE, max(0, limit - self._sent - self._pages.in_hand))",
        "PAGE",
        f"{_DESK}::test_a_limit_counts_the_letters_whose_confirm_is_not_there_yet",
    ),
    Promise(
        "nor faster than the rate",
        "desk/steps.py",
        "        due = self._started + self._paced / self._options.rate\n",
        "        due = self._started\n",
        f"{_DESK}::test_a_slow_replay_is_not_taken_for_one_that_was_killed",
    ),
    Promise(
        "the letters of a conversation go one after the other",
        "desk/steps.py",
        "        await self._wait_for_outcomes(needed=True)\n        for letter_id, why",
        "        for letter_id, why",
        f"{_DESK}::test_the_next_letter_of_a_conversation_waits_for_the_outcome_of_the_one_before",
    ),
    Promise(
        "in the order in which they happened",
        "desk/order.py",
        "one.letter_id for one in sorted(places) if",
        "one.letter_id for one in sorted(places, reverse=True) if",
        f"{_DESK}::test_letters_of_a_conversation_go_one_after_the_other_and_those_that_are_outdated_stay",
    ),
    Promise(
        "what follows one that did not arrive is held",
        "desk/steps.py",
        "            while heads[letter_id].ids:\n",
        "            while False:\n",
        f"{_DESK}::test_what_follows_a_letter_that_did_not_arrive_is_held",
    ),
    Promise(
        "what is older than an activity of the store is held",
        "desk/order.py",
        "            elif forecast.after_newer:\n",
        "            elif False:\n",
        f"{_DESK}::test_letters_of_a_conversation_go_one_after_the_other_and_those_that_are_outdated_stay",
    ),
    Promise(
        "and what is older than one that was published",
        "desk/order.py",
        "{one.letter_id for one in places if newest.get(name, 0) > one.arrived_at}",
        "set[str]()",
        f"{_DESK}::test_a_letter_waits_while_newer_activities_of_its_conversation_were_published",
    ),
    Promise(
        "replays are counted",
        "desk/sending.py",
        'Change(claim, add={"replays": 1})',
        "Change(claim)",
        f"{_DESK}::test_a_ramp_waits_for_outcomes_and_stops_when_too_many_die_again "
        f"{_DESK}::test_a_letter_expires_once_it_is_decided_and_never_while_it_is_open",
    ),
    Promise(
        "and capped",
        "desk/steps.py",
        "            elif letter.replays >= self._desk.max_replays and not self._options.force:\n",
        "            elif False:\n",
        f"{_DESK}::test_what_was_replayed_too_often_is_refused_unless_forced",
    ),
    Promise(
        "the plan says so",
        "desk/plan.py",
        "    if letter.replays >= desk.max_replays and not force:\n",
        "    if False:\n",
        f"{_DESK}::test_a_plan_says_what_todays_code_would_do_and_touches_nothing",
    ),
    Promise(
        "a successor counts the replays of the letter it came from",
        "mongo/dead_letters.py",
        "before = replays.get(group[0].replay_of, 0)",
        "before = 0",
        f"{_LETTERS}::test_a_replay_that_died_again_counts_the_replays_of_the_letter_it_came_from",
    ),
    Promise(
        "a conversation event goes back to its exchange",
        "desk/sending.py",
        "exchange = contract.CONVERSATION_EVENTS if is_lifecycle(letter) else contract.INGRESS",
        "exchange = contract.INGRESS",
        f"{_DESK}::test_a_replay_is_sent_as_it_came_with_what_it_is_a_replay_of",
    ),
    Promise(
        "a replay says whose message it is",
        "desk/plan.py",
        "        headers[contract.USER_ID] = letter.user_id\n",
        "        pass\n",
        f"{_DESK}::test_a_replay_is_sent_as_it_came_with_what_it_is_a_replay_of",
    ),
    Promise(
        "a trusted user passes the sender check as whoever published it first",
        "pipeline/senders.py",
        "            user = published_by(delivery)\n",
        "            pass\n",
        "tests/unit/test_pipeline.py::test_a_sender_id_belongs_to_its_broker_user",
    ),
    Promise(
        "and nobody else does",
        "pipeline/senders.py",
        "        if user is not None and user in self.trusted:\n",
        "        if user is not None:\n",
        "tests/unit/test_pipeline.py::test_who_is_not_trusted_gains_nothing_by_naming_another",
    ),
    Promise(
        "the worker writes the outcome to the letter",
        "dead_letters/outcomes.py",
        "        if contract.REPLAY_OF in settled.delivery.properties.headers:",
        "        if False:",
        "tests/unit/test_replay_outcomes.py::test_the_last_word_about_a_replay_is_written_to_its_letter",
    ),
    Promise(
        "of that job alone",
        "mongo/dead_letters.py",
        'UpdateOne({"_id": one.letter_id, **claim_state(status, one.job_id)}, self._settling(one))',
        'UpdateOne({"_id": one.letter_id}, self._settling(one))',
        f"{_LETTERS}::test_the_outcome_of_a_replay_is_written_to_the_letter_that_is_under_way_and_to_no_other",
    ),
    Promise(
        "a letter that died again names its successor",
        "mongo/dead_letters.py",
        '                "successor": one.successor,\n',
        "",
        f"{_LETTERS}::test_the_outcome_of_a_replay_is_written_to_the_letter_that_is_under_way_and_to_no_other",
    ),
    # -- plan ----------------------------------------------------------------------------------------------------------
    Promise(
        "a plan knows what the store holds",
        "desk/plan.py",
        "        elif place in to_store and _event_id(to_store[place]) in held:\n",
        "        elif False:\n",
        f"{_DESK}::test_a_plan_says_what_todays_code_would_do_and_touches_nothing",
    ),
    Promise(
        "and what would come after newer activities",
        "desk/plan.py",
        "        elif newest.get(forecast.conversation_id, 0) > forecast.timestamp:\n",
        "        elif False:\n",
        f"{_DESK}::test_letters_of_a_conversation_go_one_after_the_other_and_those_that_are_outdated_stay",
    ),
    Promise(
        "and which cause is a new one",
        "desk/plan.py",
        "    same = failure.fingerprint == letter.fingerprint\n",
        "    same = True\n",
        f"{_DESK}::test_a_plan_says_what_todays_code_would_do_and_touches_nothing",
    ),
    Promise(
        "a plan lets others of its process work",
        "desk/plan.py",
        "    if place % _AT_ONCE == 0:\n",
        "    if False:\n",
        f"{_DESK}::test_a_plan_of_many_letters_lets_others_of_its_process_work",
    ),
    # -- changes -------------------------------------------------------------------------------------------------------
    Promise(
        "a fix is validated before it is saved",
        "desk/edit.py",
        "            if forecast.prediction in _BROKEN and not force:\n                action",
        "            if False:\n                action",
        f"{_DESK}::test_a_fix_saves_what_would_not_die_again_and_leaves_the_rest_alone_unless_forced",
    ),
    Promise(
        "an edit, too",
        "desk/edit.py",
        "    if forecast.prediction in _BROKEN and not force:\n        at =",
        "    if False:\n        at =",
        f"{_COMMANDS}::test_an_edit_is_saved_when_todays_code_takes_it_and_it_is_still_the_same_message",
    ),
    Promise(
        "message and sender id are locked for rules",
        "desk/edit.py",
        "            if not force and any(lock[: len(path)] == path for lock in LOCKED):\n",
        "            if False:\n",
        _FILTER,
    ),
    Promise(
        "and for editors",
        "desk/edit.py",
        "        if was is not None and was != now:\n",
        "        if False:\n",
        f"{_COMMANDS}::test_an_edit_is_saved_when_todays_code_takes_it_and_it_is_still_the_same_message",
    ),
    Promise(
        "the original is kept",
        "desk/edit.py",
        "original = letter.body if letter.original_body is None else letter.original_body",
        "original = letter.original_body",
        _FILTER,
    ),
    Promise(
        "the first one",
        "desk/edit.py",
        "original = letter.body if letter.original_body is None else letter.original_body",
        "original = letter.body",
        _FILTER,
    ),
    Promise(
        "of two who edit a letter one does",
        "desk/edit.py",
        '    guard = {"status": Status.OPEN.value, "revision": after.revision - 1}\n',
        '    guard = {"status": Status.OPEN.value}\n',
        f"{_DESK}::test_of_two_people_who_edit_a_letter_at_the_same_time_one_does",
    ),
    Promise(
        "an edit of what somebody has looked at before is refused",
        "desk/edit.py",
        "    if revision is not None and revision != before.revision:\n",
        "    if False:\n",
        f"{_DESK}::test_an_edit_of_what_somebody_else_has_edited_meanwhile_is_refused",
    ),
    Promise(
        "discarded letters are kept until the retention ends",
        "desk/decide.py",
        "change = Change(values, expires_at=now + desk.retention_ms)",
        "change = Change(values, expires_at=now)",
        f"{_DESK}::test_a_letter_expires_once_it_is_decided_and_never_while_it_is_open",
    ),
    Promise(
        "settled ones, too",
        "mongo/dead_letters.py",
        '"expiresAt": DatetimeMS(one.at + self._retention_ms),',
        '"expiresAt": DatetimeMS(one.at),',
        f"{_DESK}::test_a_letter_expires_once_it_is_decided_and_never_while_it_is_open",
    ),
    Promise(
        "and those whose outcome the desk has looked up",
        "desk/outcomes.py",
        "change = Change(values, expires_at=now + desk.retention_ms)",
        "change = Change(values)",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "open ones never expire: not when they are restored",
        "desk/decide.py",
        'remove=("expiresAt",)',
        "remove=()",
        f"{_DESK}::test_a_letter_expires_once_it_is_decided_and_never_while_it_is_open",
    ),
    Promise(
        "nor when another one of their content dies",
        "mongo/dead_letters.py",
        '        update["$unset"] = {"expiresAt": ""}\n',
        "",
        f"{_LETTERS}::test_another_letter_of_a_decided_content_opens_it_and_is_not_deleted_with_it",
    ),
    Promise(
        "the server deletes what has expired",
        "mongo/dead_letters.py",
        'delete_many({"expiresAt": {"$lt": DatetimeMS(now)}})',
        'delete_many({"expiresAt": {"$lt": DatetimeMS(0)}})',
        f"{_LETTERS}::test_what_was_kept_long_enough_is_deleted_and_no_open_letter",
    ),
    Promise(
        "and nothing else",
        "mongo/dead_letters.py",
        'delete_many({"expiresAt": {"$lt": DatetimeMS(now)}})',
        "delete_many({})",
        f"{_LETTERS}::test_what_was_kept_long_enough_is_deleted_and_no_open_letter",
    ),
    Promise(
        "only what was decided can be restored",
        "desk/decide.py",
        "    if wrong := set(chosen.status) - set(_RESTORABLE):\n",
        "    if wrong := set[str]():\n",
        _FILTER,
    ),
    Promise(
        "a purge needs typed confirmation",
        "cli/dead_letters/purging.py",
        "show_default=False) != words:\n",
        "show_default=False) == 0:\n",
        f"{_COMMANDS}::test_a_purge_deletes_for_good_and_only_what_was_typed",
    ),
    Promise(
        "an erasure names a customer and nothing else",
        "desk/decide.py",
        "    if len(named) != 1 or len(chosen.equal) > 1 or",
        "    if len(named) != 1 or",
        f"{_DESK}::test_an_erasure_that_names_more_than_a_customer_deletes_nothing",
    ),
    Promise(
        "and its audit does not name them",
        "desk/decide.py",
        'Action.begin(desk, "purge", reason, filter=_without_customer(chosen))',
        'Action.begin(desk, "purge", reason, filter=str(chosen))',
        "tests/acceptance/test_dead_letters.py::test_a_customer_is_erased_and_the_audit_does_not_name_them",
    ),
    # -- who, and why --------------------------------------------------------------------------------------------------
    Promise(
        "each letter of a change has a line",
        "desk/audit.py",
        '        self._lines.append(f"{letter_id} {what}")\n',
        "",
        f"{_DESK}::test_after_a_lost_broker_what_is_known_is_settled_and_the_rest_is_sent_again_with_the_same_id",
    ),
    Promise(
        "each change says why",
        "desk/desk.py",
        "        if needs_reason and not reason.strip():\n",
        "        if False:\n",
        f"{_DESK}::test_a_change_without_a_reason_is_refused",
    ),
    Promise(
        "who only reads changes nothing",
        "desk/desk.py",
        "        if self.read_only:\n",
        "        if False:\n",
        f"{_DESK}::test_who_only_reads_begins_nothing_that_is_written_down",
    ),
    Promise(
        "and begins nothing that is written down",
        "desk/audit.py",
        '        desk.check_may_change("", needs_reason=False)\n',
        "",
        f"{_DESK}::test_who_only_reads_begins_nothing_that_is_written_down",
    ),
    Promise(
        "whoever sees values is written down",
        "desk/audit.py",
        '    action.note(letter_id, "revealed")\n    await action.end()\n',
        '    action.note(letter_id, "revealed")\n',
        f"{_COMMANDS}::test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down",
    ),
    Promise(
        "whoever exports them, too",
        "desk/transfer.py",
        '        action = await Action.begin(desk, "export", "", filter=str(chosen))\n',
        "",
        f"{_COMMANDS}::test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down",
    ),
    Promise(
        "what is exported is redacted",
        "desk/transfer.py",
        "base64.b64encode(document[name]).decode() if reveal else None",
        "base64.b64encode(document[name]).decode()",
        f"{_COMMANDS}::test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down",
    ),
    Promise(
        "the message in it, too",
        "desk/transfer.py",
        '"message": message if reveal else masked(message)',
        '"message": message',
        f"{_COMMANDS}::test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down",
    ),
    Promise(
        "what is redacted is not imported",
        "desk/transfer.py",
        '        if document["redacted"]:\n',
        "        if False:\n",
        f"{_COMMANDS}::test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down",
    ),
    Promise(
        "values that may be personal are masked",
        "desk/masking.py",
        '    return f"<text of {len(value)}>" if isinstance(value, str) else "<number>"',
        "    return value",
        _FILTER,
    ),
    # -- the recorder --------------------------------------------------------------------------------------------------
    Promise(
        "the recorder stops at its limit",
        "dead_letters/recorder.py",
        "                if not await self._is_full():\n",
        "                if not await self._is_full() or True:\n",
        f"{_RECORDER}::test_at_its_limit_the_recorder_leaves_letters_in_their_queue_and_says_so",
    ),
    Promise(
        "and says so",
        "dead_letters/recorder.py",
        '            self._reporter.warn("letters_full", letters=count, limit=self._max_letters)\n',
        "",
        f"{_RECORDER}::test_at_its_limit_the_recorder_leaves_letters_in_their_queue_and_says_so",
    ),
    Promise(
        "it has deleted what was kept long enough",
        "dead_letters/recorder.py",
        "        await self._delete_expired(self._clock.now_ms())\n",
        "",
        f"{_RECORDER}::test_letters_kept_long_enough_are_deleted_now_and_then_and_that_may_fail",
    ),
    Promise(
        "a cause whose letters are gone is not new",
        "mongo/causes.py",
        "            await self.collection.bulk_write(updates, ordered=False)\n",
        "            pass\n",
        f"{_LETTERS}::test_a_cause_is_known_since_its_first_letter_though_that_is_deleted",
    ),
    Promise(
        "letters that come in parts are each there once",
        "mongo/letter_pages.py",
        '"_id": {"$gt": last}',
        '"_id": {"$gte": last}',
        f"{_LETTERS}::test_letters_that_come_in_many_parts_are_each_there_once",
    ),
    Promise(
        "large letters come in small pages",
        "mongo/letter_pages.py",
        "if len(found) >= page or size >= most_bytes:",
        "if len(found) >= page:",
        f"{_DESK}::test_large_letters_go_in_smaller_pages_and_none_stays_claimed",
    ),
    Promise(
        "a server that does not answer in time is not asked more",
        "mongo/errors.py",
        "    return error.failure != store_silent()\n",
        "    return True\n",
        f"{_LETTERS}::test_a_server_that_does_not_answer_in_time_is_not_asked_in_another_way",
    ),
    # -- the page ------------------------------------------------------------------------------------------------------
    Promise(
        "a form without our value is refused",
        "web/desk/door.py",
        'return bool(visit) and hmac.compare_digest(self.form_value(visit).encode(), value.encode("utf-8", "replace"))',
        "return True",
        _DOOR,
    ),
    Promise(
        "a form from another site is refused",
        "web/desk/door.py",
        'if site is not None and site not in {"same-origin", "none"}:',
        "if False:",
        _DOOR,
    ),
    Promise(
        "where the browser does not say from where, its origin counts",
        "web/desk/door.py",
        "if site is None and origin is not None and",
        "if False and",
        _DOOR,
    ),
    Promise(
        "each change is checked for that",
        "web/desk/app.py",
        "                return self._forged()\n            return await self._let_in",
        "                pass\n            return await self._let_in",
        f"{_PAGE}::test_what_is_forged_misspelt_or_not_allowed_is_refused_and_changes_nothing",
    ),
    Promise(
        "a name of a stranger that leads here is refused",
        "web/desk/door.py",
        '(_host_of(request.headers.get("host", "")) in self.hosts)',
        "True",
        _DOOR,
    ),
    Promise(
        "an address that others reach needs authentication",
        "web/desk/door.py",
        "        if not is_guarded and settings.desk_host not in _LOOPBACK:\n",
        "        if False:\n",
        f"{_DOOR}::test_an_address_that_others_reach_needs_a_token_file_or_a_proxy",
    ),
    Promise(
        "the header of a proxy is believed only from it",
        "web/desk/door.py",
        "        if self.user_header is not None and self._is_from_proxy(request):\n",
        "        if self.user_header is not None:\n",
        _DOOR,
    ),
    Promise(
        "a session ends",
        "web/desk/door.py",
        "session is not None and session.expires > time.monotonic()",
        "session is not None",
        _DOOR,
    ),
    Promise(
        "who may only read changes nothing in the browser",
        "web/desk/opening.py",
        "        read_only = self.settings.read_only or not may_change\n",
        "        read_only = self.settings.read_only\n",
        f"{_PAGE}::test_others_come_in_with_a_token_or_through_a_proxy_that_is_trusted",
    ),
    Promise(
        "a hostile payload is text",
        "web/desk/render.py",
        "        autoescape=True,\n",
        "        autoescape=False,\n",
        _DOOR,
    ),
    Promise(
        "without what turns the direction of writing",
        "web/desk/render.py",
        "        finalize=_visible,\n",
        "",
        _DOOR,
    ),
    Promise(
        "nothing of another site is loaded",
        "web/desk/app.py",
        "b\"default-src 'none'; script-src 'self';",
        'b"default-src *; script-src *;',
        f"{_PAGE}::test_what_is_forged_misspelt_or_not_allowed_is_refused_and_changes_nothing",
    ),
    Promise(
        "each answer says so",
        "web/desk/app.py",
        '                message["headers"] = [*message.get("headers", []), *_HEADERS]\n',
        "                pass\n",
        f"{_PAGE}::test_what_is_forged_misspelt_or_not_allowed_is_refused_and_changes_nothing",
    ),
    Promise(
        "whoever reveals a letter in the browser is written down",
        "web/desk/letters.py",
        "    await revealed(desk, letter.id)\n",
        "",
        f"{_PAGE}::test_letters_are_found_fixed_planned_and_replayed_in_the_browser",
    ),
    Promise(
        "and wherever else values are shown",
        "desk/details.py",
        "        await revealed(desk, letter.id)\n",
        "",
        f"{_COMMANDS}::test_values_are_masked_unless_somebody_reveals_them_and_that_is_written_down",
    ),
    Promise(
        "a busy store holds no page up",
        "web/desk/fresh.py",
        "        if answer.before is not None:\n",
        "        if False:\n",
        _DOOR,
    ),
    Promise(
        "a stop in the browser ends the operation",
        "web/desk/operations.py",
        "    found.stop.set()\n",
        "",
        f"{_PAGE}::test_letters_are_found_fixed_planned_and_replayed_in_the_browser",
    ),
    # -- which letters, and stopping -----------------------------------------------------------------------------------
    Promise(
        "only open letters are changed or sent",
        "desk/filter.py",
        "        if self.is_open:\n            return self",
        "        if self is self:\n            return self.of_status(Status.OPEN)",
        f"{_DESK}::test_only_open_letters_are_changed_and_a_filter_that_names_others_changes_none",
    ),
    Promise(
        "a ramp is kept in the order of conversations, too",
        "desk/steps.py",
        "await self._round(lines[: int(min(self._room(), room))])",
        "await self._round(lines[: self._room()])",
        f"{_DESK}::test_a_ramp_is_kept_and_stops_in_the_order_of_conversations_too",
    ),
    Promise(
        "a resumed job goes on as it is asked to",
        "desk/replay.py",
        "replace(Options.of(document), **(changes or {}))",
        "Options.of(document)",
        f"{_DESK}::test_a_job_that_stopped_goes_on_in_another_way_if_that_is_asked_for",
    ),
    Promise(
        "any job can be cancelled",
        "desk/audit.py",
        'if document is None or not document.get("cancelledBy"):',
        "if document is None or document:",
        f"{_DESK}::test_whatever_works_on_many_letters_can_be_cancelled",
    ),
    Promise(
        "what is no letter is not imported",
        "desk/transfer.py",
        "_ID.fullmatch(letter.id) and LetterRecord.read(letter.to_document()) == letter",
        "bool(letter)",
        f"{_DESK}::test_a_line_that_is_no_letter_is_named_and_nothing_is_imported",
    ),
    Promise(
        "who watches sees every letter",
        "cli/dead_letters/watching.py",
        "now_ms() - _OVERLAP_MS), _MOST_AT_ONCE",
        "now_ms() - _OVERLAP_MS), _SHOWN_AT_FIRST",
        f"{_COMMANDS}::test_who_watches_sees_every_letter_however_many_come_at_once",
    ),
    Promise(
        "and stops when nobody reads it",
        "cli/dead_letters/watching.py",
        "while has_reader():",
        "while True:",
        f"{_COMMANDS}::test_who_watches_stops_when_nobody_reads_any_more",
    ),
)
