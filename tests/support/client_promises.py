"""What each publisher of `schemas/examples/clients` promises, held against a real worker."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from tests.support.amqp import depth, drained, plain
from tests.support.command import COMMAND, cim_worker, running
from tests.support.eventually import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Broker, Store
    from tests.support.clients import Client

SENDER = {"id": "7c9a0f5e-1111-4a4a-8b8b-2d2d2d2d2d2d", "type": "APP"}


class Ingress:
    """A virtual host with the worker's topology, and a publisher that has a publisher's rights in it."""

    def __init__(
        self, client: Client, broker: Broker, vhost_url: str, store: Store, database: str, url: str, folder: Path
    ) -> None:
        self._client, self._broker, self._vhost_url, self._url, self._folder = client, broker, vhost_url, url, folder
        self._places = {
            "CIM_RABBITMQ_URL": vhost_url,
            "CIM_MONGODB_URI": store.uri,
            "CIM_MONGODB_DATABASE": database,
            "CIM_RECORD_DEAD_LETTERS": "false",
        }

    def tells_what_became_of_messages(self) -> None:
        """Published to whoever listens, stored, and dead: the program says which, and ends with its exit code."""
        self._apply()
        opened = cim_worker("conversations", "open", "c-1", **self._places)
        assert opened.returncode == 0, opened.stderr
        with plain(self._vhost_url) as channel:
            channel.queue_declare("desk", durable=True)
            channel.queue_bind("desk", "conversation.c-1")
        with self._worker():
            live = self._publish("m-live", conversationId="c-1")
            stored = self._publish("m-stored", customer={"_id": "u-1"})
            dead = self._publish("m-dead", conversationId="c-1", stamps="none")

        ((_, event, _),) = drained(self._vhost_url, "desk")
        assert self._said(live) == (0, "confirmed m-live", f"receipt published {event.message_id}")
        assert self._said(stored) == (0, "confirmed m-stored", "receipt stored stand_alone")
        assert self._said(dead) == (6, "confirmed m-dead", "receipt dead wrong_type")
        ((_, letter, _),) = drained(self._vhost_url, "cim.dead-letters")
        assert letter.message_id == "m-dead"
        assert letter.headers["cim-user-id"] == urlsplit(self._url).username

    def sends_again_after_a_lost_connection(self) -> None:
        """Its connection ends while it waits for the receipt: it connects again, and sends the same again."""
        self._apply()
        file = self._file("m-1", {"customer": {"_id": "u-1"}})
        with self._client.publishing(file, self._url) as process:
            eventually(lambda: depth(self._vhost_url, "cim.ingress") == 1, "the message")
            eventually(self._cut, "the publisher's connection")
            eventually(lambda: depth(self._vhost_url, "cim.ingress") == 2, "the message again")
            with self._worker():
                said, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert said.splitlines()[-1].split()[:2] in (["receipt", "stored"], ["receipt", "duplicate"])

    def says_that_no_queue_took_it(self) -> None:
        """Not one attempt more is made, for the answer would be the same."""
        with plain(self._vhost_url) as channel:
            channel.exchange_declare("cim.ingress", "topic", durable=True)
        returned = self._publish("m-1", conversationId="c-1")

        assert "confirmed" not in returned.stdout
        assert (returned.returncode, len(returned.stderr.splitlines())) == (2, 1), returned.stderr

    def says_that_no_receipt_came(self) -> None:
        """No worker runs: the message is confirmed and stays in the queue, and the program ends all the same."""
        self._apply()
        unanswered = self._client.publish(self._file("m-1", {"conversationId": "c-1"}), self._url, receipt_seconds=1)

        assert self._said(unanswered) == (5, "confirmed m-1")
        assert "no receipt in time" in unanswered.stderr
        assert depth(self._vhost_url, "cim.ingress") == 1

    def says_that_no_exchange_took_it(self) -> None:
        """The broker closes the channel: not one attempt more is made, and its reason is told."""
        refused = self._publish("m-1", conversationId="c-1")

        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1), refused.stderr
        assert "404" in refused.stderr, refused.stderr

    def answers_in_one_sentence_whatever_it_is_given(self) -> None:
        """What it cannot send, or not with an id that stays the same, it does not try to send."""
        messages = (
            *(b"{}", b"[]", b"null", b"\xff", b"{", b"[" * 100_000, b'{"id": 7}', b'{"id": " ", "header": 1}'),
            *(b'{"id": "%b"}' % (b"x" * 256), b'{"header": {"customer": null}}'),
        )
        for number, body in enumerate(messages):
            file = self._folder / f"odd-{number}.json"
            file.write_bytes(body)
            self._says_one_sentence(file, 6)
        self._says_one_sentence(self._folder / "missing.json", 2)

    def _says_one_sentence(self, file: Path, code: int) -> None:
        finished = self._client.publish(file, self._url)
        assert (finished.returncode, finished.stdout) == (code, ""), f"{file}: {finished.stderr}"
        assert len(finished.stderr.splitlines()) == 1, finished.stderr
        assert str(file) in finished.stderr

    def _publish(self, message_id: str, **header: Any) -> subprocess.CompletedProcess[str]:
        return self._client.publish(self._file(message_id, header), self._url)

    def _file(self, message_id: str, header: dict[str, Any]) -> Path:
        file = self._folder / f"{message_id}.json"
        message = {"id": message_id, "header": {"sender": SENDER, **header}, "body": {"type": "SURVEY"}}
        file.write_text(json.dumps(message))
        return file

    def _said(self, finished: subprocess.CompletedProcess[str]) -> tuple[object, ...]:
        assert finished.stdout, finished.stderr
        return (finished.returncode, *finished.stdout.splitlines())

    def _apply(self) -> None:
        applied = cim_worker("topology", "apply", **self._places)
        assert applied.returncode == 0, applied.stderr

    @contextmanager
    def _worker(self) -> Iterator[None]:
        log = self._folder / "worker.log"
        with running(COMMAND, "run", log=log, **self._places):
            eventually(lambda: "consuming" in log.read_text(), "the worker")
            yield

    def _cut(self) -> bool:
        """End the connections of the publisher; tell whether there was one."""
        management = self._broker.management
        user = urlsplit(self._url).username
        found = [one["name"] for one in management.request("GET", "/connections") if one.get("user") == user]
        for name in found:
            management.request("DELETE", f"/connections/{quote(name, safe='')}", missing_is_fine=True)
        return bool(found)
