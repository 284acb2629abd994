"""All that is known of one activity, as a timeline and where it is now. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker import contract
from worker.cim import CimMessage, parse
from worker.dead_letters.letter import Status
from worker.desk.wording import code_in_words, outcome_in_words, reason_in_words
from worker.outcome import Outcome
from worker.pipeline.translate import Contradiction, contradictions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from worker.conversations.conversation import ConversationRecord
    from worker.conversations.ports import Lookup
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.journal import Entry

_LARGEST_LETTER: Final = 128 * 1024 * 1024


class StoredActivity(NamedTuple):
    """One document of the store. Times are epoch milliseconds; what the document does not say is None."""

    event_id: str
    message_id: str | None
    sender_id: str | None
    conversation_id: str | None
    channel_session_id: str | None
    customer_id: str | None
    stored_because: str | None
    created_at: int | None


class Anchors(NamedTuple):
    """Where a message says it belongs."""

    conversation_id: str | None
    channel_session_id: str | None
    customer_id: str | None


class Moment(NamedTuple):
    """One line of a timeline."""

    at: int
    """Epoch milliseconds."""
    what: str
    """`received`, an outcome, `document` or `letter`: for programs."""
    text: str
    """For people."""
    source: str


@dataclass(slots=True)
class Story:
    """All that is known of one activity, or of one message that never became one."""

    event_id: str | None = None
    message_id: str | None = None
    sender_id: str | None = None
    outcomes: list[Entry] = field(default_factory=list)
    document: StoredActivity | None = None
    letters: list[LetterRecord] = field(default_factory=list)
    anchors: Anchors | None = None
    """Where the message says it belongs, where its content can be seen."""
    conversation: ConversationRecord | None = None
    """The conversation it belongs to, as the registry knows it now."""
    contradictions: list[str] = field(default_factory=list)
    is_asked: bool = False
    """Whether the registry could be asked."""

    @property
    def conversation_id(self) -> str | None:
        """The conversation it belongs to, as far as anybody says."""
        named = [entry.conversation_id for entry in self.outcomes] + [letter.conversation_id for letter in self.letters]
        found = self.document.conversation_id if self.document else None
        known = self.conversation.id if self.conversation else None
        return found or next((one for one in named if one), None) or known

    def timeline(self) -> list[Moment]:
        """Return everything that happened, in its order."""
        moments = [*self._journal_moments(), *self._letter_moments()]
        if self.document is not None and self.document.created_at is not None:
            because = self.document.stored_because
            why = f" ({because}: {reason_in_words(because)})" if because else ""
            moments.append(Moment(self.document.created_at, "document", f"its document was written{why}", "store"))
        return sorted(moments, key=lambda moment: moment.at)

    def begin(self) -> int:
        """Return the time of the first that is known of it, in epoch milliseconds."""
        return min((moment.at for moment in self.timeline()), default=0)

    def now(self) -> list[str]:
        """Return where it is now, in sentences."""
        return [*self._place(), *self._letter_places(), *self._conversation_now()]

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        document, conversation = self.document, self.conversation
        return {
            "eventId": self.event_id,
            "messageId": self.message_id,
            "senderId": self.sender_id,
            "conversationId": self.conversation_id,
            "timeline": [moment._asdict() for moment in self.timeline()],
            "now": self.now(),
            "document": None if document is None else document._asdict(),
            "conversation": None
            if conversation is None
            else {"id": conversation.id, "state": conversation.state.value, "active": conversation.active},
            "letters": [
                {"id": one.id, "status": one.status, "code": one.code, "pointer": one.pointer, "count": one.count}
                for one in self.letters
            ],
            "contradictions": self.contradictions,
        }

    def _journal_moments(self) -> Iterable[Moment]:
        attempt = 1
        for entry in self.outcomes:
            words = f"received, attempt {attempt}" if attempt > 1 else "received"
            if entry.replay_of:
                words += f", as a replay of the letter {entry.replay_of}"
            yield Moment(entry.received_at, "received", words, "journal")
            took = entry.at - entry.received_at
            text = f"{outcome_in_words(entry)}, after {took} ms, by {entry.worker}"
            yield Moment(entry.at, entry.outcome, text, "journal")
            attempt = attempt + 1 if entry.outcome == Outcome.RETRY else attempt

    def _letter_moments(self) -> Iterable[Moment]:
        for letter in self.letters:
            again = f", the first of {letter.count} like it" if letter.count > 1 else ""
            of = f", a replay of the letter {letter.replay_of}" if letter.replay_of else ""
            text = f"died as the letter {letter.id}{of}{again}: {letter.code}: {letter.detail}"
            yield Moment(letter.first_seen, "letter", text, "dead letters")
            if letter.last_seen != letter.first_seen:
                text = f"the last of {letter.count} like it died"
                yield Moment(letter.last_seen, "letter", text, "dead letters")
            if letter.status_at is not None:
                yield Moment(letter.status_at, letter.status, _life(letter), "dead letters")

    def _place(self) -> Iterable[str]:
        last = self.outcomes[-1].outcome if self.outcomes else None
        if self.document is not None:
            yield f"in the store: ConversationActivities, _id {self.document.event_id}"
        elif last == Outcome.PUBLISHED:
            yield "with the subscribers of its conversation; what was published is not kept in the store"
        elif last in {Outcome.STORED, Outcome.DUPLICATE}:
            yield "not in the store, or the store could not be asked: the journal says it was there"
        if last == Outcome.WAITING:
            yield f"in the waiting room {contract.WAITING}, until the store takes work, or on its way from there"
        if last == Outcome.RETRY:
            yield "in a retry tier until its next attempt, or on its way from there"
        if last == Outcome.DEAD and not self.letters:
            yield f"a dead letter that is not recorded: in the queue {contract.DEAD_LETTERS}, or deleted since"

    def _letter_places(self) -> Iterable[str]:
        for letter in self.letters:
            times = f" ({letter.count} times)" if letter.count > 1 else ""
            at = f" at {letter.pointer}" if letter.pointer else ""
            status = letter.status.replace("_", " ")
            yield f"dead letter {letter.id}{times}, {status}: {letter.code}{at}: {code_in_words(letter.code)}"

    def _conversation_now(self) -> Iterable[str]:
        wanted = self.conversation_id
        if self.conversation is not None:
            live = "live" if self.conversation.active else "over"
            yield f"its conversation {self.conversation.id} is {live}: {self.conversation.state.value}"
        elif wanted is not None:
            yield (
                f"its conversation {wanted} is unknown to the registry"
                if self.is_asked
                else (f"its conversation {wanted}: the registry could not be asked")
            )


def tell(
    entries: Iterable[Entry], activities: Iterable[StoredActivity], letters: Iterable[LetterRecord]
) -> list[Story]:
    """Return one story for each activity, and for each message that never became one, in the order of their time.

    A replay, and what its letter was before it was fixed, are one story.
    """
    shelf = _Shelf()
    for entry in entries:
        story = shelf.story(entry.event_id, entry.message_id, entry.sender_id, {entry.letter_id, entry.replay_of})
        story.outcomes.append(entry)
    for activity in activities:
        story = shelf.story(activity.event_id, activity.message_id, activity.sender_id, set())
        story.document = activity
        story.anchors = Anchors(activity.conversation_id, activity.channel_session_id, activity.customer_id)
    for letter in letters:
        event_id, anchors = _content(letter)
        names = {letter.id, letter.replay_of, letter.successor}
        story = shelf.story(event_id, letter.message_id, letter.sender_id, names, was_none=letter.revision > 0)
        story.letters.append(letter)
        story.anchors = story.anchors or anchors
    for story in shelf.stories:
        story.outcomes.sort(key=lambda entry: (entry.at, entry.received_at))
        story.letters.sort(key=lambda letter: letter.first_seen)
    return sorted(shelf.stories, key=Story.begin)


class _Shelf:
    """Stories by all that names them: their event, their letters, and without an event their message and sender."""

    def __init__(self) -> None:
        self.stories: list[Story] = []
        self._by_name: dict[tuple[str, ...], Story] = {}

    def story(
        self,
        event_id: str | None,
        message_id: str | None,
        sender_id: str | None,
        letter_ids: Collection[str | None],
        *,
        was_none: bool = False,
    ) -> Story:
        """Return the story of these names; stories that they show to be one are put together.

        *was_none*: the message was no activity before it was edited.
        """
        names: list[tuple[str, ...]] = [("letter", one) for one in letter_ids if one]
        if event_id:
            names.append(("event", event_id))
        if message_id and (not event_id or was_none):
            names.append(("message", message_id, sender_id or ""))
        known = list({id(one): one for name in names if (one := self._by_name.get(name))}.values())
        story = known[0] if known else Story()
        if not known:
            self.stories.append(story)
        for other in known[1:]:
            self._put_together(story, other)
        self._by_name |= dict.fromkeys(names, story)
        story.event_id = story.event_id or event_id
        story.message_id = story.message_id or message_id or None
        story.sender_id = story.sender_id or sender_id or None
        return story

    def _put_together(self, story: Story, other: Story) -> None:
        self.stories.remove(other)
        story.outcomes += other.outcomes
        story.letters += other.letters
        story.document = story.document or other.document
        story.anchors = story.anchors or other.anchors
        story.event_id = story.event_id or other.event_id
        for name, one in self._by_name.items():
            if one is other:
                self._by_name[name] = story


def _content(letter: LetterRecord) -> tuple[str | None, Anchors | None]:
    """Return the event id that the letter's message would have, and its anchors; None for what is no message."""
    message = parse(
        letter.body,
        received_at=letter.first_seen,
        max_bytes=_LARGEST_LETTER,
        content_encoding=dict(letter.properties).get("content_encoding"),
        idempotency_key=letter.idempotency_key or None,
    )
    if not isinstance(message, CimMessage):
        return None, None
    return message.event_id, Anchors(message.conversation_id, message.channel_session_id, message.customer_id)


def _life(letter: LetterRecord) -> str:
    """Return what became of a letter last."""
    by = f", by job {letter.job_id}" if letter.job_id else ""
    ended = f": its replay was {letter.outcome}" if letter.outcome and letter.status == Status.SETTLED else ""
    became = f"; its replay is the letter {letter.successor}" if letter.successor else ""
    why = f": {letter.reason}" if letter.reason else ""
    return f"the letter {letter.id} became {letter.status.replace('_', ' ')}{ended}{became}{why}{by}"


def place(story: Story, known: Lookup) -> None:
    """Fill where *story* belongs, by the rule that the most specific anchor decides, and what contradicts that."""
    story.is_asked = True
    anchors = story.anchors
    owner = known.by_session.get(anchors.channel_session_id or "") if anchors else None
    wanted = story.conversation_id
    story.conversation = known.by_conversation.get(wanted) if wanted else owner
    if anchors is None or story.conversation is None:
        return
    conversation = story.conversation.to_conversation()
    session_owner = None if owner is None else owner.to_conversation()
    for one in contradictions(anchors.customer_id, conversation, session_owner):
        story.contradictions.append(_in_words(one, anchors, story.conversation, owner))


def _in_words(
    one: Contradiction, anchors: Anchors, conversation: ConversationRecord, owner: ConversationRecord | None
) -> str:
    if one is Contradiction.CUSTOMER:
        theirs = conversation.customer_id.value
        return f"it names customer {anchors.customer_id}, but conversation {conversation.id} is customer {theirs}'s now"
    other = owner.id if owner else "unknown"
    what = f"it names channel session {anchors.channel_session_id}, which belongs to conversation {other}"
    return f"{what}; its conversation {conversation.id} decided"
