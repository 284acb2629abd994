"""The store's address as people and logs see it: where, never who or with which password."""

from __future__ import annotations

import pytest

from worker.mongo.client import redacted


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
