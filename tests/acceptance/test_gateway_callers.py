"""Who may use the gateway, as which senders, and that the workers see who it was."""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.acceptance.test_gateway import WIDGET, changed
from tests.documentation import rights
from tests.support.amqp import drained
from tests.support.command import COMMAND, cim_worker, running
from tests.support.eventually import eventually
from tests.support.gateway import ACTIVITIES, JSON, Gateway, gateway, virtual_host, written
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.services.services import Broker, Store

ISSUER, AUDIENCE = "https://id.example.org/realms/cx", "activities"
ROLES = "widget=form-1,agent=*"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Issuer:
    """Signs tokens, and publishes its keys on a port."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked = 0
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.jwks().encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/certs"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.rotate("k-1")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def rotate(self, key_id: str) -> None:
        self.keys = {key_id: rsa.generate_private_key(65537, 2048)}

    def jwks(self) -> str:
        keys = [
            {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig", "alg": "RS256"}
            for kid, key in self.keys.items()
        ]
        curve = json.loads(ECAlgorithm.to_jwk(CURVE.public_key()))
        return json.dumps({"keys": [*keys, {**curve, "kid": "curve", "use": "sig"}]})

    def token(self, *, key: Any = None, algorithm: str = "RS256", kid: str | None = None, **claims: Any) -> str:
        (known, own), *_ = self.keys.items()
        full = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "user-1",
            "exp": int(time.time()) + 300,
            "realm_access": {"roles": ["widget"]},
            **claims,
        }
        full = {name: value for name, value in full.items() if value is not None}
        return jwt.encode(full, key or own, algorithm=algorithm, headers={"kid": kid or known})


CURVE = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Guarded:
    """A gateway that asks everybody who he is."""

    gateway: Gateway
    amqp_url: str
    issuer: Issuer
    tokens: Path
    taken: list[Any] = field(default_factory=list)

    def post(self, message: object, token: str | None) -> Any:
        headers = {} if token is None else bearer(token)
        return self.gateway.request("POST", ACTIVITIES, written(message), {**JSON, **headers})


@pytest.fixture(scope="module")
def guarded(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = folder / "tokens"
    hashed = sha256(b"hashed-secret").hexdigest()
    tokens.write_text(f"# who may\n\nforms secret-1 widget\ncrm sha256:{hashed} agent,other\nnobody secret-3 other\n")
    settings = {
        "CIM_GATEWAY_TOKENS_FILE": str(tokens),
        "CIM_GATEWAY_JWT_ISSUER": ISSUER,
        "CIM_GATEWAY_JWT_AUDIENCE": AUDIENCE,
        "CIM_GATEWAY_ROLE_SENDERS": ROLES,
        "CIM_GATEWAY_HOST": "0.0.0.0",  # noqa: S104 - that is what is tested: beyond this machine with tokens only
    }
    with contextlib.closing(Issuer()) as issuer, virtual_host(broker) as url:
        with gateway(url, folder, variables={**settings, "CIM_GATEWAY_JWKS": issuer.url}) as running_one:
            yield Guarded(running_one, url, issuer, tokens)
        log = running_one.log.read_text()
        assert "secret" not in log
        assert "eyJ" not in log


def test_a_static_token_names_its_user(guarded: Guarded) -> None:
    drained(guarded.amqp_url, "cim.ingress")
    assert guarded.post(WIDGET, "secret-1").status == HTTPStatus.OK
    assert guarded.post(changed(sender={"id": "anything", "type": "APP"}), "hashed-secret").status == HTTPStatus.OK
    users = [properties.headers["cim-user-id"] for _, properties, _ in drained(guarded.amqp_url, "cim.ingress")]
    assert users == ["forms", "crm"]


@pytest.mark.parametrize("token", [None, "", "secret", "sha256:1234", "ünknown", "a.b.c", "a" * 5000])
def test_an_unknown_token_is_401_with_what_to_do(guarded: Guarded, token: str | None) -> None:
    reply = guarded.post(WIDGET, token)
    assert reply.status == HTTPStatus.UNAUTHORIZED
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert "oken" in reply.document["message"]


def test_another_scheme_than_bearer_is_401(guarded: Guarded) -> None:
    reply = guarded.gateway.post(WIDGET, Authorization="Basic c2VjcmV0LTE=")
    assert reply.status == HTTPStatus.UNAUTHORIZED


def test_roles_say_as_which_senders_one_may_send(guarded: Guarded) -> None:
    other = changed(sender={"id": "agent-9", "type": "AGENT"})
    for token in ("secret-1", guarded.issuer.token()):
        reply = guarded.post(other, token)
        assert (reply.status, reply.document["code"]) == (HTTPStatus.FORBIDDEN, "sender_not_allowed")
        assert reply.document["problems"][0]["pointer"] == "/header/sender/id"
    assert guarded.post(other, guarded.issuer.token(realm_access={"roles": ["x", "agent"]})).status == HTTPStatus.OK
    for token in ("secret-3", guarded.issuer.token(realm_access={"roles": []}), guarded.issuer.token(realm_access=1)):
        assert guarded.post(WIDGET, token).status == HTTPStatus.FORBIDDEN


def test_a_signed_token_names_its_user(guarded: Guarded) -> None:
    drained(guarded.amqp_url, "cim.ingress")
    assert guarded.post(WIDGET, guarded.issuer.token(sub="service-account-1")).status == HTTPStatus.OK
    elliptic = guarded.issuer.token(key=CURVE, algorithm="ES256", kid="curve")
    assert guarded.post(WIDGET, elliptic).status == HTTPStatus.OK
    users = [properties.headers["cim-user-id"] for _, properties, _ in drained(guarded.amqp_url, "cim.ingress")]
    assert users == ["service-account-1", "user-1"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "claim is missing"),
        ({"aud": "account"}, "another audience"),
        ({"iss": "https://elsewhere"}, "another issuer"),
        ({"nbf": 2**33}, "not valid yet"),
        ({"sub": None}, "`sub`"),
        ({"sub": "a\nb"}, "`sub`"),
        ({"key": rsa.generate_private_key(65537, 2048)}, "signature is wrong"),
        ({"key": "x" * 32, "algorithm": "HS256"}, "signature is not accepted"),
        ({"kid": "curve"}, "not accepted"),
        ({"kid": "unpublished"}, "does not publish"),
    ],
)
def test_a_token_that_does_not_hold_is_401_and_says_why(guarded: Guarded, changes: dict[str, Any], says: str) -> None:
    reply = guarded.post(WIDGET, guarded.issuer.token(**changes))
    assert reply.status == HTTPStatus.UNAUTHORIZED
    assert says in reply.document["message"]


def test_a_token_without_signature_is_401(guarded: Guarded) -> None:
    unsigned = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": 2**32}, "", algorithm="none")
    assert guarded.post(WIDGET, unsigned).status == HTTPStatus.UNAUTHORIZED


def test_the_file_of_tokens_may_change(guarded: Guarded) -> None:
    before = guarded.tokens.read_text()
    guarded.tokens.write_text(before + "late secret-9 widget\n")
    eventually(lambda: guarded.post(WIDGET, "secret-9").status == HTTPStatus.OK)
    guarded.tokens.write_text("not a line of it\n")
    eventually(lambda: guarded.post(WIDGET, "secret-1") and guarded.gateway.lines("gateway_tokens_not_read"))
    assert guarded.post(WIDGET, "secret-9").status == HTTPStatus.OK, "the last good ones stay"


def test_keys_may_change_and_are_asked_for_no_more_than_needed(guarded: Guarded) -> None:
    guarded.issuer.rotate("k-2")
    before = guarded.issuer.asked
    eventually(lambda: guarded.post(WIDGET, guarded.issuer.token()).status == HTTPStatus.OK)
    for _ in range(20):
        guarded.post(WIDGET, guarded.issuer.token(kid=secrets.token_hex(4)))
    assert guarded.issuer.asked <= before + 2


def test_the_workers_check_the_user_of_the_gateway_and_a_request_may_wait_for_the_outcome(
    broker: Broker, store: Store, database: str, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("forms secret-1\nother secret-2\n")
    with virtual_host(broker) as admin:
        parts = urlsplit(admin)
        name = f"gateway-{secrets.token_hex(4)}"
        broker.management.create_user(name, "pw")
        broker.management.set_permissions(name, parts.path[1:], **rights("gateway"))
        url = parts._replace(netloc=f"{name}:pw@{parts.hostname}:{parts.port}").geturl()
        worker = {
            "CIM_RABBITMQ_URL": admin,
            "CIM_MONGODB_URI": store.uri,
            "CIM_MONGODB_DATABASE": database,
            "CIM_SENDER_USERS": "forms=form-1",
            "CIM_TRUSTED_USERS": name,
            "CIM_RECORD_DEAD_LETTERS": "false",
        }
        with (
            gateway(url, tmp_path, variables={"CIM_GATEWAY_TOKENS_FILE": str(tokens)}) as running_one,
            running(COMMAND, "run", log=tmp_path / "worker", **worker),
        ):
            prefer = "respond-async, wait=60"
            died = running_one.post(WIDGET, Authorization="Bearer secret-2", Prefer=prefer)
            assert (died.status, died.document["code"]) == (HTTPStatus.UNPROCESSABLE_ENTITY, "sender_not_allowed")
            assert died.document["problems"][0]["pointer"] == "/header/sender/id"
            (letter,) = eventually(lambda: drained(admin, "cim.dead-letters"))
            assert letter[1].headers["cim-code"] == "sender_not_allowed"
            assert letter[1].headers["cim-user-id"] == "other"
            stored = running_one.post(WIDGET, Authorization="Bearer secret-1", Prefer=prefer)
            assert (stored.status, stored.document["status"]) == (HTTPStatus.OK, "stored")
            assert stored.document["reason"] == "unknown_conversation"
            assert stored.headers["preference-applied"] == "wait"
            assert died.document["eventId"] == stored.document["eventId"]
            again = running_one.post(WIDGET, Authorization="Bearer secret-1", Prefer=prefer)
            assert again.document["status"] == "duplicate"
            world = World(admin, store.uri, database, tmp_path)
            assert len(world.collection("ConversationActivities")) == 1
            assert drained(admin, "cim.dead-letters") == []
        broker.management.request("DELETE", f"/users/{quote(name)}", missing_is_fine=True)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"CIM_GATEWAY_HOST": "0.0.0.0"}, "nobody would be asked"),  # noqa: S104
        ({"CIM_GATEWAY_HOST": "::"}, "nobody would be asked"),
        (
            {"CIM_GATEWAY_TOKENS_FILE": "/no/such/file"},
            "CIM_GATEWAY_TOKENS_FILE: /no/such/file cannot be read: No",
        ),
        ({"CIM_GATEWAY_TOKENS_FILE": "{bad}"}, "line 1 is not NAME TOKEN [ROLE,ROLE]"),
        ({"CIM_GATEWAY_TOKENS_FILE": "{empty}"}, "has no token"),
        ({"CIM_GATEWAY_JWKS": "http://127.0.0.1:1/certs"}, "CIM_GATEWAY_JWT_ISSUER"),
        ({"CIM_GATEWAY_JWKS": "{bad}", "CIM_GATEWAY_JWT_ISSUER": "i", "CIM_GATEWAY_JWT_AUDIENCE": "a"}, "is no JWKS"),
        ({"CIM_GATEWAY_ROLE_SENDERS": "a=b"}, "nobody has a role"),
        ({"CIM_GATEWAY_PORT": "{taken}"}, "cannot be opened: Address already in use; choose another one"),
    ],
)
def test_it_does_not_start_where_it_would_not_be_safe_or_cannot_work(
    settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text("too-few\n")
    (tmp_path / "empty").write_text("# none yet\n")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as taken:
        places = {"bad": tmp_path / "bad", "empty": tmp_path / "empty", "taken": taken.server_port}
        filled = {name: value.format(**places) for name, value in settings.items()}
        finished = cim_worker("gateway", **filled)
    assert finished.returncode == 2
    assert says in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
