"""Confirmed publishing on a real broker, beyond the contract it shares with the fake (tests/contract)."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.support.amqp import connected, cut, drained, fill, publishing
from tests.support.deliveries import NOW, delivery
from tests.support.eventually import eventually_async
from worker.cim import Identity
from worker.codes import Code, Problem
from worker.dead_letters.envelope import dead_letter
from worker.failure import Failure
from worker.ports import Confirmation, Outgoing
from worker.rabbit.errors import AccessRefused, ChannelClosed, ConfirmTimeout
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from tests.services.broker import LocalBroker

CLASSIC = {"x-queue-type": "classic"}


def to(queue: str, message_id: str, body: bytes = b"{}") -> Outgoing:
    return Outgoing("", queue, message_id, body)


async def test_what_arrives_is_persistent_and_has_the_properties_given(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with publishing(vhost_url, user_id="guest") as (_, publisher):
        message = Outgoing(
            "",
            "q",
            "id-1",
            b"body",
            correlation_id="c",
            type="T",
            app_id="app",
            timestamp=1_760_000_000,
            headers={"cim-attempt": 2, "traceparent": "00-t"},
        )
        assert await publisher.publish([message]) == [Confirmation.CONFIRMED]
    ((_, properties, body),) = drained(vhost_url, "q")
    assert body == b"body"
    assert (properties.message_id, properties.correlation_id, properties.type) == ("id-1", "c", "T")
    assert (properties.app_id, properties.user_id, properties.timestamp) == ("app", "guest", 1_760_000_000)
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    properties.headers.pop("x-delivery-count", None)  # the broker's own
    assert properties.headers == {"cim-attempt": 2, "traceparent": "00-t"}


@pytest.mark.parametrize("message_id", ["ü" * 255, "\ufffd" * 200, "x" * 300])
async def test_a_return_is_found_even_when_the_id_is_cut_on_the_wire(vhost_url: str, message_id: str) -> None:
    async with publishing(vhost_url) as (_, publisher):
        assert await publisher.publish([to("nowhere", message_id)]) == [Confirmation.RETURNED]


async def test_many_more_than_may_be_outstanding_still_all_arrive(vhost_url: str) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url, max_outstanding=10, max_unsent_bytes=1000) as (_, publisher):
        messages = [to("q", f"m-{number}", b"x" * 20_000) for number in range(300)]
        assert set(await publisher.publish(messages)) == {Confirmation.CONFIRMED}
        assert len(publisher._pending) == 0
    assert len(drained(vhost_url, "q")) == 300


async def test_a_message_that_cannot_be_written_does_not_shift_the_receipts_of_others(vhost_url: str) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url) as (_, publisher):
        with pytest.raises(ValueError, match="255 bytes"):
            await publisher.publish([to("q", "before"), to("k" * 300, "bad"), to("q", "never sent")])
        confirmations = await publisher.publish([to("q", "a"), to("nowhere", "b"), to("q", "c")])
        assert confirmations == [Confirmation.CONFIRMED, Confirmation.RETURNED, Confirmation.CONFIRMED]
        await eventually_async(lambda: len(publisher._pending) == 0)
    assert [properties.message_id for _, properties, _ in drained(vhost_url, "q")] == ["before", "a", "c"]


async def test_publishing_to_a_missing_exchange_ends_the_channel_and_is_of_unknown_effect(vhost_url: str) -> None:
    async with publishing(vhost_url) as (connection, publisher):
        confirmations = await publisher.publish([Outgoing("no-such-exchange", "k", "m", b"{}")])
        assert confirmations == [Confirmation.UNKNOWN]
        reason = await asyncio.wait_for(asyncio.shield(publisher.closed), 5)
        assert isinstance(reason, ChannelClosed)
        assert reason.reply_code == 404
        assert connection.is_open


async def test_another_users_name_is_refused_by_the_broker(vhost_url: str) -> None:
    fill(vhost_url, "q")
    async with publishing(vhost_url, user_id="somebody-else") as (_, publisher):
        assert await publisher.publish([to("q", "m")]) == [Confirmation.UNKNOWN]
        assert isinstance(await asyncio.wait_for(asyncio.shield(publisher.closed), 5), ChannelClosed | AccessRefused)


async def test_a_connection_lost_in_the_middle_leaves_what_is_unconfirmed_unknown(vhost_url: str) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url) as (connection, publisher):
        await publisher.publish([to("q", "first")])
        raw: Any = connection.raw
        confirms = raw._on_data_available
        raw._on_data_available = lambda _: None  # the confirms are on their way and never arrive
        publish = asyncio.create_task(publisher.publish([to("q", f"m-{number}") for number in range(50)]))
        await eventually_async(lambda: len(publisher._pending) == 50)
        raw._on_data_available = confirms
        cut(connection)
        assert await asyncio.wait_for(publish, 5) == [Confirmation.UNKNOWN] * 50


async def test_a_confirm_that_does_not_come_in_time_ends_the_connection(breakable_broker: LocalBroker) -> None:
    url = breakable_broker.create_vhost("confirms")
    fill(url, "q", arguments=CLASSIC)
    async with publishing(url, confirm_timeout_ms=500) as (connection, publisher):
        assert await publisher.publish([to("q", "m")]) == [Confirmation.CONFIRMED]
        breakable_broker.freeze()
        confirmations = await asyncio.wait_for(publisher.publish([to("q", "a"), to("q", "b")]), 10)
        assert confirmations == [Confirmation.UNKNOWN] * 2
        assert isinstance(connection.closed.result(), ConfirmTimeout)
        breakable_broker.thaw()


@dataclass
class Told:
    """What became of messages that were published at once."""

    confirmations: dict[int, Confirmation] = field(default_factory=dict)

    def settle(self, index: int, count: int, confirmation: Confirmation) -> None:
        for one in range(index, index + count):
            assert one not in self.confirmations
            self.confirmations[one] = confirmation

    def is_confirmed(self) -> bool:
        return set(self.confirmations.values()) == {Confirmation.CONFIRMED}


async def test_what_can_be_published_at_once_is_and_each_message_is_told_of(vhost_url: str) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url, max_outstanding=3) as (_, publisher):
        assert not publisher.publish_now([to("q", "how large may it be?")], Told())
        await publisher.publish([to("q", "first")])
        bad, told = Told(), Told()
        with pytest.raises(ValueError, match="255 bytes"):
            publisher.publish_now([to("q", "before"), to("k" * 300, "bad")], bad)
        assert publisher.publish_now([to("q", "a"), to("nowhere", "b")], told)
        assert not publisher.publish_now([to("q", "no room")], Told())
        await eventually_async(lambda: told.confirmations == {0: Confirmation.CONFIRMED, 1: Confirmation.RETURNED})
        assert bad.confirmations == {0: Confirmation.CONFIRMED}
        assert not publisher.publish_now([to("q", "large", bytes(publisher._sizes.proven + 1))], Told())
    assert [properties.message_id for _, properties, _ in drained(vhost_url, "q")] == ["first", "before", "a"]


async def test_what_was_published_at_once_ends_the_connection_too_when_no_confirm_comes(
    breakable_broker: LocalBroker,
) -> None:
    url = breakable_broker.create_vhost("confirms-at-once")
    fill(url, "q", arguments=CLASSIC)
    async with publishing(url, confirm_timeout_ms=500) as (connection, publisher):
        await publisher.publish([to("q", "first")])
        for number in range(2):  # the watch ends with the first, and begins again with the second
            told = Told()
            assert publisher.publish_now([to("q", f"m-{number}")], told)
            await eventually_async(told.is_confirmed)
            await eventually_async(lambda: publisher._watch is None)
        breakable_broker.freeze()
        try:
            lost = Told()
            publisher.publish_now([to("q", "m")], lost)
            assert isinstance(await asyncio.wait_for(asyncio.shield(connection.closed), 5), ConfirmTimeout)
        finally:
            breakable_broker.thaw()
        assert lost.confirmations == {0: Confirmation.UNKNOWN}


async def test_a_blocked_publisher_waits_as_long_as_the_alarm_lasts(breakable_broker: LocalBroker) -> None:
    url = breakable_broker.create_vhost("blocked")
    fill(url, "q", arguments=CLASSIC)
    async with publishing(url, confirm_timeout_ms=300) as (connection, publisher):
        breakable_broker.set_memory_alarm(True)
        try:
            waiting = asyncio.create_task(publisher.publish([to("q", "m")]))
            await eventually_async(lambda: connection.blocked_reason)
            done, _ = await asyncio.wait([waiting], timeout=1)  # three confirm timeouts
            assert not done
            assert connection.is_open
        finally:
            breakable_broker.set_memory_alarm(False)
        assert await asyncio.wait_for(waiting, 10) == [Confirmation.CONFIRMED]


async def test_publishes_with_one_id_are_all_in_flight_at_once(vhost_url: str) -> None:
    """A publisher may put one id on everything it sends: a round trip for each would stop it and its neighbours."""
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url) as (connection, publisher):
        await publisher.publish([to("q", "first")])
        raw: Any = connection.raw
        confirms = raw._on_data_available
        held: list[bytes] = []
        raw._on_data_available = held.append

        async def release_when_all_are_sent() -> None:
            await eventually_async(lambda: len(publisher._pending) == 300)
            raw._on_data_available = confirms
            for data in held:
                confirms(data)

        found, _ = await asyncio.gather(
            publisher.publish([to("q", "same") for _ in range(300)]), release_when_all_are_sent()
        )
        assert found == [Confirmation.CONFIRMED] * 300
    assert len(drained(vhost_url, "q")) == 301


async def test_the_returns_of_one_id_are_matched_exactly(vhost_url: str) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    chance = random.Random(7)
    async with publishing(vhost_url, max_outstanding=150) as (_, publisher):
        windows = [
            [
                to(chance.choice(("q", "nowhere")), chance.choice(("same", "m-2", f"own-{window}-{n}")))
                for n in range(100)
            ]
            for window in range(20)
        ]
        for window, found in zip(windows, await asyncio.gather(*map(publisher.publish, windows)), strict=True):
            expected = {"q": Confirmation.CONFIRMED, "nowhere": Confirmation.RETURNED}
            assert found == [expected[message.routing_key] for message in window]
        assert len(publisher._pending) == 0
        assert publisher._pending.tag_of("same") is None
        assert not publisher._returned
        assert await publisher.publish([to("q", "same")]) == [Confirmation.CONFIRMED]


async def test_only_a_message_whose_id_is_in_flight_already_has_the_header_that_tells_them_apart(
    vhost_url: str,
) -> None:
    fill(vhost_url, "q", arguments=CLASSIC)
    async with publishing(vhost_url) as (_, publisher):
        await publisher.publish([to("q", "a"), to("q", "same"), to("q", "same"), to("q", "b")])
        await publisher.publish([to("q", "same")])
    told_apart = [(p.message_id, "cim-publish" in (p.headers or {})) for _, p, _ in drained(vhost_url, "q")]
    assert told_apart == [("a", False), ("same", False), ("same", True), ("b", False), ("same", False)]


async def test_a_queue_that_is_full_no_longer_is_published_to_again(
    breakable_broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker goes on refusing on an AMQP channel whose limit was taken away: only a fresh one helps."""
    monkeypatch.setattr("worker.rabbit.publisher._REFUSED_SECONDS", 0.3)
    url = breakable_broker.create_vhost("full")
    fill(url, "q")
    async with publishing(url) as (_, publisher):
        full = {"max-length": 0, "overflow": "reject-publish"}
        breakable_broker.set_policy("full", "full", "^q$", full)
        await _published_until(publisher, Confirmation.NACKED)
        breakable_broker.management.request("DELETE", "/policies/full/full")
        await _published_until(publisher, Confirmation.CONFIRMED)
        assert await publisher.publish([to("q", "a"), to("nowhere", "b")]) == [
            Confirmation.CONFIRMED,
            Confirmation.RETURNED,
        ]
        assert not publisher.closed.done()


async def test_others_publish_on_while_the_channel_is_renewed(
    breakable_broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rabbit.publisher._REFUSED_SECONDS", 0.0)  # renewed at every refusal
    url = breakable_broker.create_vhost("renewed")
    fill(url, "q", arguments=CLASSIC)
    fill(url, "full", arguments={**CLASSIC, "x-max-length": 0, "x-overflow": "reject-publish"})
    async with publishing(url, max_outstanding=20) as (_, publisher):
        windows = [[to(queue, f"{n}-{i}") for i in range(50)] for n in range(20) for queue in ("q", "full")]
        confirmations = await asyncio.gather(*map(publisher.publish, windows))
        assert [set(window) for window in confirmations] == [{Confirmation.CONFIRMED}, {Confirmation.NACKED}] * 20
    assert len(drained(url, "q")) == 1000


async def _published_until(publisher: Publisher, wanted: Confirmation) -> None:
    async def publish() -> bool:
        return await publisher.publish([to("q", "m")]) == [wanted]

    await eventually_async(publish, wanted.value, seconds=10)


async def test_closing_leaves_nothing_waiting(vhost_url: str) -> None:
    async with connected(vhost_url) as connection:
        publisher = await Publisher.open(connection)
        await publisher.close()
        assert await publisher.publish([to("q", "m")]) == [Confirmation.UNKNOWN]


@pytest.mark.parametrize("wanted", [8192, 4096])
async def test_a_letter_with_long_reasons_fits_the_frames_of_its_connection(vhost_url: str, wanted: int) -> None:
    """AMQP never splits a header frame: a larger one ends the connection, and whatever was in flight with it."""
    fill(vhost_url, "q", arguments=CLASSIC)
    async with connected(vhost_url) as connection:  # from 4.1 on, RabbitMQ allows no less than 8192
        frame_max = wanted if connection.server_version < (4, 1) else 8192
    wrong = {"ключ" * 40 + str(number): 1 for number in range(30)}
    body = orjson.dumps({"id": "m-1", "header": {"sender": {"id": "s-1"}, "customer": wrong}, "body": wrong})
    failure = Failure.of_problems(
        tuple(Problem(Code.WRONG_TYPE, f"/{name}", "A text, не число." * 20) for name in wrong)[:20]
    )
    arrived = delivery(body, message_id="ü" * 100, correlation_id="ü" * 300, user_id="u" * 200)
    letter = dead_letter(arrived, failure, Identity("s" * 500, "ж" * 500), now=NOW, copy_id="x")
    letter = letter._replace(exchange="", routing_key="q")
    async with publishing(f"{vhost_url}?frame_max={frame_max}") as (connection, publisher):
        assert connection.raw.frame_max == frame_max
        assert await publisher.publish([letter, to("q", "after")]) == [Confirmation.CONFIRMED] * 2
        assert connection.is_open
    (_, properties, received), _ = drained(vhost_url, "q")
    assert received == body
    assert properties.headers["cim-code"] == "wrong_type"
    assert properties.headers["cim-origin-queue"] == "cim.ingress"
    first, *others = json.loads(properties.headers["cim-problems"])
    assert first["code"] == "wrong_type"
    assert first["pointer"].startswith("/ключ")
    assert bool(others) == (frame_max == 8192)
