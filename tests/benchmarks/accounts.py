"""What became of every message of one run: lost, buried, left, misplaced or doubled. No I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

_COLUMNS: Final = (
    "contender",
    "lost",
    "dead though valid",
    "left in the queue",
    "stored though heard",
    "stored twice",
    "events again",
    "ended by itself",
)


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the messages of one run. Events may come twice in a right one: at least once is promised."""

    contender: str
    messages: int
    lost: int
    """Nowhere: neither event, nor document, nor dead letter, nor in the queue any more."""
    dead: int
    """Valid, and dead-lettered nevertheless."""
    left: int
    """Still in the ingress queue when nothing moved any more."""
    misplaced: int
    """Stored although somebody listens."""
    events_again: int
    """Events that a subscriber got more often than their message was sent."""
    documents_twice: int
    ended: int
    """How often it ended by itself."""

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, buried, left, misplaced or stored twice."""
        return not (self.lost or self.dead or self.left or self.misplaced or self.documents_twice)


def account(
    contender: str,
    *,
    heard: set[str],
    unheard: set[str],
    events: Sequence[str],
    documents: Sequence[str],
    letters: set[str],
    queued: Sequence[str],
    sent_twice: AbstractSet[str] = frozenset(),
    ended: int = 0,
) -> Account:
    """Look for every message, all by message id; *heard* are those somebody listens to."""
    everywhere = {*events, *documents, *letters, *queued}
    proven = {*events, *documents}
    return Account(
        contender=contender,
        messages=len(heard) + len(unheard),
        lost=len((heard | unheard) - everywhere),
        dead=len(letters - proven),
        left=len(set(queued) - proven),
        misplaced=len((heard & set(documents)) - set(events)),
        events_again=sum(max(0, got - (2 if one in sent_twice else 1)) for one, got in Counter(events).items()),
        documents_twice=len(documents) - len(set(documents)),
        ended=ended,
    )


def table(accounts: Sequence[Account]) -> Iterator[str]:
    """Yield a table of what became of the messages."""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for one in accounts:
        figures = (one.lost, one.dead, one.left, one.misplaced, one.documents_twice, one.events_again, one.ended)
        yield f"| {one.contender} | {' | '.join(map(str, figures))} |"
