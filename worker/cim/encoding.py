"""Bodies that the publisher compressed, unpacked within limits. No I/O."""

from __future__ import annotations

import zlib
from typing import Final

from worker.codes import Code, Problem

_PLAIN: Final = frozenset({"", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit", "7bit"})
"""Libraries put the name of the character set here; that the text is UTF-8 is found out by reading it."""
_GZIP: Final = frozenset({"gzip", "x-gzip"})
_GZIP_BITS: Final = 31
_ZLIB_BITS: Final = 15
_RAW_BITS: Final = -15
_ZLIB_METHOD: Final = 8


def unpack(body: bytes, encoding: str, *, max_bytes: int) -> bytes | Problem:
    """Return what is in *body*, or why that cannot be known; never more than *max_bytes*.

    *encoding* is the property `content_encoding`: gzip, deflate (with or without the header of zlib), or a name that
    means that nothing is packed.
    """
    name = encoding.strip().lower()
    if name in _PLAIN:
        return body
    if len(body) > max_bytes:
        return too_large(max_bytes)
    if name in _GZIP:
        return _inflate(body, _GZIP_BITS, max_bytes)
    if name == "deflate":
        return _inflate(body, _ZLIB_BITS if _has_zlib_header(body) else _RAW_BITS, max_bytes)
    return _unsupported("The property content_encoding is absent, gzip or deflate.")


def too_large(max_bytes: int) -> Problem:
    """Return the problem of a body beyond *max_bytes*."""
    return Problem(Code.MESSAGE_TOO_LARGE, "", f"At most {max_bytes} bytes; send a link instead of the content.")


def _inflate(body: bytes, bits: int, max_bytes: int) -> bytes | Problem:
    inflater = zlib.decompressobj(bits)
    try:
        unpacked = inflater.decompress(body, max_bytes + 1)
    except zlib.error:
        return _unsupported("The body is packed as the property content_encoding says.")
    if len(unpacked) > max_bytes:
        return too_large(max_bytes)
    if not inflater.eof or inflater.unused_data:
        return _unsupported("The body is packed as the property content_encoding says, complete and in one piece.")
    return unpacked


def _has_zlib_header(body: bytes) -> bool:
    return len(body) > 1 and body[0] & 0x0F == _ZLIB_METHOD and int.from_bytes(body[:2], "big") % 31 == 0


def _unsupported(expected: str) -> Problem:
    return Problem(Code.UNSUPPORTED_ENCODING, "", expected)
