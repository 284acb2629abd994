"""Fixtures that every test can use: a broker, a store, and a fresh corner of each per test.

A service that is missing fails the tests that need it; nothing is skipped. See README.md beside this file.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pymongo
import pytest
import trustme

from tests.contract.store.servers import SHORTFALLS
from tests.services.broker import CertificateFiles, LocalBroker
from tests.services.services import Broker, Store, found_broker, found_store, private_broker
from tests.support.turns import Turns
from tests.support.wire_proxy import WireProxy, wire_proxy

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Settings of the person who runs the tests must not change what the tests see: taken out of the environment before
# anything reads it. The addresses are kept, because they say which services to test against.
_AMBIENT = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("CIM_")}
_chosen_services: list[str] = []

# What a shell starts in the background ignores SIGINT, and so would every command that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long one example takes says how busy the machine is: what must be fast is measured, not hoped for.
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")
_TURNS = pytest.StashKey[Turns]()
_FOLDER = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_configure(config: pytest.Config) -> None:
    """Share locks and given services with the other processes of this run, if there are any."""
    if hasattr(config, "workerinput"):
        _AMBIENT.update(config.workerinput["ambient"])
        config.stash[_TURNS] = Turns(Path(config.workerinput["turns"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell one process of this run what services are given, and where the locks are, which go with the last process."""
    node.workerinput["ambient"] = _AMBIENT
    if _FOLDER not in node.config.stash:
        folder = tempfile.TemporaryDirectory(prefix="cim-tests-")
        node.config.stash[_FOLDER] = folder.name
        node.config.add_cleanup(folder.cleanup)
    node.workerinput["turns"] = node.config.stash[_FOLDER]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect what a named store is known not to keep; a race may be won by chance, hence not strict.

    Files with tests that have to be alone come last: the longest test is over by then, and nobody waits for it.
    """
    store = config.getoption("--store", default=None) or _AMBIENT.get("CIM_SANDBOX_STORE", "")
    for item in items:
        for name, reason in SHORTFALLS.get(store, {}).items():
            if item.name.endswith(name):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
    last = {item.path for item in items if item.get_closest_marker("alone")}
    items.sort(key=lambda item: item.path in last)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test marked `alone` run when no other test of this run does."""
    turns = item.config.stash.get(_TURNS, None)
    if turns is None:
        return (yield)
    with turns.take(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports which services were chosen here."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["services"] = _chosen_services


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note what services one process of this run had chosen."""
    _chosen_services.extend(getattr(node, "workeroutput", {}).get("services", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which services the tests ran against."""
    for line in dict.fromkeys(_chosen_services):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def rabbitmq_root() -> Path | None:
    """Root file system of another RabbitMQ to test against (`CIM_SANDBOX_RABBITMQ_ROOT`), if one is named."""
    root = _AMBIENT.get("CIM_SANDBOX_RABBITMQ_ROOT")
    return Path(root) if root else None


@pytest.fixture(scope="session")
def broker(rabbitmq_root: Path | None) -> Iterator[Broker]:
    """One RabbitMQ for the whole run; use `vhost_url` unless the test is about the broker itself."""
    if rabbitmq_root:
        with private_broker(chroot=rabbitmq_root, say=_chosen_services.append) as private:
            yield private
        return
    url, management_url = _AMBIENT.get("CIM_RABBITMQ_URL"), _AMBIENT.get("CIM_RABBITMQ_MANAGEMENT_URL")
    with found_broker(url, management_url=management_url, say=_chosen_services.append) as found:
        yield found


@pytest.fixture
def vhost_url(broker: Broker) -> Iterator[str]:
    """AMQP URL of a virtual host that only this test knows; it is deleted afterwards with everything in it."""
    name = f"test-{uuid.uuid4().hex}"
    yield broker.create_vhost(name)
    broker.delete_vhost(name)


@pytest.fixture(scope="session")
def _shared_breakable_broker(rabbitmq_root: Path | None, certificates: CertificateFiles) -> Iterator[LocalBroker]:
    with private_broker(plugins=(), chroot=rabbitmq_root, ssl=certificates, say=lambda _line: None) as private:
        yield private


@pytest.fixture
def breakable_broker(_shared_breakable_broker: LocalBroker) -> Iterator[LocalBroker]:
    """Return a broker that the test may kill, freeze and restart; it is brought back to life afterwards.

    Tests share it one after the other: make a virtual host of your own in it. It speaks amqps too, with `certificates`,
    and has no plugin that a partitioned ingress would need.
    """
    yield _shared_breakable_broker
    _shared_breakable_broker.thaw()
    _shared_breakable_broker.start()
    if _shared_breakable_broker.may_have_alarm:  # a test that failed to clear it must not block those after it
        _shared_breakable_broker.stop()
        _shared_breakable_broker.start()


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """One MongoDB server (or what stands in for one) for the whole run; use `database` for a name of your own."""
    with found_store(_AMBIENT.get("CIM_MONGODB_URI"), say=_chosen_services.append) as found:
        yield found


@pytest.fixture
def proxy(store: Store) -> Iterator[WireProxy]:
    """The way to the store that a test makes sick."""
    with wire_proxy(store.uri) as made:
        yield made


@pytest.fixture
def database(store: Store) -> Iterator[str]:
    """Name of a database that only this test knows; it is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(store.uri)
    with client:
        client.drop_database(name)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """Files of a TLS server named localhost, signed by a throw-away authority."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    files = CertificateFiles(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(files.authority))
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(str(files.key))
    return files
