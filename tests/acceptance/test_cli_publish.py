"""`cim-worker publish` against a real broker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.acceptance.test_cli_offline import INVALID, VALID
from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def ingress_url(vhost_url: str) -> str:
    """URL of a virtual host with the whole topology and nobody working there."""
    assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url).returncode == ExitCode.OK
    return vhost_url


def taken(url: str) -> list[tuple[Any, Any, bytes]]:
    """Return everything that is in the ingress queue."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        deliveries = []
        while (delivery := channel.basic_get("cim.ingress", auto_ack=True))[0] is not None:
            deliveries.append(delivery)
        return deliveries


def test_a_message_arrives_byte_for_byte_persistent_and_with_its_id(ingress_url: str, tmp_path: Path) -> None:
    file = tmp_path / "message.json"
    file.write_bytes(json.dumps(VALID, indent=3).encode() + b"\n")

    finished = cim_worker("publish", file, "--json", CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.OK, finished.stderr
    counts = {"confirmed": 1, "returned": 0, "nacked": 0, "too_large": 0, "unknown": 0, "not_sent": 0}
    assert printed_json(finished) == counts
    [(method, properties, body)] = taken(ingress_url)
    assert body == file.read_bytes()
    assert (method.exchange, method.routing_key) == ("cim.ingress", "c-1")
    assert (properties.message_id, properties.delivery_mode) == ("m-1", 2)
    assert properties.content_type == "application/json"


def test_nothing_is_validated_unless_asked(ingress_url: str) -> None:
    finished = cim_worker("publish", "-", stdin="nonsense", CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.OK
    [(method, _, body)] = taken(ingress_url)
    assert (method.routing_key, body) == ("unknown", b"nonsense")


def test_with_check_one_invalid_message_keeps_all_of_them_back(ingress_url: str) -> None:
    stdin = json.dumps(VALID) + "\n" + json.dumps(INVALID)

    finished = cim_worker("publish", "--check", "-", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.REJECTED
    assert "missing_anchor" in finished.stdout
    assert taken(ingress_url) == []


def test_more_messages_than_one_window_are_all_confirmed(ingress_url: str) -> None:
    stdin = "\n".join(json.dumps({**VALID, "id": f"m-{number}"}) for number in range(1234))

    finished = cim_worker("publish", "-", "--json", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)

    assert printed_json(finished)["confirmed"] == 1234
    assert len({properties.message_id for _, properties, _ in taken(ingress_url)}) == 1234


def test_without_topology_the_fix_is_named(vhost_url: str) -> None:
    finished = cim_worker("publish", "-", stdin=json.dumps(VALID), CIM_RABBITMQ_URL=vhost_url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "cim-worker topology apply" in finished.stderr


def test_a_message_that_no_queue_takes_is_reported(ingress_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(ingress_url)) as connection:
        connection.channel().queue_delete("cim.ingress")

    finished = cim_worker("publish", "-", "--json", stdin=json.dumps(VALID), CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert printed_json(finished)["returned"] == 1
    assert "cim-worker topology apply" in finished.stderr


@pytest.mark.parametrize("content", [b"", b" \n\r\n\n", b"[]", b" [ ] \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n[]"])
def test_nothing_to_publish_is_wrong_usage_and_publishes_nothing(ingress_url: str, content: bytes) -> None:
    finished = cim_worker("publish", "-", stdin=content, CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "nothing to publish" in finished.stderr
    assert taken(ingress_url) == []


def test_a_byte_order_mark_is_not_published(ingress_url: str, tmp_path: Path) -> None:
    file = tmp_path / "from-windows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps({**VALID, "id": one}).encode() for one in ("1", "2")))

    assert cim_worker("publish", file, CIM_RABBITMQ_URL=ingress_url).returncode == ExitCode.OK
    assert [(json.loads(body)["id"], properties.message_id) for _, properties, body in taken(ingress_url)] == [
        ("1", "1"),
        ("2", "2"),
    ]


@pytest.mark.parametrize("place", ["id", "conversationId"])
def test_a_half_surrogate_among_many_messages_keeps_none_of_them_back(ingress_url: str, place: str) -> None:
    half = {**VALID, "id": "\ud800"} if place == "id" else {**VALID, "header": {"conversationId": "\ud800"}}
    messages = [{**VALID, "id": f"m-{number}"} for number in range(700)]
    messages[610] = half

    stdin = "\n".join(map(json.dumps, messages))
    finished = cim_worker("publish", "-", "--json", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.OK, finished.stderr
    assert printed_json(finished)["confirmed"] == 700
    assert [json.loads(body) for _, _, body in taken(ingress_url)] == messages


def test_without_the_right_to_publish_the_brokers_reason_is_repeated_and_every_message_accounted_for(
    ingress_url: str, url_with_rights: Callable[..., str]
) -> None:
    url = url_with_rights(configure="^$", write="^$", read="^$")
    stdin = "\n".join(json.dumps({**VALID, "id": f"m-{number}"}) for number in range(1234))

    finished = cim_worker("publish", "-", "--json", stdin=stdin, CIM_RABBITMQ_URL=url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "403" in finished.stderr
    assert "access to exchange 'cim.ingress'" in finished.stderr
    counts = printed_json(finished)
    assert (counts["confirmed"], sum(counts.values())) == (0, 1234)
    assert taken(ingress_url) == []
