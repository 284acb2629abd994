"""The store's address as people and logs see it: where, never who or with which password."""

from __future__ import annotations

from datetime import datetime

import pytest
from bson import decode, encode
from bson.datetime_ms import DatetimeMS

from worker.conversations.conversation import ConversationRecord, UnreadableRecord
from worker.failure import OperatorFault
from worker.mongo.client import connect, redacted

NOW = datetime(2026, 11, 26)  # noqa: DTZ001 - as the driver gives it


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://localhost:27017/", "localhost:27017"),
        ("mongodb://user:s3cret@db.example:27018/admin?tls=true", "db.example:27018"),
        ("mongodb://user:s3%40cret@a:1,b:2,c/?replicaSet=rs", "a:1,b:2,c"),
        ("mongodb+srv://user:s3cret@cluster.example/?x=1", "cluster.example"),
        ("mongodb://user:s3@cret@db.example", "db.example"),
        ("mongodb://[::1]:27017", "[::1]:27017"),
        ("mongodb://user:s3cret@db.example?authSource=s3cret@x", "an address that cannot be read"),
        ("mongodb://me@corp.com:s3cretPart?x@store/", "an address that cannot be read"),
        ("mongodb://user:s3cret", "an address that cannot be read"),
        ("nonsense s3cret", "an address that cannot be read"),
        ("", "an address that cannot be read"),
    ],
)
def test_only_hosts_and_ports_of_an_address_are_shown(uri: str, shown: str) -> None:
    assert redacted(uri) == shown
    assert "s3" not in redacted(uri)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("tls=s3cret", "tls"),  # the driver would leave it out, and speak in the clear
        ("maxPoolSize=s3cret&w=1", "maxPoolSize"),
        ("tlsCAFile=/s3cret", "tlsCAFile"),
        ("s3cret=1&s3cret", "one that nobody knows, one that nobody knows"),
        ("replicaSet=s3cret&directConnection=true&loadBalanced=true", "exclude each other"),
    ],
)
def test_an_option_that_cannot_be_used_is_named_and_its_value_is_not(options: str, named: str) -> None:
    with pytest.raises(OperatorFault) as caught:
        connect(f"mongodb://h/?{options}", "anything")
    assert named in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_compression_that_is_not_there_is_done_without() -> None:
    await connect("mongodb://h/?compressors=nosuch,zlib", "anything").close()


async def test_what_python_cannot_hold_makes_no_answer_unreadable() -> None:
    """Others write some of the many documents of an answer: microseconds for milliseconds, bytes that are no UTF-8."""
    store = connect("mongodb://h/", "anything")
    options = store.collection("conversations").codec_options
    await store.close()
    far = {"_id": "c-1", "stateUpdatedAt": DatetimeMS(1_764_000_000_123_000)}
    assert isinstance(ConversationRecord.from_document(decode(encode(far), options)), UnreadableRecord)
    assert decode(encode({"name": "abcd"}).replace(b"abcd", b"ab\xffd"), options) == {"name": "ab\ufffdd"}
    assert decode(encode({"at": NOW}), options) == {"at": NOW}, "all else is as it was"
