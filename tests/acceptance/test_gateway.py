"""The HTTP door, played as its real clients do."""

from __future__ import annotations

import gzip
import json
import re
import socket
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.amqp import drained
from tests.support.gateway import ACTIVITIES, JSON, Gateway, gateway, virtual_host, written
from worker.cim import CimMessage, parse
from worker.ops.metric_catalogue import GATEWAY_METRICS, METRICS
from worker.web.gateway.activities import PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services.services import Broker

WIDGET: dict[str, Any] = {
    "header": {
        "channelData": {
            "channelCustomerIdentifier": "441122",
            "serviceIdentifier": "5511",
            "requestPriority": 0,
            "additionalAttributes": [],
        },
        "language": {},
        "timestamp": 1764000001234,
        "securityInfo": {},
        "stamps": [],
        "intent": "WIDGET_FORM_ACTIVITY",
        "entities": {},
        "channelSessionId": "",
        "conversationId": "6650f0a1c5d4f7a1b2c3d4e5",
        "customer": {"_id": "6650f0a1c5d4f7a1b2c3d4ff"},
        "schedulingMetaData": None,
        "originalMessageId": None,
        "providerMessageId": None,
        "sender": {"id": "form-1", "type": "APP", "senderName": "WIDGET_PRECHAT_FORM", "additionalDetail": None},
    },
    "body": {"formId": "f-1", "formTitle": "Pre-chat", "type": "FORM_DATA", "sections": [{"name": "Größe €"}]},
    "id": "",
}
"""As the customer widget sends it: compact, the keys in this order, the id blank."""


PAGE = "https://forms.example.org"


@dataclass(frozen=True)
class Served:
    """A gateway for this machine alone, and the queue behind it."""

    gateway: Gateway
    amqp_url: str

    def taken(self) -> list[tuple[Any, bytes]]:
        """Take what is in ingress: properties and body."""
        return [(properties, body) for _, properties, body in drained(self.amqp_url, "cim.ingress")]


@pytest.fixture(scope="module")
def shared(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        virtual_host(broker) as url,
        gateway(url, tmp_path_factory.mktemp("gateway"), variables={"CIM_GATEWAY_CORS_ORIGINS": PAGE}) as running,
    ):
        yield Served(running, url)


@pytest.fixture
def served(shared: Served) -> Served:
    shared.taken()
    return shared


def changed(**header: Any) -> dict[str, Any]:
    """Return the widget's message with another header."""
    return {**WIDGET, "header": {**WIDGET["header"], **header}}


@pytest.mark.parametrize("path", [ACTIVITIES, "/activities", "/conversation-manager/activites", "/activites"])
def test_the_widget_works_unchanged(served: Served, path: str) -> None:
    reply = served.gateway.post(WIDGET, path)

    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert list(reply.document) == ["id", "eventId", "status"]
    assert reply.document["status"] == "accepted"
    ((properties, body),) = served.taken()
    assert body == written(WIDGET)
    same = parse(body, received_at=0)
    assert isinstance(same, CimMessage)
    assert (reply.document["id"], reply.document["eventId"]) == (same.id, same.event_id)
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert properties.message_id == same.id
    assert served.gateway.post(WIDGET, path).document == reply.document, "a retry is the same activity"


def test_an_agent_desk_and_a_page_with_a_character_set_work_unchanged(served: Served) -> None:
    accepts = {"Accept": "application/json, text/plain, */*"}
    for media_type in ("application/json", "application/json;charset=UTF-8", "Application/JSON; charset=utf-8"):
        headers = {"Content-Type": media_type, **accepts, "Authorization": "Bearer of-nobody"}
        assert served.gateway.request("POST", ACTIVITIES, written(WIDGET), headers).status == HTTPStatus.OK


def test_without_id_and_time_every_request_is_an_activity_of_its_own(served: Served) -> None:
    body = written(changed(timestamp="")).replace(b'"requestPriority":0', b'"requestPriority":0,"score":1.50')
    replies = [served.gateway.post(body).document for _ in range(2)]

    assert replies[0]["id"] != replies[1]["id"]
    assert replies[0]["eventId"] != replies[1]["eventId"]
    for (properties, arrived), reply in zip(served.taken(), replies, strict=True):
        assert arrived == body.replace(b'"id":""', b'"id":"%b"' % reply["id"].encode())
        assert properties.message_id == reply["id"]


def test_an_idempotency_key_makes_two_requests_one_activity(served: Served) -> None:
    replies = [
        served.gateway.post({**WIDGET, "id": "given"}, Idempotency_Key="k-1").document,
        served.gateway.post({**WIDGET, "id": "other"}, Idempotency_Key='"k-1"').document,
        served.gateway.post(changed(timestamp=None), Idempotency_Key="k-1").document,
    ]

    assert len({reply["eventId"] for reply in replies}) == 1
    assert [reply["id"] for reply in replies[:2]] == ["given", "other"]
    assert [properties.headers["cim-idempotency-key"] for properties, _ in served.taken()] == ["k-1"] * 3


def test_what_identifies_a_request_is_carried(served: Served) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    served.gateway.post(WIDGET, tenantid="t-1", correlationId="c-1", traceparent=trace)

    ((properties, _),) = served.taken()
    assert properties.correlation_id == "c-1"
    carried = {name: value for name, value in properties.headers.items() if not name.startswith("x-")}
    assert carried == {"tenantid": "t-1", "traceparent": trace}


def test_a_packed_body_is_unpacked(served: Served) -> None:
    assert served.gateway.post(gzip.compress(written(WIDGET)), Content_Encoding="gzip").status == HTTPStatus.OK
    ((properties, body),) = served.taken()
    assert (properties.content_encoding, body) == (None, written(WIDGET))


@pytest.mark.parametrize(
    ("message", "headers", "status", "code", "says"),
    [
        ({**WIDGET, "body": None}, {}, 400, "missing_body", "/body: body is mandatory"),
        (changed(sender={"id": "x"}), {}, 400, "missing_sender_type", "/header/sender/type"),
        (changed(intent=1, language="en"), {}, 400, "wrong_type", "(1 more in `problems`.)"),
        (b"{", {}, 400, "malformed_json", "JSON; at line 1"),
        ([WIDGET], {}, 400, "not_an_object", "has to be one JSON object"),
        (b"", {}, 400, "malformed_json", "JSON"),
        (b"\xff", {}, 400, "invalid_utf8", "UTF-8"),
        (WIDGET, {"Content-Type": "text/plain"}, 415, None, "Content-Type: application/json"),
        (WIDGET, {"Content-Encoding": "br"}, 415, None, "gzip or deflate"),
        (WIDGET, {"Content-Encoding": "gzip"}, 400, "unsupported_encoding", "packed"),
        (WIDGET, {"Idempotency-Key": "k" * 250}, 400, "id_too_long", "cim-idempotency-key"),
        (WIDGET, {"correlationId": "k" * 256}, 400, None, "correlationId"),
        (WIDGET, {"correlationId": "\xc2\x85"}, 400, None, "control character"),
        (WIDGET, {"tenantid": "\xff"}, 400, None, "not UTF-8"),
        ({**WIDGET, "id": "x" * 1_048_576}, {}, 413, "message_too_large", "1048576 bytes"),
        (gzip.compress(b" " * 1_048_577), {"Content-Encoding": "gzip"}, 413, "message_too_large", "1048576 bytes"),
    ],
)
def test_what_is_wrong_is_said_as_those_clients_read_it(
    served: Served, message: object, headers: dict[str, str], status: int, code: str | None, says: str
) -> None:
    reply = served.gateway.request("POST", ACTIVITIES, written(message), {**JSON, **headers})

    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    answer = reply.document
    assert says in answer["message"]
    assert (answer["status"], answer["error"]) == (status, HTTPStatus(status).phrase)
    assert (answer["path"], answer.get("code")) == (ACTIVITIES, code)
    assert datetime.fromisoformat(answer["timestamp"]).tzinfo is not None
    assert all(set(problem) == {"code", "pointer", "expected"} for problem in answer.get("problems", ()))
    assert served.taken() == []


def test_the_page_for_clients_shows_an_error_as_it_is(served: Served) -> None:
    page = (Path(__file__).parents[2] / "deploy/gateway.md").read_text()
    shown = json.loads(page.partition("```http\n")[2].partition("\n\n")[2].partition("```")[0])
    answer = served.gateway.post({**WIDGET, "body": None}).document
    assert {**answer, "timestamp": shown["timestamp"]} == shown


def test_a_head_that_is_too_large_is_431_and_ends_the_connection(served: Served) -> None:
    reply = served.gateway.post(WIDGET, Authorization="x" * 40_000)
    assert (reply.status, reply.headers["connection"]) == (431, "close")
    assert "too large" in reply.document["message"]


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.gateway.port), 5) as client:
        head = f"POST {ACTIVITIES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 1048577\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_say_how_large_it_is_is_read_to_the_limit_only(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.gateway.port), 5) as client:
        head = f"POST {ACTIVITIES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall((b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 17)
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_browser_is_told_which_pages_may_ask(served: Served) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = served.gateway.request("OPTIONS", ACTIVITIES, headers={"Origin": PAGE, **asks})
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    other = served.gateway.request("OPTIONS", ACTIVITIES, headers={"Origin": "https://elsewhere.example", **asks})
    assert other.status == HTTPStatus.BAD_REQUEST
    assert served.gateway.post(WIDGET, Origin=PAGE).headers["access-control-allow-origin"] == PAGE
    assert served.gateway.request("OPTIONS", ACTIVITIES).headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", ACTIVITIES, 405), ("PUT", "/activities", 405), ("POST", "/forms", 404), ("POST", "/livez", 405)],
)
def test_everything_else_is_refused_in_the_same_shape(served: Served, method: str, path: str, status: int) -> None:
    reply = served.gateway.request(method, path)
    assert reply.status == status
    assert set(reply.document) == {"timestamp", "status", "error", "message", "path"}


def test_it_says_that_it_is_alive_and_ready(served: Served) -> None:
    assert served.gateway.request("GET", "/livez").document == {"live": True}
    assert served.gateway.request("GET", "/readyz").document == {"ready": True, "reasons": []}


def test_the_contract_is_served_as_a_document_and_as_a_page(served: Served) -> None:
    document = served.gateway.request("GET", "/openapi.json").document
    assert document["openapi"] == "3.1.0"
    assert set(PATHS) < set(document["paths"])
    page = served.gateway.request("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert ACTIVITIES.encode() in page.body


def test_operators_have_health_and_numbers_on_a_port_of_their_own(served: Served) -> None:
    served.gateway.post(WIDGET)
    (opened,) = served.gateway.lines("http_listening")
    operators = Gateway(opened["port"], served.gateway.log)
    assert operators.request("GET", "/readyz").document["ready"] is True
    text = operators.request("GET", "/metrics").body.decode()
    exposed = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert {row.name for row in GATEWAY_METRICS} <= exposed
    assert exposed <= {row.name for row in (*METRICS, *GATEWAY_METRICS)}
    assert re.search(r'^cim_gateway_requests_total\{status="200"\} [1-9]', text, re.MULTILINE)
    assert 'cim_dependency_up{dependency="broker"} 1.0' in text
    assert served.gateway.request("GET", "/metrics").status == HTTPStatus.NOT_FOUND, "not where clients reach it"


def test_a_request_that_waits_in_vain_is_accepted_when_its_time_is_over(served: Served) -> None:
    reply = served.gateway.post(WIDGET, Prefer="wait=1")
    assert (reply.status, reply.document["status"]) == (HTTPStatus.OK, "accepted")
    assert reply.headers["preference-applied"] == "wait"
    ((properties, _),) = served.taken()
    assert properties.reply_to.startswith("cim.receipts.gateway.")
