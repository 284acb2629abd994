"""`cim-worker publish` against a real broker."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pika
import pytest

from tests.acceptance.test_cli_offline import INVALID, VALID
from tests.support.amqp import depth
from tests.support.command import COMMAND, cim_worker, environment, printed_json, running
from tests.support.eventually import eventually
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.services.services import Store


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


def test_with_no_check_nothing_is_validated(ingress_url: str) -> None:
    finished = cim_worker("publish", "--no-check", "-", stdin="nonsense", CIM_RABBITMQ_URL=ingress_url)

    assert finished.returncode == ExitCode.OK
    [(method, _, body)] = taken(ingress_url)
    assert (method.routing_key, body) == ("unknown", b"nonsense")


def test_one_invalid_message_far_down_keeps_all_of_them_back_or_is_left_out(ingress_url: str) -> None:
    lines = [json.dumps({**VALID, "id": f"m-{number}"}) for number in range(599)] + [json.dumps(INVALID)]
    stdin = "\n".join(lines)

    finished = cim_worker("publish", "-", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    assert finished.returncode == ExitCode.REJECTED
    assert "missing_anchor" in finished.stdout
    assert "600" in finished.stdout
    assert "--keep-going" in finished.stderr
    assert taken(ingress_url) == []

    finished = cim_worker("publish", "--keep-going", "-", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    assert finished.returncode == ExitCode.REJECTED
    assert "599 confirmed" in finished.stdout
    assert "1 left out" in finished.stdout
    assert len(taken(ingress_url)) == 599


def test_for_a_program_what_is_invalid_is_part_of_the_one_document(ingress_url: str) -> None:
    stdin = "\n".join(map(json.dumps, (VALID, INVALID)))
    counts = {"returned": 0, "nacked": 0, "too_large": 0, "unknown": 0, "left_out": 1}

    refused = cim_worker("publish", "--json", "-", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    gone_on = cim_worker("publish", "--json", "--keep-going", "-", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)

    for finished, confirmed in ((refused, 0), (gone_on, 1)):
        document = printed_json(finished)
        assert finished.returncode == ExitCode.REJECTED
        ((invalid, number),) = [(one["problems"][0]["code"], one["index"]) for one in document.pop("invalid")]
        assert (invalid, number) == ("missing_anchor", 2)
        assert document == {"confirmed": confirmed, "not_sent": 1 - confirmed, **counts}
    assert len(taken(ingress_url)) == 1


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
    finished = cim_worker("publish", "--no-check", "-", "--json", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)

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


def test_what_is_confirmed_is_not_sent_again_when_the_command_resumes(ingress_url: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    stdin = "\n".join(json.dumps({**VALID, "id": f"m-{number}"}) for number in range(600))
    state.write_text(json.dumps({"input": "another", "left": []}))
    refused = cim_worker("publish", "--resume", state, "-", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    assert (refused.returncode, "another input" in refused.stderr) == (ExitCode.CONFIGURATION, True)
    state.unlink()

    limited = {"max-length": 550, "overflow": "reject-publish"}
    with limited_ingress(ingress_url, limited):
        stopped = cim_worker("publish", "--resume", state, "-", "--json", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    assert stopped.returncode == ExitCode.BROKER_UNREACHABLE
    confirmed = printed_json(stopped)["confirmed"]
    assert 0 < confirmed < 600

    arguments = ("publish", "--resume", state, "-", "--json")
    finished = cim_worker(*arguments, stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    counts = printed_json(finished)
    assert (finished.returncode, counts["confirmed"], counts["done_before"]) == (0, 600 - confirmed, confirmed)
    ids = [properties.message_id for _, properties, _ in taken(ingress_url)]
    assert sorted(ids) == sorted(f"m-{number}" for number in range(600)), "each once"
    again = printed_json(cim_worker(*arguments, stdin=stdin, CIM_RABBITMQ_URL=ingress_url))
    assert (again["confirmed"], again["done_before"]) == (0, 600)


def test_repeat_sends_all_of_it_so_often_and_rate_no_faster_than_asked(ingress_url: str) -> None:
    stdin = "\n".join(json.dumps({**VALID, "id": f"m-{number}"}) for number in range(5))
    started = time.monotonic()
    finished = cim_worker("publish", "-", "--repeat", "4", "--rate", "5", stdin=stdin, CIM_RABBITMQ_URL=ingress_url)
    assert finished.returncode == ExitCode.OK
    assert time.monotonic() - started > 3.5, "twenty at five a second; the start of the process is far shorter"
    assert len(taken(ingress_url)) == 20


def test_what_was_published_is_counted_though_it_is_interrupted(ingress_url: str, tmp_path: Path) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(json.dumps({**VALID, "id": f"m-{number}"}) for number in range(600)))
    command = [COMMAND, "publish", "--rate", "50", "--json", str(file)]
    with subprocess.Popen(
        command,
        env=environment(CIM_RABBITMQ_URL=ingress_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            eventually(lambda: depth(ingress_url, "cim.ingress") > 0, "the first messages")
            process.send_signal(signal.SIGINT)
            said, problem = process.communicate(timeout=30)
        finally:
            process.kill()
    counts = json.loads(said)
    assert sum(counts.values()) == 600
    assert 0 < counts["confirmed"] <= len(taken(ingress_url)) <= counts["confirmed"] + counts["unknown"]
    assert (process.returncode, "publish again" in problem) == (130, True)


def test_wait_counts_what_became_of_the_messages_and_says_when_nobody_tells(
    ingress_url: str, store: Store, database: str, tmp_path: Path
) -> None:
    places = {"CIM_RABBITMQ_URL": ingress_url, "CIM_MONGODB_URI": store.uri, "CIM_MONGODB_DATABASE": database}
    stdin = json.dumps({**VALID, "id": "m-1"})
    silent = cim_worker("publish", "--wait", "--timeout", "0.2", "-", stdin=stdin, **places)
    assert (silent.returncode, "no receipt" in silent.stdout) == (ExitCode.NOT_FOUND, True)
    taken(ingress_url)

    with running(COMMAND, "run", log=tmp_path / "worker.log", **places):
        finished = cim_worker("publish", "--wait", "--repeat", "2", "-", "--json", stdin=stdin, **places)
        assert finished.returncode == ExitCode.OK, finished.stderr
        outcomes = {(one["outcome"], one["why"], one["messages"]) for one in printed_json(finished)["outcomes"]}
        assert outcomes == {("stored", "unknown_conversation", 1), ("duplicate", "unknown_conversation", 1)}
        dead = cim_worker("publish", "--wait", "--no-check", "-", stdin=json.dumps(INVALID), **places)
        assert dead.returncode == ExitCode.REJECTED
        assert "dead\tmissing_anchor\t1" in dead.stdout


@contextlib.contextmanager
def limited_ingress(url: str, policy: dict[str, Any]) -> Iterator[None]:
    """Bound the ingress queue: it is made again with these limits, and after that without."""
    arguments = {f"x-{name}": value for name, value in policy.items()}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_delete("cim.ingress")
        channel.queue_declare("cim.ingress", durable=True, arguments=arguments)
        channel.queue_bind("cim.ingress", "cim.ingress", "#")
        yield
        kept = [body for *_, body in taken(url)]
        ids = [json.loads(body)["id"] for body in kept]
        channel.queue_delete("cim.ingress")
        assert cim_worker("topology", "apply", CIM_RABBITMQ_URL=url).returncode == ExitCode.OK
        for message_id, body in zip(ids, kept, strict=True):
            channel.basic_publish("cim.ingress", "any", body, pika.BasicProperties(message_id=message_id))
