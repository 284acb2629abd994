"""Bodies that the publisher compressed: unpacked within limits, and refused with a reason of their own otherwise."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import RECEIVED_AT, raw
from tests.support.identity import event_id_of
from worker.cim import CimMessage, Rejected, parse
from worker.cim.encoding import unpack
from worker.codes import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
BODY = raw("loan_step")


def deflated(body: bytes) -> bytes:
    """Return *body* as RFC 1951 has it, without the header of zlib."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "upper case": (" GZIP ", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without header": ("deflate", deflated),
}


def codes(body: bytes, encoding: str, *, max_bytes: int = MIB) -> list[str]:
    result = parse(body, received_at=RECEIVED_AT, content_encoding=encoding, max_bytes=max_bytes)
    return [str(problem.code) for problem in result.problems] if isinstance(result, Rejected) else []


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_message_is_the_same_activity_as_the_plain_one(packing: str) -> None:
    encoding, pack = PACKINGS[packing]
    message = parse(pack(BODY), received_at=RECEIVED_AT, content_encoding=encoding)
    assert isinstance(message, CimMessage)
    assert message.event_id == event_id_of(BODY)
    assert message.size == len(BODY)


@pytest.mark.parametrize("encoding", ["", "identity", "UTF-8", "utf8", "us-ascii", "binary"])
def test_names_that_libraries_put_there_mean_that_nothing_is_packed(encoding: str) -> None:
    assert codes(BODY, encoding) == []


@pytest.mark.parametrize("encoding", ["br", "zstd", "base64", "iso-8859-1", "gzip, gzip", "gzip\n x"])
def test_any_other_encoding_has_a_code_of_its_own(encoding: str) -> None:
    assert codes(BODY, encoding) == ["unsupported_encoding"]


@pytest.mark.parametrize(
    "body",
    [BODY, b"", gzip.compress(BODY)[:-9], gzip.compress(BODY) + b"more", gzip.compress(BODY) * 2, zlib.compress(BODY)],
)
def test_what_is_not_packed_as_it_says_is_refused(body: bytes) -> None:
    assert codes(body, "gzip") == ["unsupported_encoding"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_limit_holds_for_what_is_unpacked(packing: str) -> None:
    encoding, pack = PACKINGS[packing]
    assert codes(pack(BODY), encoding, max_bytes=len(BODY)) == []
    assert codes(pack(BODY), encoding, max_bytes=len(BODY) - 1) == ["message_too_large"]


def test_a_bomb_is_given_up_at_the_limit() -> None:
    bomb = gzip.compress(bytes(256 * MIB), compresslevel=1)
    tracemalloc.start()
    try:
        assert codes(bomb, "gzip", max_bytes=2 * MIB) == ["message_too_large"]
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_no_bytes_raise(body: bytes, encoding: str) -> None:
    assert isinstance(unpack(body, encoding, max_bytes=1000), bytes | Problem)
