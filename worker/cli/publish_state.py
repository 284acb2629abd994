"""What `cim-worker publish --resume` keeps in its file: which messages of an input the broker has confirmed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class PublishState:
    """The confirmed messages of one input, in a file that is replaced whole after every window."""

    def __init__(self, file: Path, digest: str, left: Sequence[int]) -> None:
        self._file = file
        self._digest = digest
        self.left = left
        """Places of the messages that are not confirmed yet, in order."""
        self._unconfirmed = dict.fromkeys(left)

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
            raise CommandError(ExitCode.CONFIGURATION, f"cannot read {file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            text = f"{file} is no state of an earlier `publish --resume`; name another file"
            raise CommandError(ExitCode.CONFIGURATION, text) from None
        state = cls(path, digest, left)
        state.note(())
        return state

    def note(self, confirmed: Iterable[int]) -> None:
        """Keep that the messages at these places are *confirmed*. Raises `CommandError` when the disk does not."""
        for place in confirmed:
            self._unconfirmed.pop(place, None)
        document = {"input": self._digest, "left": list(_ranges(self._unconfirmed))}
        beside = self._file.with_name(f"{self._file.name}.new")
        try:
            beside.write_text(json.dumps(document))
            beside.replace(self._file)
        except OSError as error:
            raise CommandError(ExitCode.CONFIGURATION, f"cannot write {self._file}: {error.strerror}") from None


def _digest(bodies: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for body in bodies:
        digest.update(hashlib.sha256(body).digest())
    return digest.hexdigest()


def _ranges(places: Iterable[int]) -> Iterable[tuple[int, int]]:
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
