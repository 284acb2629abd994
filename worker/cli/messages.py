"""Reads messages from files and standard input: one message, a JSON array, JSON lines, or JSON texts in a row.

Every message keeps the bytes it has in the file, so that it is judged exactly as a worker would judge it.
"""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress

STANDARD_INPUT = "-"
_OPENING, _CLOSING, _COMMA = b"[{", b"]}", b","
_WHITESPACE = b" \t\r\n"
_BEYOND_WHITESPACE = re.compile(rb"[^ \t\r\n]")
_FIRST_BRACKET = re.compile(rb"[ \t\r\n]*+\[")
_KIB = 1024
_RECORD_SEPARATOR = b"\x1e"
"""Of RFC 7464: stands before each JSON text in a row."""
_SEPARATORS = _WHITESPACE + _RECORD_SEPARATOR
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]|[ \t\r\n]++|[^"\[\]{}, \t\r\n]++', re.DOTALL)
_LINE = re.compile(rb"([^\r\n]*+)(?:\r\n?|\n)|([^\r\n]++)\Z")
_STEP_BYTES = 1 << 20
_Span = tuple[int, int, int]
"""Index, first byte, and the byte behind the last one."""
_Reached = Callable[[int], None]
"""Is given how many bytes of a content are read."""


@dataclass(frozen=True, slots=True)
class FileMessage:
    """One message of a file."""

    file: str
    index: int
    """Its position in an array or among JSON texts in a row, or its line number, from 1; a file's only message is 1."""
    body: bytes
    line: int = 1
    """Of the file, on which it begins, from 1."""
    column: int = 1
    """Where on that line it begins, in characters, from 1."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message in the content of a file."""

    index: int
    """As in `FileMessage`."""
    offset: int
    """Bytes before it."""
    body: bytes


def read_messages(files: Sequence[str], purpose: str) -> list[FileMessage]:
    """Return the messages of all *files*; `-` is standard input.

    Raises `CommandError` when one cannot be read, or when there is no message in any: nothing to *purpose*.
    """
    with progress() as bar:
        messages = [message for file in files for message in _messages(file, _read(file), bar)]
    if not messages:
        text = (
            f"nothing to {purpose}: the input is empty; give one message, a JSON array of messages, JSON lines, "
            "or JSON texts in a row"
        )
        raise CommandError(ExitCode.CONFIGURATION, text)
    return messages


def split_messages(content: bytes) -> list[tuple[int, bytes]]:
    """Return index and bytes of each message in *content*, as `parts` finds them."""
    return [(part.index, part.body) for part in parts(content)]


def parts(content: bytes, reached: _Reached = lambda _offset: None) -> Iterator[Part]:
    """Yield each message in *content*; none when it is blank or an empty array.

    An array is split into its elements. JSON texts in a row, with or without white space or record separators between
    them, are taken apart, also where the last is cut off; where each has a line of its own they are JSON lines. What is
    none of that, but has a line that is a JSON object, is taken for JSON lines with bad ones among them. Everything
    else is one message, even when it is no JSON. A byte order mark is dropped. *reached* is given how many bytes are
    read, now and then.
    """
    mark = len(content) - len(content.removeprefix(codecs.BOM_UTF8))
    content = content[mark:]
    if _BEYOND_WHITESPACE.search(content) is None:
        return
    is_array = _FIRST_BRACKET.match(content) is not None
    found = _split_array(content, reached) if is_array else _split_row(content, reached)
    for index, start, end in found:
        yield Part(index, mark + start, content[start:end])


def _messages(file: str, content: bytes, bar: Progress) -> Iterator[FileMessage]:
    task = bar.add_task("reading, KiB", total=len(content) // _KIB)
    # Every byte is looked at once: what lies before the last message is counted already.
    line, column, seen = 1, 1, len(content) - len(content.removeprefix(codecs.BOM_UTF8))
    for part in parts(content, lambda offset: bar.update(task, completed=offset // _KIB)):
        lines = content.count(b"\n", seen, part.offset)
        if lines:
            line, column, seen = line + lines, 1, content.rfind(b"\n", seen, part.offset) + 1
        column += len(content[seen : part.offset].decode("utf-8", "replace"))
        seen = part.offset
        yield FileMessage(file, part.index, part.body, line, column)
    bar.remove_task(task)


def _split_array(content: bytes, reached: _Reached) -> list[_Span]:
    elements = [(index, *span) for index, span in enumerate(_elements(content, reached), 1)]
    return elements or ([] if _is_json(content) else [(1, 0, len(content))])


def _split_row(content: bytes, reached: _Reached) -> list[_Span]:
    lines = [(number, *span) for number, span in enumerate(_lines(content), 1) if content[slice(*span)].strip()]
    texts, are_whole = _texts(content, reached)
    if not are_whole:
        are_lines = len(lines) > 1 and any(
            content.startswith(b"{", start) and _is_json_object(content[start:end]) for _, start, end in lines
        )
        if are_lines:
            return lines
    if not texts:
        return [(1, 0, len(content))]
    if len(texts) == 1 and _RECORD_SEPARATOR not in content:
        return [(1, 0, len(content))]
    if (
        _RECORD_SEPARATOR not in content
        and len(texts) == len(lines)
        and all(start <= first and behind <= end for (_, start, end), (first, behind) in zip(lines, texts, strict=True))
    ):
        return lines
    return [(index, *span) for index, span in enumerate(texts, 1)]


def _texts(content: bytes, reached: _Reached) -> tuple[list[tuple[int, int]], bool]:
    """Return where each of several JSON objects in a row begins and ends; nothing when it is not that.

    And whether all of them are whole: the last may be cut off.
    """
    texts: list[tuple[int, int]] = []
    depth = start = 0
    for token in _TOKENS.finditer(content):
        first = token[0][:1]
        if depth == 0 and first != b"{" and token[0].strip(_SEPARATORS):
            return [], False
        if first in _OPENING:
            start = start if depth else token.start()
            depth += 1
        elif first in _CLOSING:
            depth -= 1
            if depth == 0:
                texts.append((start, token.end()))
                if start // _STEP_BYTES < token.end() // _STEP_BYTES:
                    reached(token.end())
    if texts and depth > 0:
        return [*texts, (start, len(content))], False
    return texts, bool(texts) and depth == 0


def _lines(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each line begins and ends, its line end not counted."""
    for line in _LINE.finditer(content):
        yield line.span(1 if line[2] is None else 2)


def _read(file: str) -> bytes:
    if not file:
        raise CommandError(ExitCode.CONFIGURATION, "the name of a file is empty; name a file, or - for standard input")
    try:
        return sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except IsADirectoryError:
        text = f"cannot read {file}: it is a folder; name its files, as in {file.rstrip('/')}/*.json"
        raise CommandError(ExitCode.CONFIGURATION, text) from None
    except OSError as error:
        text = f"cannot read {file}: {error.strerror}; name a file, or - for standard input"
        raise CommandError(ExitCode.CONFIGURATION, text) from None


def _elements(content: bytes, reached: _Reached) -> Iterator[tuple[int, int]]:
    """Yield where the elements of a JSON array begin and end; nothing when the brackets do not match up.

    Counts brackets outside of strings and judges nothing else: that is left to the validation of each element.
    """
    commas = _element_ends(content, reached)
    if commas is None:
        return
    for start, end in pairwise(commas):
        element = content[start + 1 : end]
        if element.strip(_WHITESPACE):
            begin = start + 1 + len(element) - len(element.lstrip(_WHITESPACE))
            yield begin, begin + len(element.strip(_WHITESPACE))


def _element_ends(content: bytes, reached: _Reached) -> list[int] | None:
    """Return the offsets of the opening bracket, of every comma between elements and of the closing bracket."""
    ends: list[int] = []
    depth = 0
    for token in _TOKENS.finditer(content):
        offset, byte = token.start(), token[0][:1]
        if byte in _OPENING:
            depth += 1
            if depth == 1:
                ends.append(offset)
        elif byte in _CLOSING:
            depth -= 1
            if depth == 0:
                return [*ends, offset] if not content[offset + 1 :].strip(_WHITESPACE) else None
        elif byte == _COMMA and depth == 1:
            if ends[-1] // _STEP_BYTES < offset // _STEP_BYTES:
                reached(offset)
            ends.append(offset)
    return None


def _is_json(content: bytes) -> bool:
    return _loaded(content) is not _NOT_JSON


def _is_json_object(content: bytes) -> bool:
    return isinstance(_loaded(content), dict)


_NOT_JSON = object()


def _loaded(content: bytes) -> object:
    try:
        return json.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return _NOT_JSON
