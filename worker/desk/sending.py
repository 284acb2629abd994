"""One page of letters: claimed by compare and set, published, marked where that is confirmed, given back where not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from worker import contract
from worker.dead_letters.letter import Status, claim_state, reopened
from worker.desk import jobs
from worker.desk.plan import is_lifecycle, replay_headers, replayed_properties
from worker.desk.ports import Change
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.audit import Action
    from worker.desk.desk import Desk
    from worker.desk.ports import Document
    from worker.ports import EventPublisher

PAGE: Final = 500
"""Letters claimed and sent at once: what can be sent twice after a crash."""
SENT: Final = "sent"
AGAIN: Final = "of them sent again, for nobody knew whether they had arrived"
UNKNOWN: Final = "unknown"
_NOT_SENT: Final = {
    Confirmation.RETURNED: "returned",
    Confirmation.NACKED: "refused",
    Confirmation.TOO_LARGE: "too large",
}
_HINTS: Final = {
    Confirmation.RETURNED: "its exchange has no queue: run `cim-worker topology apply`",
    Confirmation.NACKED: "the queue is full or not available",
    Confirmation.TOO_LARGE: "they are larger than the broker's max_message_size",
}


class BrokerLost(Exception):  # noqa: N818 - a state of the world
    """The connection ended in the middle: what was in hand may have arrived or not."""


class Stop(Exception):  # noqa: N818 - the job ends in an orderly way
    """Ends the job in *state*; the text says why."""

    def __init__(self, state: str, why: str) -> None:
        super().__init__(why)
        self.state = state


class PageSender:
    """Sends letters for one job, page by page, and writes down what became of each.

    The next page is claimed while the one before is on its way: no more than one page is published and not yet marked.
    """

    def __init__(self, desk: Desk, publisher: EventPublisher, action: Action) -> None:
        self._desk = desk
        self._publisher = publisher
        self._action = action
        self._on_its_way: asyncio.Task[Mapping[str, str]] | None = None
        self.in_hand = 0
        """Letters that are being published, and whose confirm is not known."""

    async def send(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Claim letters, and begin to publish those that are ours when all before them are confirmed and marked.

        Returns what became of those before (see `line_of`); `finish` waits for the last ones. Raises `BrokerLost`, and
        `Stop` when a whole page comes back: what was claimed and not published is open then.
        """
        done: dict[str, str] = {}
        left = set(ids)
        try:
            async for letters in self._claimed(ids):
                done |= await self.finish()
                left -= {one.id for one in letters}
                self.in_hand = len(letters)
                self._on_its_way = asyncio.create_task(self.publish(letters))
        except (Stop, BrokerLost):
            await self._give_back(left)
            raise
        return done

    async def finish(self) -> Mapping[str, str]:
        """Wait for the letters in hand; return what became of each. Raises as `send` does."""
        task, self._on_its_way = self._on_its_way, None
        return {} if task is None else await task

    async def publish(self, letters: Sequence[LetterRecord], *, again: bool = False) -> Mapping[str, str]:
        """Publish claimed letters, mark what is confirmed and give back what is refused; raises as `send` does.

        *again*: they may have been sent before, and that is written down.
        """
        if not letters:
            return {}
        confirmations = await self._publisher.publish([outgoing(one, self._action.id) for one in letters])
        self.in_hand = 0
        results = dict(zip((one.id for one in letters), confirmations, strict=True))
        for letter_id, confirmation in results.items():
            self._action.note(letter_id, line_of(confirmation))
        sent = [one for one, confirmation in results.items() if confirmation is Confirmation.CONFIRMED]
        back = [one for one, confirmation in results.items() if confirmation in _NOT_SENT]
        if again and sent:
            self._action.counts[AGAIN] += len(sent)
        if sent:
            await self._mark(sent)
        if back:
            await self._give_back(back)
        await self._action.flush()
        if unknown := len(results) - len(sent) - len(back):
            raise BrokerLost(
                f"the connection to the broker ended: {unknown} of the letters are sent or not, nobody knows"
            )
        if back and len(back) == len(results):  # what is wrong is not the letters
            why = results[back[0]]
            raise Stop(jobs.STOPPED, f"{len(back)} of {len(back)} letters came back {line_of(why)}: {_HINTS[why]}")
        return {letter_id: line_of(confirmation) for letter_id, confirmation in results.items()}

    async def _claimed(self, ids: Sequence[str]) -> AsyncIterator[list[LetterRecord]]:
        """Claim letters, and yield those that are ours: all in one page unless their bodies are large."""
        claim = {
            "status": Status.SENDING.value,
            "statusAt": self._desk.clock.now_ms(),
            "jobId": self._action.id,
            "outcome": "",
            "successor": "",
        }
        changed = await self._desk.letters.change(ids, claim_state(Status.OPEN), Change(claim, add={"replays": 1}))
        if changed < len(ids):
            self._action.counts["taken by others"] += len(ids) - changed
        place = {letter_id: number for number, letter_id in enumerate(ids)}
        # By their ids alone: there are servers that use no index for a question that has more in it.
        async for page in self._desk.letters.stream({"_id": {"$in": list(ids)}}, PAGE):
            mine = [one for one in page if one.status == Status.SENDING and one.job_id == self._action.id]
            yield sorted(mine, key=lambda letter: place[letter.id])

    async def _mark(self, ids: Sequence[str]) -> None:
        """Write that letters are replayed, but for those whose outcome is there already."""
        values = {"status": Status.REPLAYED.value, "statusAt": self._desk.clock.now_ms()}
        await self._desk.letters.change(ids, self._mine, Change(values))

    async def _give_back(self, ids: Collection[str]) -> None:
        """Open those of *ids* again that this job claimed and did not publish."""
        change = Change(reopened(self._desk.clock.now_ms()), add={"replays": -1})
        await self._desk.letters.change(ids, self._mine, change)

    @property
    def _mine(self) -> Document:
        """What a letter says that this job has claimed and not marked."""
        return claim_state(Status.SENDING, self._action.id)


def outgoing(letter: LetterRecord, job_id: str) -> Outgoing:
    """Return the publish of a letter's replay: to where it came from, as it came, with what it is a replay of."""
    exchange = contract.CONVERSATION_EVENTS if is_lifecycle(letter) else contract.INGRESS
    properties = replayed_properties(letter)
    message_id = properties.pop("message_id", None) or letter.id
    return Outgoing(
        exchange,
        letter.origin_routing_key or letter.id,
        message_id,
        letter.body,
        headers=replay_headers(letter, job_id),
        **{"content_type": None, **properties},
    )


def line_of(confirmation: Confirmation) -> str:
    """Return the word of the audit for what the broker said of a letter."""
    if confirmation is Confirmation.CONFIRMED:
        return SENT
    return _NOT_SENT.get(confirmation, UNKNOWN)
