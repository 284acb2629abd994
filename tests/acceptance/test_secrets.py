"""Passwords and message bodies are in no output, whatever fails: everything the command says is searched for them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pytest

from tests.acceptance.test_cli_offline import VALID
from tests.services.processes import free_ports
from tests.support.command import COMMAND, cim_worker, environment, running, wait_until
from worker import contract
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.services import Broker, Store

SECRETS = ("br0ker-s3cret", "st0re-s3cret")
BROKER_WORD, STORE_WORD = (f"{word}%40x" for word in SECRETS)
BODY = "canary-of-a-body"
NOWHERE = {
    "CIM_RABBITMQ_URL": f"amqp://user:{BROKER_WORD}@127.0.0.1:9/",
    "CIM_MONGODB_URI": f"mongodb://user:{STORE_WORD}@127.0.0.1:9/?serverSelectionTimeoutMS=300",
    "CIM_MONGODB_TIMEOUT_MS": "400",
    "CIM_LOG_LEVEL": "debug",
}
WRONG_URLS = {
    "CIM_RABBITMQ_URL": (
        f"amqp://user:{BROKER_WORD}@127.0.0.1:port/",
        f"http://user:{BROKER_WORD}@127.0.0.1/",
        f"amqp://user:{BROKER_WORD}@127.0.0.1:9/?heartbeat={BROKER_WORD}",
        f"amqp://user:{BROKER_WORD}@127.0.0.1:9/?ssl_options={BROKER_WORD}",
        f"amqp://user:{BROKER_WORD}@[127.0.0.1/",
        f"amqp://user:{BROKER_WORD}/x@127.0.0.1/",
        f"amqp://user:{BROKER_WORD}?x@127.0.0.1/",
        f"amqp://user:{BROKER_WORD}#x@127.0.0.1/",
        f"amqp://user:x@{BROKER_WORD}/@127.0.0.1/",
        f"user:{BROKER_WORD}@127.0.0.1",
    ),
    "CIM_MONGODB_URI": (
        f"mongodb://user:{STORE_WORD}@127.0.0.1:port/",
        f"mongodb://user:{STORE_WORD}/@127.0.0.1/",
        f"mongodb://user:{STORE_WORD}@127.0.0.1:9/?tls=perhaps",
        f"mongodb://user:{STORE_WORD}@127.0.0.1:9/?authMechanism={STORE_WORD}",
        f"mongodb://user:{STORE_WORD}@127.0.0.1:9/?tlsCertificateKeyFilePassword={STORE_WORD}&tls=true",
        f"postgres://user:{STORE_WORD}@127.0.0.1/",
    ),
}
COMMANDS = (
    ("topology", "check", "--json"),
    ("topology", "apply"),
    ("conversations", "list"),
    ("conversations", "show", "c-1", "--json"),
    ("publish", "-"),
    ("settings",),
    ("settings", "--json"),
    ("settings", BODY),
    ("run", "--processes", "none"),
)


def assert_silent(text: str, *secrets: str) -> None:
    assert text, "nothing was said, so nothing was searched"
    for secret in secrets or SECRETS:
        assert secret not in text


def said(*arguments: str, **variables: str) -> str:
    finished = cim_worker(*arguments, stdin=json.dumps(VALID), **variables)
    return finished.stdout + finished.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_tells_a_password_when_nobody_answers(command: tuple[str, ...]) -> None:
    assert_silent(said(*command, **NOWHERE))


@pytest.mark.parametrize(
    ("variable", "url"),
    [(name, url) for name, urls in WRONG_URLS.items() for url in urls],
    ids=lambda value: value[-40:],
)
def test_no_wrong_address_is_quoted(variable: str, url: str) -> None:
    command = ("topology", "check") if variable == "CIM_RABBITMQ_URL" else ("conversations", "list")
    finished = cim_worker(*command, **{**NOWHERE, variable: url})

    assert_silent(finished.stdout + finished.stderr)
    assert finished.returncode in {ExitCode.CONFIGURATION, ExitCode.BROKER_UNREACHABLE, ExitCode.STORE_UNREACHABLE}


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_that_reaches_nobody_tells_no_password(log_format: str, processes: str, tmp_path: Path) -> None:
    log, port = tmp_path / "worker.log", free_ports(1)[0]
    settings = {**NOWHERE, "CIM_LOG_FORMAT": log_format, "CIM_HTTP_PORT": str(port), "CIM_HTTP_HOST": "127.0.0.1"}
    with running(COMMAND, "run", "--processes", processes, log=log, **settings):
        wait_until(lambda: log.read_text().replace(" ", "_").count("dependency_down") >= 2)
        wait_until(lambda: fetch(port, "/livez"))
        pages = [fetch(port, path) for path in ("/metrics", "/readyz", "/livez")]
    assert_silent(log.read_text())
    for page in pages:
        assert page
        assert_silent(page)


def test_a_worker_that_is_refused_or_finds_no_topology_tells_no_password(
    broker: Broker, vhost_url: str, tmp_path: Path
) -> None:
    parts = urlsplit(vhost_url)
    broker.management.create_user("secretive", SECRETS[0] + "@x")
    broker.management.set_permissions("secretive", parts.path[1:])
    right = parts._replace(netloc=f"secretive:{BROKER_WORD}@{parts.hostname}:{parts.port}").geturl()
    for name, url, told in (
        ("wrong password", right.replace("@", "-wrong@"), "broker_access_refused"),
        ("no topology", right, "topology_mismatch"),
        ("wrong virtual host", right + "-wrong", "broker_access_refused"),
        ("no TLS there", right.replace("amqp:", "amqps:"), "broker_unavailable"),
    ):
        log = tmp_path / f"{name}.log"
        with running(COMMAND, "run", log=log, **{**NOWHERE, "CIM_RABBITMQ_URL": url}):
            wait_until(lambda log=log, told=told: told in log.read_text())  # type: ignore[misc]
        assert_silent(log.read_text())
        assert_silent(said("topology", "check", "--json", **{**NOWHERE, "CIM_RABBITMQ_URL": url}))


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_message_bodies_are_in_no_log_header_or_metric(
    log_format: str, vhost_url: str, store: Store, documents: Database[dict[str, Any]], tmp_path: Path
) -> None:
    log, port = tmp_path / "worker.log", free_ports(1)[0]
    settings = {
        "CIM_RABBITMQ_URL": vhost_url,
        "CIM_MONGODB_URI": store.uri,
        "CIM_MONGODB_DATABASE": documents.name,
        "CIM_MAX_MESSAGE_BYTES": "4096",
        "CIM_RECORD_DEAD_LETTERS": "false",
        "CIM_LOG_LEVEL": "debug",
        "CIM_LOG_FORMAT": log_format,
        "CIM_HTTP_PORT": str(port),
    }
    assert cim_worker("topology", "apply", **settings).returncode == ExitCode.OK
    bodies = hostile_bodies()
    with running(COMMAND, "run", log=log, **settings):
        publish(vhost_url, contract.INGRESS, bodies)
        publish(
            vhost_url, contract.CONVERSATION_EVENTS, [b'{"name":"TOPIC_STATE_CHANGED","data":"' + BODY.encode() + b'"}']
        )
        wait_until(lambda: depth(vhost_url, contract.DEAD_LETTERS) == len(bodies))  # all but one valid, plus the event
        pages = fetch(port, "/metrics") + fetch(port, "/readyz")
        letters = [str(properties.headers) for properties in letters_of(vhost_url)]
    for text in (log.read_text(), pages, *letters):
        assert_silent(text, BODY)
    assert documents["ConversationActivities"].count_documents({}) == 1


def hostile_bodies() -> list[bytes]:
    valid = {**VALID, "body": {"type": "PLAIN", "markdownText": BODY}}
    wrong_value = {**valid, "id": "m-3", "body": {"type": "DELIVERYNOTIFICATION", "messageId": "x", "status": BODY}}
    wrong_time = {**valid, "id": "m-4", "header": {**VALID["header"], "timestamp": BODY}}
    too_large = {**valid, "id": "m-5", "body": {"type": "PLAIN", "markdownText": BODY * 1000}}
    not_encodable = {**valid, "id": "m-6", "body": {"type": "PLAIN", "x": {"\x00": BODY}}}
    no_sender = {**valid, "header": {"conversationId": "c-1"}}
    documents = [valid, wrong_value, wrong_time, too_large, not_encodable, no_sender]
    malformed = [json.dumps(valid).encode()[:-2], BODY.encode(), b'"' + BODY.encode() + b'"', b"\xff" + BODY.encode()]
    return [json.dumps(one).encode() for one in documents] + malformed


def publish(url: str, exchange: str, bodies: list[bytes]) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish(exchange, "any", body, mandatory=True)


def depth(url: str, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


def letters_of(url: str) -> list[pika.BasicProperties]:
    letters: list[pika.BasicProperties] = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while True:
            method, properties, _ = channel.basic_get(contract.DEAD_LETTERS, auto_ack=True)
            if method is None:
                return letters
            letters.append(properties)


def fetch(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as refusal:
        return refusal.read().decode()
    except urllib.error.URLError:
        return ""  # of two processes the other one may have been quicker


def test_the_environment_of_these_tests_holds_the_secrets() -> None:
    """Else the searches above would find nothing because nothing was there."""
    told = str(environment(**NOWHERE))
    assert all(secret in told for secret in SECRETS)
