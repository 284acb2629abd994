"""Whether one word is another with a slip of the fingers in it. No I/O."""

from __future__ import annotations

from typing import Final

_SHORTEST: Final = 5
"""Characters; shorter words are too often close by chance."""
_LONG: Final = 12
"""From this length on two slips are forgiven."""


def is_slip_of(word: str, known: str) -> bool:
    """Tell whether *word* is *known* with a letter left out, put in, exchanged, or swapped with its neighbour.

    In long words there may be two slips. A word that is only longer or shorter at its end by more than one letter is
    another word, as channelSession is beside channelSessionId.
    """
    allowed = 2 if len(known) >= _LONG else 1
    if min(len(word), len(known)) < _SHORTEST or abs(len(word) - len(known)) > allowed:
        return False
    if word != known and (known.startswith(word) or word.startswith(known)):
        allowed = 1
    return 0 < _distance(word, known) <= allowed


def _distance(one: str, other: str) -> int:
    """Return how many slips lie between two words (optimal string alignment)."""
    before_last: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        current = [row]
        for column, their_letter in enumerate(other, 1):
            cost = min(last[column] + 1, current[-1] + 1, last[column - 1] + (letter != their_letter))
            if row > 1 and column > 1 and letter == other[column - 2] and one[row - 2] == their_letter:
                cost = min(cost, before_last[column - 2] + 1)
            current.append(cost)
        before_last, last = last, current
    return last[-1]
