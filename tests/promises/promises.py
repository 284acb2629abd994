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
        _DESK,
    ),
    Promise(
        "one claims only what is open at the store",
        "mongo/letters.py",
        'updates = [UpdateOne({"_id": one, **guard}, update) for one in ids]',
        'updates = [UpdateOne({"_id": one}, update) for one in ids]',
        _LETTERS,
    ),
    Promise(
        "and on the embedded store",
        "mongo/letters.py",
        'update_many({**guard, "_id": {"$in": ids}}, update)',
        'update_many({"_id": {"$in": ids}}, update)',
        _LETTERS,
    ),
    Promise(
        "only what the broker confirmed is marked",
        "desk/sending.py",
        "sent = [one for one, confirmation in results.items() if confirmation is Confirmation.CONFIRMED]",
        "sent = [one for one, confirmation in results.items() if confirmation not in _NOT_SENT]",
        _DESK,
    ),
    Promise(
        "what the broker returns is open again",
        "desk/sending.py",
        "        if back:\n            await self._give_back(back)\n",
        "",
        _DESK,
    ),
    Promise(
        "the next page is published when the one before is marked",
        "desk/sending.py",
        "                done |= await self.finish()\n",
        "",
        _DESK,
    ),
    Promise(
        "what was claimed and not published is given back when a job stops",
        "desk/sending.py",
        "        except (Stop, BrokerLost):\n            await self._give_back(left)\n",
        "        except (Stop, BrokerLost):\n",
        _DESK,
    ),
    Promise(
        "an outcome that is there already is not overwritten by the mark",
        "desk/sending.py",
        "await self._desk.letters.change(ids, self._mine, Change(values))",
        "await self._desk.letters.change(ids, {}, Change(values))",
        _DESK,
    ),
    Promise(
        "resuming looks up what was in hand",
        "desk/steps.py",
        "        await refresh(self._desk, self._journal, sending)\n",
        "",
        _DESK,
    ),
    Promise(
        "in the store",
        "desk/outcomes.py",
        "    outcomes |= await _stored(desk, left)\n",
        "",
        _DESK,
    ),
    Promise(
        "in the journal",
        "desk/outcomes.py",
        "        outcomes |= await journal.outcomes_of({letter.id: letter.job_id for letter in left}, since)\n",
        "",
        _DESK,
    ),
    Promise(
        "and among the letters",
        "desk/outcomes.py",
        "    outcomes = await _successors(desk, letters)\n",
        "    outcomes: dict[str, tuple[str, str]] = {}\n",
        _DESK,
    ),
    Promise(
        "what nobody knows is sent again",
        "desk/steps.py",
        "            await self._pages.publish(page, again=True)\n",
        "            pass\n",
        _DESK,
    ),
    Promise(
        "with the id it had",
        "desk/sending.py",
        'message_id = properties.pop("message_id", None) or letter.id',
        "message_id = job_id",
        _DESK,
    ),
    Promise(
        "and it says how many",
        "desk/sending.py",
        "            self._action.counts[AGAIN] += len(sent)\n",
        "            pass\n",
        _DESK,
    ),
    Promise(
        "one of two who resume a job does",
        "desk/replay.py",
        'update(job_id, mine, {"updatedAt": document["updatedAt"]})',
        "update(job_id, mine, {})",
        _DESK,
    ),
    Promise(
        "a job that runs is not resumed",
        "desk/replay.py",
        '    if document["state"] == "running":\n',
        "    if False:\n",
        _DESK,
    ),
    Promise(
        "a job that was killed is told from one that runs",
        "desk/jobs.py",
        'silent or desk.has_ended(document.get("process", ""))',
        "False",
        _DESK,
    ),
    Promise(
        "a ramp stops when too many die again",
        "desk/steps.py",
        "        if new > self._options.max_failures.of(size):\n",
        "        if False:\n",
        _DESK,
    ),
    Promise(
        "a step of the ramp waits for the outcomes of the one before",
        "desk/steps.py",
        "        await self._wait_for_outcomes(needed=True)\n        await self._check_failures()\n",
        "        await self._check_failures()\n",
        _DESK,
    ),
    Promise(
        "it stops when nobody settles",
        "desk/steps.py",
        "                if left and needed:\n",
        "                if False:\n",
        _DESK,
    ),
    Promise(
        "it stops when live traffic lags",
        "desk/steps.py",
        "            raise Stop(jobs.STOPPED, lagging)\n",
        "            pass\n",
        _DESK,
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
        _DESK,
    ),
    Promise(
        "a colleague can stop it",
        "desk/steps.py",
        '        if document is not None and document.get("cancelledBy"):\n',
        "        if False:\n",
        _DESK,
    ),
    Promise(
        "no more are sent than the limit",
        "desk/steps.py",
        "min(PAGE, max(0, limit - self._sent - self._pages.in_hand))",
        "PAGE",
        _DESK,
    ),
    Promise(
        "nor faster than the rate",
        "desk/steps.py",
        "        due = self._started + self._paced / self._options.rate\n",
        "        due = self._started\n",
        _DESK,
    ),
    Promise(
        "the letters of a conversation go one after the other",
        "desk/steps.py",
        "        await self._wait_for_outcomes(needed=True)\n        for letter_id, why",
        "        for letter_id, why",
        _DESK,
    ),
    Promise(
        "in the order in which they happened",
        "desk/order.py",
        "one.letter_id for one in sorted(places) if",
        "one.letter_id for one in sorted(places, reverse=True) if",
        _DESK,
    ),
    Promise(
        "what follows one that did not arrive is held",
        "desk/steps.py",
        "            while heads[letter_id].ids:\n",
        "            while False:\n",
        _DESK,
    ),
    Promise(
        "what is older than an activity of the store is held",
        "desk/order.py",
        "            elif forecast.after_newer:\n",
        "            elif False:\n",
        _DESK,
    ),
    Promise(
        "and what is older than one that was published",
        "desk/order.py",
        "{one.letter_id for one in places if newest.get(name, 0) > one.arrived_at}",
        "set[str]()",
        _DESK,
    ),
    Promise(
        "replays are counted",
        "desk/sending.py",
        'Change(claim, add={"replays": 1})',
        "Change(claim)",
        _DESK,
    ),
    Promise(
        "and capped",
        "desk/steps.py",
        "            elif letter.replays >= self._desk.max_replays and not self._options.force:\n",
        "            elif False:\n",
        _DESK,
    ),
    Promise(
        "the plan says so",
        "desk/plan.py",
        "    if letter.replays >= desk.max_replays and not force:\n",
        "    if False:\n",
        _DESK,
    ),
    Promise(
        "a successor counts the replays of the letter it came from",
        "mongo/dead_letters.py",
        "before = replays.get(group[0].replay_of, 0)",
        "before = 0",
        _LETTERS,
    ),
    Promise(
        "a conversation event goes back to its exchange",
        "desk/sending.py",
        "exchange = contract.CONVERSATION_EVENTS if is_lifecycle(letter) else contract.INGRESS",
        "exchange = contract.INGRESS",
        _DESK,
    ),
    Promise(
        "a replay says whose message it is",
        "desk/plan.py",
        "        headers[contract.USER_ID] = letter.user_id\n",
        "        pass\n",
        _DESK,
    ),
    Promise(
        "a trusted user passes the sender check as whoever published it first",
        "pipeline/senders.py",
        "            user = published_by(delivery)\n",
        "            pass\n",
        "tests/integration/test_desk.py tests/unit",
    ),
    Promise(
        "and nobody else does",
        "pipeline/senders.py",
        "        if user is not None and user in self.trusted:\n",
        "        if user is not None:\n",
        "tests/unit",
    ),
    Promise(
        "the worker writes the outcome to the letter",
        "dead_letters/outcomes.py",
        "        if contract.REPLAY_OF in settled.delivery.properties.headers:",
        "        if False:",
        "tests/unit/test_replay_outcomes.py tests/unit/test_settlement.py",
    ),
    Promise(
        "of that job alone",
        "mongo/dead_letters.py",
        'UpdateOne({"_id": one.letter_id, **claim_state(status, one.job_id)}, self._settling(one))',
        'UpdateOne({"_id": one.letter_id}, self._settling(one))',
        _LETTERS,
    ),
    Promise(
        "a letter that died again names its successor",
        "mongo/dead_letters.py",
        '                "successor": one.successor,\n',
        "",
        _LETTERS,
    ),
    # -- plan ----------------------------------------------------------------------------------------------------------
    Promise(
        "a plan knows what the store holds",
        "desk/plan.py",
        "        elif place in to_store and _event_id(to_store[place]) in held:\n",
        "        elif False:\n",
        _DESK,
    ),
    Promise(
        "and what would come after newer activities",
        "desk/plan.py",
        "        elif newest.get(forecast.conversation_id, 0) > forecast.timestamp:\n",
        "        elif False:\n",
        _DESK,
    ),
    Promise(
        "and which cause is a new one",
        "desk/plan.py",
        "    same = failure.fingerprint == letter.fingerprint\n",
        "    same = True\n",
        _DESK,
    ),
    Promise(
        "a plan lets others of its process work",
        "desk/plan.py",
        "    if place % _AT_ONCE == 0:\n",
        "    if False:\n",
        _DESK,
    ),
    # -- changes -------------------------------------------------------------------------------------------------------
    Promise(
        "a fix is validated before it is saved",
        "desk/edit.py",
        "            if forecast.prediction in _BROKEN and not force:\n                action",
        "            if False:\n                action",
        f"{_DESK} {_FILTER}",
    ),
    Promise(
        "an edit, too",
        "desk/edit.py",
        "    if forecast.prediction in _BROKEN and not force:\n        at =",
        "    if False:\n        at =",
        f"{_DESK} {_FILTER}",
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
        f"{_DESK} {_FILTER}",
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
        _DESK,
    ),
    Promise(
        "an edit of what somebody has looked at before is refused",
        "desk/edit.py",
        "    if revision is not None and revision != before.revision:\n",
        "    if False:\n",
        _DESK,
    ),
    Promise(
        "discarded letters are kept until the retention ends",
        "desk/decide.py",
        "change = Change(values, expires_at=now + desk.retention_ms)",
        "change = Change(values, expires_at=now)",
        _DESK,
    ),
    Promise(
        "settled ones, too",
        "mongo/dead_letters.py",
        '"expiresAt": DatetimeMS(one.at + self._retention_ms),',
        '"expiresAt": DatetimeMS(one.at),',
        f"{_DESK} {_LETTERS}",
    ),
    Promise(
        "and those whose outcome the desk has looked up",
        "desk/outcomes.py",
        "change = Change(values, expires_at=now + desk.retention_ms)",
        "change = Change(values)",
        _DESK,
    ),
    Promise(
        "open ones never expire: not when they are restored",
        "desk/decide.py",
        'remove=("expiresAt",)',
        "remove=()",
        _DESK,
    ),
    Promise(
        "nor when another one of their content dies",
        "mongo/dead_letters.py",
        '        update["$unset"] = {"expiresAt": ""}\n',
        "",
        _LETTERS,
    ),
    Promise(
        "the server deletes what has expired",
        "mongo/dead_letters.py",
        'delete_many({"expiresAt": {"$lt": DatetimeMS(now)}})',
        'delete_many({"expiresAt": {"$lt": DatetimeMS(0)}})',
        _LETTERS,
    ),
    Promise(
        "and nothing else",
        "mongo/dead_letters.py",
        'delete_many({"expiresAt": {"$lt": DatetimeMS(now)}})',
        "delete_many({})",
        _LETTERS,
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
        _COMMANDS,
    ),
    Promise(
        "an erasure names a customer and nothing else",
        "desk/decide.py",
        "    if len(named) != 1 or len(chosen.equal) > 1 or",
        "    if len(named) != 1 or",
        _DESK,
    ),
    Promise(
        "and its audit does not name them",
        "desk/decide.py",
        'Action.begin(desk, "purge", reason, filter=_without_customer(chosen))',
        'Action.begin(desk, "purge", reason, filter=str(chosen))',
        _DESK,
    ),
    # -- who, and why --------------------------------------------------------------------------------------------------
    Promise(
        "each letter of a change has a line",
        "desk/audit.py",
        '        self._lines.append(f"{letter_id} {what}")\n',
        "",
        _DESK,
    ),
    Promise(
        "each change says why",
        "desk/desk.py",
        "        if needs_reason and not reason.strip():\n",
        "        if False:\n",
        _DESK,
    ),
    Promise(
        "who only reads changes nothing",
        "desk/desk.py",
        "        if self.read_only:\n",
        "        if False:\n",
        _DESK,
    ),
    Promise(
        "and begins nothing that is written down",
        "desk/audit.py",
        '        desk.check_may_change("", needs_reason=False)\n',
        "",
        _DESK,
    ),
    Promise(
        "whoever sees values is written down",
        "desk/audit.py",
        '    action.note(letter_id, "revealed")\n    await action.end()\n',
        '    action.note(letter_id, "revealed")\n',
        _DESK,
    ),
    Promise(
        "whoever exports them, too",
        "desk/transfer.py",
        '        action = await Action.begin(desk, "export", "", filter=str(chosen))\n',
        "",
        _DESK,
    ),
    Promise(
        "what is exported is redacted",
        "desk/transfer.py",
        "base64.b64encode(document[name]).decode() if reveal else None",
        "base64.b64encode(document[name]).decode()",
        _DESK,
    ),
    Promise(
        "the message in it, too",
        "desk/transfer.py",
        '"message": message if reveal else masked(message)',
        '"message": message',
        _DESK,
    ),
    Promise(
        "what is redacted is not imported",
        "desk/transfer.py",
        '        if document["redacted"]:\n',
        "        if False:\n",
        _DESK,
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
        _RECORDER,
    ),
    Promise(
        "and says so",
        "dead_letters/recorder.py",
        '            self._reporter.warn("letters_full", letters=count, limit=self._max_letters)\n',
        "",
        _RECORDER,
    ),
    Promise(
        "it has deleted what was kept long enough",
        "dead_letters/recorder.py",
        "        await self._delete_expired(self._clock.now_ms())\n",
        "",
        _RECORDER,
    ),
    Promise(
        "a cause whose letters are gone is not new",
        "mongo/causes.py",
        "            await self.collection.bulk_write(updates, ordered=False)\n",
        "            pass\n",
        _LETTERS,
    ),
    Promise(
        "letters that come in parts are each there once",
        "mongo/letter_pages.py",
        '"_id": {"$gt": last}',
        '"_id": {"$gte": last}',
        _LETTERS,
    ),
    Promise(
        "large letters come in small pages",
        "mongo/letter_pages.py",
        "if len(found) >= page or size >= most_bytes:",
        "if len(found) >= page:",
        _DESK,
    ),
    Promise(
        "a server that does not answer in time is not asked more",
        "mongo/errors.py",
        "    return error.failure != store_silent()\n",
        "    return True\n",
        _LETTERS,
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
        _PAGE,
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
        f"{_DOOR} {_PAGE}",
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
        _PAGE,
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
        _PAGE,
    ),
    Promise(
        "each answer says so",
        "web/desk/app.py",
        '                message["headers"] = [*message.get("headers", []), *_HEADERS]\n',
        "                pass\n",
        _PAGE,
    ),
    Promise(
        "whoever reveals a letter in the browser is written down",
        "web/desk/letters.py",
        "    await revealed(desk, letter.id)\n",
        "",
        _PAGE,
    ),
    Promise(
        "and wherever else values are shown",
        "desk/details.py",
        "        await revealed(desk, letter.id)\n",
        "",
        f"{_DESK} {_COMMANDS}",
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
        _PAGE,
    ),
)
