"""Standard output and error that always work: in any encoding, closed, full, or with a reader that went away."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from typing import TextIO

    from typing_extensions import Buffer

_ERRORS: Final = "cim-ascii"
_ASCII: Final = {
    "…": "...",
    "→": "->",
    "—": "-",
    "\N{EN DASH}": "-",
    "▶": ">",
    "✓": "ok",
    "\N{REPLACEMENT CHARACTER}": "?",
}


def prepare_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that never fail for their encoding or for a reader that left.

    Standard input that is closed is empty.

    What the encoding cannot hold is written in ASCII. After the reader of standard output has left (`| head`), the
    rest is dropped and the command goes on to its own exit code. Any other failure of standard output raises
    `CommandError`, once; standard error drops what it cannot write.
    """
    codecs.register_error(_ERRORS, _in_ascii)
    _occupy_standard_descriptors()
    if sys.stdin is None:  # closed (`<&-`): an empty one, for whoever reads it or asks whether it is a terminal
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - a descriptor, for as long as the process lives
    sys.stdout = _stream(sys.stdout, 1, fails=True)
    sys.stderr = _stream(sys.stderr, 2, fails=False)


class _Descriptor(io.RawIOBase):
    """Writes to a file descriptor; drops everything once its reader has left or, with *fails*, once writing failed."""

    def __init__(self, number: int, *, fails: bool) -> None:
        self._number = number
        self._fails = fails
        self._dropping = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        if not self._dropping:
            try:
                return os.write(self._number, view)
            except BlockingIOError:
                select.select((), (self._number,), ())
                return self.write(view)
            except BrokenPipeError:
                self._dropping = True
            except OSError as error:
                if self._fails:
                    self._dropping = True
                    text = f"cannot write to standard output: {error.strerror}"
                    raise CommandError(ExitCode.UNEXPECTED, text) from None
        return len(view)


def _stream(former: TextIO | None, number: int, *, fails: bool) -> io.TextIOWrapper:
    raw = _Descriptor(number, fails=fails)
    encoding = getattr(former, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=_ERRORS, line_buffering=raw.isatty() or not fails
    )


def _occupy_standard_descriptors() -> None:
    """Open what was closed (`2>&-`): otherwise the next file or socket would get that number, and our output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - standard error is number 2
        pass
    os.close(number)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Say what cannot be encoded in ASCII: an own sign by its like, everything else by its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode() for one in wrong), error.end
