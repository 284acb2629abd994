"""Two addresses of one store that look like a replica set to a driver: which of them is the primary can change.

    with replica_set(store.uri) as members:         # members.uri has both addresses
        members.step_down()                         # nobody is the primary
        members.elect()                             # the other one is

The data is that of the one real store behind both; what a member that is not the primary is asked, it refuses.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from tests.support.wire_proxy import WireProxy, error, wire_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_PRIMARY = 10107
_NAME = "members"


class ReplicaSet:
    """Made by `replica_set`."""

    def __init__(self, *members: WireProxy) -> None:
        self.members = members
        self._next, self._term = 0, 0
        self.primary: WireProxy | None = None
        for member in members:
            member.greeting = partial(self._says, member)
        self.step_down()
        self.elect()

    @property
    def uri(self) -> str:
        """Both addresses, as a driver takes them."""
        return f"mongodb://{','.join(map(_host, self.members))}/?replicaSet={_NAME}"

    def step_down(self) -> None:
        """Leave the set without a primary: each member refuses what only a primary does."""
        self.primary = None
        for member in self.members:
            member.heal()
            member.on(answer=error(_NOT_PRIMARY, "NotWritablePrimary", labels=["RetryableWriteError"]))

    def elect(self) -> WireProxy:
        """Make the member the primary that was not it before, and return it."""
        chosen = self.members[self._next]
        self._next = (self._next + 1) % len(self.members)
        self._term += 1
        chosen.heal()
        self.primary = chosen
        return chosen

    def _says(self, member: WireProxy, answer: dict[str, Any]) -> dict[str, Any]:
        is_primary = member is self.primary
        answer.pop("topologyVersion", None)  # with it the driver would wait for news instead of asking
        return {
            **answer,
            "setName": _NAME,
            "setVersion": 1,
            "electionId": ObjectId(self._term.to_bytes(12, "big")),
            "hosts": list(map(_host, self.members)),
            "me": _host(member),
            "ismaster": is_primary,
            "isWritablePrimary": is_primary,
            "secondary": not is_primary,
            **({"primary": _host(self.primary)} if self.primary else {}),
        }


def _host(member: WireProxy) -> str:
    return f"127.0.0.1:{member.port}"


@contextmanager
def replica_set(uri: str) -> Iterator[ReplicaSet]:
    """Yield two addresses in front of the store at *uri*; they end with the block."""
    with wire_proxy(uri) as first, wire_proxy(uri) as second:
        yield ReplicaSet(first, second)
