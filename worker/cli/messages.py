"""Reads messages from files and standard input: one message, a JSON array of messages, or JSON lines.

Every message keeps the bytes it has in the file, so that it is judged exactly as a worker would judge it.
"""

from __future__ import annotations

import codecs
import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STANDARD_INPUT = "-"
_OPENING, _CLOSING = b"[{", b"]}"
_QUOTE, _BACKSLASH, _COMMA = b'"\\,'
_WHITESPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class FileMessage:
    """One message of a file."""

    file: str
    index: int
    """Its position in an array, or its line number, from 1; a file's only message is 1."""
    body: bytes


def read_messages(files: Iterable[str], purpose: str) -> list[FileMessage]:
    """Return the messages of all *files*; `-` is standard input.

    Raises `CommandError` when one cannot be read, or when there is no message in any: nothing to *purpose*.
    """
    messages = [FileMessage(file, index, body) for file in files for index, body in split_messages(_read(file))]
    if not messages:
        text = f"nothing to {purpose}: the input is empty; give one message, a JSON array of messages, or JSON lines"
        raise CommandError(ExitCode.CONFIGURATION, text)
    return messages


def split_messages(content: bytes) -> list[tuple[int, bytes]]:
    """Return index and bytes of each message in *content*; none when it is blank or an empty array.

    An array is split into its elements. What is no JSON as a whole, but has a line that is a JSON object, is taken
    for JSON lines. Everything else is one message, even when it is no JSON. A byte order mark is dropped.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    if not content.strip(_WHITESPACE):
        return []
    if content.lstrip(_WHITESPACE).startswith(b"["):
        return _split_array(content)
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if len(lines) > 1 and not _is_json(content) and any(_is_json_object(line) for _, line in lines):
        return lines
    return [(1, content)]


def _split_array(content: bytes) -> list[tuple[int, bytes]]:
    elements = list(enumerate(_elements(content), 1))
    return elements or ([] if _is_json(content) else [(1, content)])


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except OSError as error:
        text = f"cannot read {file}: {error.strerror}; name a file, or - for standard input"
        raise CommandError(ExitCode.CONFIGURATION, text) from None


def _elements(content: bytes) -> Iterator[bytes]:
    """Yield the elements of a JSON array as they are written; nothing when the brackets do not match up.

    Counts brackets outside of strings and judges nothing else: that is left to the validation of each element.
    """
    commas = _element_ends(content)
    if commas is None:
        return
    for start, end in pairwise(commas):
        element = content[start + 1 : end].strip(_WHITESPACE)
        if element:
            yield element


def _element_ends(content: bytes) -> list[int] | None:
    """Return the offsets of the opening bracket, of every comma between elements and of the closing bracket."""
    ends: list[int] = []
    depth = 0
    for offset, byte in _outside_strings(content):
        if byte in _OPENING:
            depth += 1
            if depth == 1:
                ends.append(offset)
        elif byte in _CLOSING:
            depth -= 1
            if depth == 0:
                return [*ends, offset] if not content[offset + 1 :].strip(_WHITESPACE) else None
        elif byte == _COMMA and depth == 1:
            ends.append(offset)
    return None


def _outside_strings(content: bytes) -> Iterator[tuple[int, int]]:
    in_string = escaped = False
    for offset, byte in enumerate(content):
        if not in_string:
            in_string = byte == _QUOTE
            yield offset, byte
        elif escaped:
            escaped = False
        else:
            escaped = byte == _BACKSLASH
            in_string = byte != _QUOTE


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
