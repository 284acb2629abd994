"""What `cim-worker publish --resume` keeps in its file: which messages of an input the broker has confirmed."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIX: Final = "name another file, or one in another folder, with --resume"
_Run = tuple[int, int]
"""The first of places in a row, and the one behind the last."""


class PublishState:
    """The confirmed messages of one input, in a file that is replaced whole after every window."""

    def __init__(self, file: Path, digest: str, left: Sequence[int]) -> None:
        self._file = file
        self._digest = digest
        self.left = left
        """Places of the messages that are not confirmed yet, in order."""
        self._left = list(_ranges(left))
        """As `left`, without what was confirmed since: its runs, first and one behind the last, in order."""

    @classmethod
    def read(cls, file: str, bodies: Sequence[bytes]) -> Self:
        """Return the state of the input *bodies*; nothing is confirmed when there is no *file* yet.

        Raises `CommandError` when the file is none of ours, or belongs to another input.
        """
        path, digest = Path(file), _digest(bodies)
        try:
            kept = json.loads(path.read_bytes())
            left = [place for first, last in kept["left"] for place in range(first, last)]
            if kept["input"] != digest:
                text = f"{file} belongs to another input; name another file, or delete it to publish all of this one"
                raise CommandError(ExitCode.CONFIGURATION, text)
        except FileNotFoundError:
            left = list(range(len(bodies)))
        except OSError as error:
            raise CommandError(ExitCode.CONFIGURATION, f"cannot read {file}: {error.strerror}; {_FIX}") from None
        except (ValueError, KeyError, TypeError):
            text = f"{file} is no state of an earlier `publish --resume`; name another file"
            raise CommandError(ExitCode.CONFIGURATION, text) from None
        state = cls(path, digest, left)
        state.note(())
        return state

    def note(self, confirmed: Iterable[int]) -> None:
        """Keep that the messages at these places are *confirmed*. Raises `CommandError` when the disk does not."""
        # By runs: what was sent is one or two of them, and what is left is never gone through place by place.
        self._left = _without(self._left, list(_ranges(sorted(confirmed))))
        document = {"input": self._digest, "left": self._left}
        beside = self._file.with_name(f"{self._file.name}.new")
        try:
            beside.write_text(json.dumps(document))
            beside.replace(self._file)
        except OSError as error:
            text = f"cannot write {self._file}: {error.strerror}; {_FIX}"
            raise CommandError(ExitCode.CONFIGURATION, text) from None


def _digest(bodies: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for body in bodies:
        digest.update(hashlib.sha256(body).digest())
    return digest.hexdigest()


def _without(runs: list[_Run], taken: Sequence[_Run]) -> list[_Run]:
    """Return *runs* without what is in *taken*; both in order."""
    if not taken:
        return runs
    before = bisect_right(runs, taken[0][0], key=itemgetter(1))
    behind = bisect_left(runs, taken[-1][1], key=itemgetter(0))
    touched = runs[before:behind]
    for first, last in taken:
        cut = (part for start, end in touched for part in ((start, min(end, first)), (max(start, last), end)))
        touched = [(start, end) for start, end in cut if start < end]
    return [*runs[:before], *touched, *runs[behind:]]


def _ranges(places: Iterable[int]) -> Iterable[_Run]:
    """Return the first of each run of *places*, and the one behind its last."""
    first = end = -1
    for place in places:
        if place != end:
            if end > first:
                yield first, end
            first = place
        end = place + 1
    if end > first:
        yield first, end
