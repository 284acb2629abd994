"""What a worker finds out about its rights before it takes the first delivery, on a real broker."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.amqp import connected, depth, plain
from worker.process.preflight import check_rights
from worker.rabbit.errors import AccessRefused
from worker.rabbit.topology import apply, wanted
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.services import Broker

NEEDED = {
    "configure": r"^(cim\.reconciler|conversation\..*)$",
    "write": r"^(amq\.default|cim\.conversations|cim\.dead-letters|conversation\..*)$",
    "read": r"^cim\..*$",
}
HOT_PATH = {"configure": "^$", "write": r"^(amq\.default|cim\.conversations|cim\.dead-letters)$"}


class Asker:
    """A user of the broker, and what the preflight says to it."""

    def __init__(self, broker: Broker, url: str) -> None:
        self._management, self._url, self.name = broker.management, url, f"user-{secrets.token_hex(4)}"
        self._management.create_user(self.name, "pw")

    def refusal(self, rights: dict[str, str], **settings: bool) -> str:
        """Return what is refused with *rights*, or nothing."""
        self._management.set_permissions(self.name, urlsplit(self._url).path[1:], **rights)
        return asyncio.run(self._asked(**settings))

    async def _asked(self, **settings: bool) -> str:
        url = self._url.replace("guest:guest@", f"{self.name}:pw@")
        async with connected(url) as consuming, connected(url) as publishing:
            try:
                await check_rights(consuming, publishing, load_settings(rabbitmq_url=url, **settings))
            except AccessRefused as error:
                return str(error)
            return ""

    def close(self) -> None:
        self._management.request("DELETE", f"/users/{self.name}")


@pytest.fixture
def asker(broker: Broker, vhost_url: str) -> Iterator[Asker]:
    async def create() -> None:
        async with connected(vhost_url) as connection:
            await apply(connection, wanted((("1s", 1),), 20, connection.server_version))

    asyncio.run(create())
    made = Asker(broker, vhost_url)
    yield made
    made.close()


def test_a_worker_with_its_rights_is_refused_nothing_and_leaves_nothing_behind(asker: Asker, vhost_url: str) -> None:
    with plain(vhost_url) as channel:
        for queue in ("cim.ingress", "cim.dead-letters"):
            channel.basic_publish("", queue, b"waits here")
    assert asker.refusal(NEEDED) == ""
    assert asker.refusal(NEEDED | HOT_PATH, conversation_events=False) == ""
    assert [depth(vhost_url, queue) for queue in ("cim.ingress", "cim.ingress.waiting", "cim.dead-letters")] == [
        1,
        0,
        1,
    ]
    with plain(vhost_url) as channel:
        assert not channel.basic_get("cim.ingress")[0].redelivered


@pytest.mark.parametrize(
    ("rights", "refused"),
    [
        ({"write": r"^(amq\.default|cim\.conversations|conversation\..*)$"}, "write to the exchange cim.dead-letters"),
        ({"write": r"^(cim\.conversations|cim\.dead-letters|conversation\..*)$"}, "write to the exchange amq.default"),
        ({"write": r"^(amq\.default|cim\.dead-letters|conversation\..*)$"}, "write to the exchange cim.conversations"),
        ({"read": r"^cim\.(ingress|dead-letters|con.*)$"}, "read from the queue cim.ingress.waiting"),
        ({"read": r"^cim\.(ingress.*|con.*)$"}, "read from the queue cim.dead-letters"),
        ({"read": r"^cim\.(ingress.*|dead-letters|conversations)$"}, "read from the queue cim.conversation-events"),
        ({"read": r"^cim\.(ingress.*|dead-letters|conversation-events)$"}, "read from cim.conversations (to bind"),
        ({"configure": r"^cim\.reconciler$"}, "configure the exchanges conversation.…"),
        ({"configure": r"^conversation\..*$"}, "configure the queue cim.reconciler"),
    ],
)
def test_each_right_that_is_missing_is_named_with_the_user(asker: Asker, rights: dict[str, str], refused: str) -> None:
    said = asker.refusal(NEEDED | rights)
    assert said.startswith(f"the user {asker.name} may not ")
    assert refused in said
    assert ", nor " not in said


def test_all_that_is_missing_is_said_at_once(asker: Asker, vhost_url: str) -> None:
    said = asker.refusal({"configure": "^$", "write": "^$", "read": "^$"})
    assert said.count("may not") == 1
    assert said.count(", nor ") == 9
    assert depth(vhost_url, "cim.dead-letters") == 0


def test_rights_that_the_settings_make_needless_are_not_asked_for(asker: Asker) -> None:
    few = {"read": r"^cim\.ingress.*$"} | HOT_PATH
    assert asker.refusal(few, conversation_events=False, record_dead_letters=False) == ""
