"""Finds a broker and a store to work with, or starts them, and says in one line each what it chose.

The order: the URL that was given; Docker; programs on this machine (`rabbitmq-server` is installed with apt where
that is possible); for the store last the embedded one, which is for trying out and testing on one machine only.

    with found_broker(rabbitmq_url, say=print) as broker, found_store(mongodb_uri, say=print) as store:
        url = broker.create_vhost("trial")

Everything that was started is stopped, and every temporary folder removed, at the end of the block.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

from tests.services import containers, debian
from tests.services.broker import BrokerNotInstalledError, LocalBroker, find_program
from tests.services.management import ManagementApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.services.broker import CertificateFiles

_MANAGEMENT_PORT = 15672
PLUGINS = ("rabbitmq_consistent_hash_exchange",)
"""What a partitioned ingress needs."""


class Broker(Protocol):
    """What demos and tests need of a broker, wherever it runs."""

    @property
    def url(self) -> str:
        """AMQP URL of its default virtual host."""

    @property
    def management(self) -> ManagementApi:
        """Its management API."""

    def create_vhost(self, name: str) -> str:
        """Create a virtual host and return its AMQP URL."""

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host and everything in it."""


@dataclass(frozen=True, slots=True)
class Store:
    """A MongoDB server, or what stands in for one."""

    uri: str
    describe: str
    """What was chosen, in one line, without credentials."""


class RunningBroker:
    """A broker that somebody else runs, reached by URL."""

    def __init__(self, url: str, management_url: str) -> None:
        self.url = url
        self.management = ManagementApi(management_url)

    def create_vhost(self, name: str) -> str:
        """Create a virtual host (nothing happens if it is there) and return its AMQP URL."""
        self.management.create_vhost(name)
        return urlsplit(self.url)._replace(path="/" + quote(name, safe="")).geturl()

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host and everything in it."""
        self.management.delete_vhost(name)


@contextmanager
def found_broker(
    url: str | None, *, management_url: str | None = None, say: Callable[[str], object] = print
) -> Iterator[Broker]:
    """Yield the broker at `url`, or else one started here, and say which.

    A given broker's management API is expected on its host at port 15672 with the same credentials, unless
    `management_url` says otherwise.

    Raises:
        BrokerNotInstalledError: there is none and it cannot be installed; the text says what to do.
        BrokerStartError, ContainerStartError, InstallError: it should have worked and did not.
    """
    if url:
        say(f"broker: {_without_credentials(url)} (given)")
        yield RunningBroker(url, management_url or _management_beside(url))
    elif containers.engine_answers():
        say(f"broker: {containers.RABBITMQ_IMAGE} in Docker, for this run only")
        with containers.rabbitmq() as (amqp_url, api_url):
            yield RunningBroker(amqp_url, api_url)
    else:
        with private_broker(say=say) as broker:
            yield broker


@contextmanager
def private_broker(
    *,
    plugins: Sequence[str] = PLUGINS,
    chroot: Path | None = None,
    ssl: CertificateFiles | None = None,
    configuration: Sequence[str] = (),
    say: Callable[[str], object] = print,
) -> Iterator[LocalBroker]:
    """Yield a node of our own that can be killed, frozen and restarted; install RabbitMQ first where that is possible.

    Raises:
        BrokerNotInstalledError, BrokerStartError, InstallError: as for `found_broker`.
    """
    if chroot is None:
        _install_rabbitmq_if_missing(say)
    whose = f"of {chroot}" if chroot else "of this machine"
    say(f"broker: rabbitmq-server {whose} as a private node, for this run only")
    with LocalBroker(plugins=plugins, chroot=chroot, ssl=ssl, configuration=configuration) as broker:
        yield broker


@contextmanager
def found_store(uri: str | None, *, say: Callable[[str], object] = print) -> Iterator[Store]:
    """Yield the store at `uri`, or else one started here, and say which.

    Raises:
        ContainerStartError, StoreStartError: it should have worked and did not.
    """
    if uri:
        yield _said(Store(uri, f"store: {_without_credentials(uri)} (given)"), say)
    elif containers.engine_answers():
        describe = f"store: {containers.MONGODB_IMAGE} in Docker, for this run only"
        say(describe)
        with containers.mongodb() as container_uri:
            yield Store(container_uri, describe)
    else:
        with _local_store(say) as (local_uri, describe):
            yield Store(local_uri, describe)


def _said(store: Store, say: Callable[[str], object]) -> Store:
    say(store.describe)
    return store


def _install_rabbitmq_if_missing(say: Callable[[str], object]) -> None:
    if find_program("rabbitmq-server"):
        return
    if not debian.can_install():
        message = (
            "no broker: set CIM_RABBITMQ_URL, or start Docker, or install RabbitMQ (on Debian and Ubuntu: "
            "sudo apt-get install rabbitmq-server)"
        )
        raise BrokerNotInstalledError(message)
    say("installing rabbitmq-server with apt-get (once; its system service stays off) …")
    debian.install("rabbitmq-server", services=("rabbitmq-server.service", "epmd.service", "epmd.socket"))


@contextmanager
def _local_store(say: Callable[[str], object]) -> Iterator[tuple[str, str]]:
    from tests.services.store import embedded_store, mongod_store  # noqa: PLC0415 - what it starts comes with the extra

    folder = Path(tempfile.mkdtemp(prefix="cim-store-"))
    store = mongod_store(folder) or embedded_store(folder)
    describe = f"store: {store.describe}"
    say(describe)
    try:
        store.start()
        yield store.uri, describe
    finally:
        store.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _management_beside(url: str) -> str:
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return f"http://{credentials}{at}{parts.hostname}:{_MANAGEMENT_PORT}"


def _without_credentials(url: str) -> str:
    """Return scheme, hosts and path only: options behind `?` can hold secrets too."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
