"""TLS to broker and store: certificates and host names are checked, and a refusal says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trustme

from tests.acceptance.test_cli_offline import VALID
from tests.services.services import private_broker
from tests.support.command import COMMAND, cim_worker, running, wait_until
from tests.support.tls_proxy import tls_in_front_of
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo.database import Database

    from tests.services.broker import CertificateFiles, LocalBroker
    from tests.services.services import Broker, Store


@pytest.fixture(scope="module")
def tls_broker(certificates: CertificateFiles, rabbitmq_root: Path | None) -> Iterator[LocalBroker]:
    with private_broker(chroot=rabbitmq_root, ssl=certificates, say=lambda _: None) as private:
        yield private


@pytest.fixture
def stranger(tmp_path: Path) -> str:
    """The certificate of an authority that signed nothing here."""
    file = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    return str(file)


@pytest.fixture
def tls_store(store: Store, certificates: CertificateFiles) -> Iterator[str]:
    with tls_in_front_of(urlsplit(store.uri).port or 27017, certificates.certificate, certificates.key) as port:
        yield f"mongodb://localhost:{port}/?tls=true"


def test_a_message_travels_over_tls_from_the_broker_to_the_store(
    tls_broker: LocalBroker,
    tls_store: str,
    certificates: CertificateFiles,
    documents: Database[dict[str, Any]],
    tmp_path: Path,
) -> None:
    places = {
        "CIM_RABBITMQ_URL": tls_broker.tls_url,
        "CIM_RABBITMQ_CA_FILE": str(certificates.authority),
        "CIM_MONGODB_URI": tls_store,
        "CIM_MONGODB_CA_FILE": str(certificates.authority),
        "CIM_MONGODB_DATABASE": documents.name,
    }
    assert cim_worker("topology", "apply", **places).returncode == ExitCode.OK
    with running(COMMAND, "run", log=tmp_path / "worker.log", **places):
        assert cim_worker("publish", "-", stdin=json.dumps(VALID), **places).returncode == ExitCode.OK
        wait_until(lambda: documents["ConversationActivities"].find_one({"conversationId": "c-1"}))


def test_a_broker_signed_by_an_unknown_authority_is_refused(tls_broker: LocalBroker, stranger: str) -> None:
    finished = cim_worker("topology", "check", CIM_RABBITMQ_URL=tls_broker.tls_url, CIM_RABBITMQ_CA_FILE=stranger)

    assert finished.returncode == ExitCode.BROKER_UNREACHABLE
    assert "certificate verify failed" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_broker_with_the_name_of_another_is_refused(broker: Broker, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    elsewhere = authority.issue_cert("broker.example.org")
    elsewhere.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    with tls_in_front_of(urlsplit(broker.url).port or 5672, tmp_path / "both.pem", tmp_path / "both.pem") as port:
        finished = cim_worker(
            "topology",
            "check",
            CIM_RABBITMQ_URL=f"amqps://guest:guest@localhost:{port}/",
            CIM_RABBITMQ_CA_FILE=str(tmp_path / "authority.pem"),
        )

    assert finished.returncode == ExitCode.BROKER_UNREACHABLE
    assert "Hostname mismatch" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_running_worker_says_why_it_trusts_neither_and_goes_on_trying(
    tls_broker: LocalBroker, tls_store: str, stranger: str, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    untrusted = {
        "CIM_RABBITMQ_URL": tls_broker.tls_url,
        "CIM_RABBITMQ_CA_FILE": stranger,
        "CIM_MONGODB_URI": tls_store,
        "CIM_MONGODB_CA_FILE": stranger,
    }
    with running(COMMAND, "run", log=log, **untrusted) as worker:
        wait_until(lambda: log.read_text().count("dependency_down") == 2)
        assert worker.poll() is None
    causes = {
        line["dependency"]: line for line in map(json.loads, log.read_text().splitlines()) if "dependency" in line
    }
    assert "certificate verify failed" in causes["broker"]["reason"]
    assert "certificate is not accepted" in causes["store"]["reason"]


def test_a_store_signed_by_an_unknown_authority_is_refused(tls_store: str, stranger: str) -> None:
    finished = cim_worker("conversations", "list", CIM_MONGODB_URI=tls_store, CIM_MONGODB_CA_FILE=stranger)

    assert finished.returncode == ExitCode.STORE_UNREACHABLE
    assert "TLS certificate that is not trusted" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize("variable", ["CIM_RABBITMQ_CA_FILE", "CIM_MONGODB_CA_FILE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_file_that_cannot_be_used_is_named_at_once(
    variable: str, content: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)

    finished = cim_worker("run", **{variable: str(file)})

    assert finished.returncode == ExitCode.CONFIGURATION
    assert finished.stderr.startswith(f"cim-worker: {variable}: ")
    assert len(finished.stderr.splitlines()) == 1
