"""The rows: each changes one thing against `make test` here; a Python of Debian sid brings its RabbitMQ along."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pymongo

from tests.contract.store.servers import SERVERS, SHORTFALLS, is_available
from tests.matrix import interpreters
from tests.matrix.place import CannotStartError, Place
from tests.services import containers, roots
from tests.services.broker import BrokerStartError, find_program
from tests.services.cluster import LocalCluster
from tests.services.services import PLUGINS
from tests.services.store import StoreStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

BROKER_PARTS: Final = ("contract", "differences", "integration", "acceptance", "chaos")
CLUSTER_PARTS: Final = BROKER_PARTS[:-1]
"""Chaos has node faults of its own: `make chaos ARGS=--cluster`."""
STORE_PARTS: Final = ("stores", "contract", "integration", "acceptance", "chaos")
PYTHON_PARTS: Final = ("unit", "stores", "contract", "integration", "acceptance", "chaos")
_LIBRARIES: Final = ("pika", "pymongo", "pydantic")
_OPTIONS: Final[dict[str, Callable[[], list[str]]]] = {
    "as resolved": list,
    "oldest": interpreters.oldest,
    "newest": lambda: ["--upgrade", "--upgrade-strategy", "eager"],
}
"""What pip is given for each choice of libraries."""


@dataclass(frozen=True, slots=True)
class Row:
    """One combination."""

    name: str
    what: str
    """The implementation, for the table."""
    parts: tuple[str, ...]
    starting: Callable[[], AbstractContextManager[Place]]
    """Starts what the row needs, yields it and ends it. Raises `CannotStartError`."""
    known: str = ""
    """The known difference, if there is one."""
    no_faults: tuple[str, ...] = ()
    """Faults of the chaos run that this combination cannot take, by its known difference."""


@contextmanager
def _this_machine() -> Iterator[Place]:
    if find_program("rabbitmq-server") is None:
        raise CannotStartError("rabbitmq-server is not installed")
    yield Place(f"RabbitMQ {_rabbitmq_in(Path('/'))}, nx-27017, Python and libraries of .venv")


@contextmanager
def _docker() -> Iterator[Place]:
    if not containers.engine_answers():
        raise CannotStartError("no Docker engine answers")
    with containers.rabbitmq() as (url, api), containers.mongodb() as uri:
        environment = {"CIM_RABBITMQ_URL": url, "CIM_RABBITMQ_MANAGEMENT_URL": api, "CIM_MONGODB_URI": uri}
        yield Place(f"{containers.RABBITMQ_IMAGE}, {containers.MONGODB_IMAGE}", environment=environment)


@contextmanager
def _rabbitmq_of(name: str, suite: str, *packages: str) -> Iterator[Place]:
    try:
        root = roots.made(name, suite, packages)
    except roots.RootError as error:
        raise CannotStartError(str(error)) from error
    environment = {"CIM_SANDBOX_RABBITMQ_ROOT": str(root)}
    yield Place(f"RabbitMQ {_rabbitmq_in(root)}", environment=environment, rabbitmq_root=root)


@contextmanager
def _cluster(name: str, suite: str, *packages: str) -> Iterator[Place]:
    """Three nodes; tests connect to the first, and reach its leaders and listeners elsewhere."""
    with (
        _rabbitmq_of(name, suite, *packages) as place,
        _started(LocalCluster(chroot=place.rabbitmq_root, plugins=PLUGINS)) as cluster,
    ):
        first = cluster.nodes[0]
        environment = {"CIM_RABBITMQ_URL": first.url, "CIM_RABBITMQ_MANAGEMENT_URL": first.management_url}
        yield Place(f"three nodes of {place.version}", environment=environment)


@contextmanager
def _started(cluster: LocalCluster) -> Iterator[LocalCluster]:
    try:
        cluster.start()
    except BrokerStartError as error:
        cluster.close()
        raise CannotStartError(str(error).splitlines()[0]) from error
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def _store(name: str) -> Iterator[Place]:
    if not is_available(name):
        raise CannotStartError(f"what {name} needs is not on this machine")
    with tempfile.TemporaryDirectory(prefix="cim-matrix-") as folder:
        try:
            server = SERVERS[name](Path(folder))
            server.start()
        except (StoreStartError, roots.RootError) as error:
            raise CannotStartError(str(error).splitlines()[0]) from error
        try:
            with pymongo.MongoClient[dict[str, object]](server.uri) as client:
                says = client.admin.command("buildInfo")["version"]
            environment = {"CIM_MONGODB_URI": server.uri, "CIM_SANDBOX_STORE": name}
            version = f"{server.describe}; says MongoDB {says}"
            yield Place(version, environment=environment, store=name)
        finally:
            server.stop()


@contextmanager
def _python(name: str, version: str, libraries: str = "as resolved") -> Iterator[Place]:
    python = interpreters.environment(name, version, _OPTIONS[libraries]())
    yield Place(interpreters.versions(python, *_LIBRARIES), python=python)


def _rabbitmq_in(root: Path) -> str:
    """Return the version of the RabbitMQ that is installed in a root."""
    found = sorted((root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return found[-1].name.removeprefix("rabbitmq_server-") if found else "of unknown version"


def _shortfalls(name: str) -> str:
    reasons = dict.fromkeys(SHORTFALLS.get(name, {}).values())
    return "; ".join(reasons)


_NO_KILL: Final = ("store_kill_9",)
_NO_DISK: Final = ("disk_full",)

ROWS: Final = (
    Row("rabbitmq-machine", "RabbitMQ of this machine, nx-27017", ("stores", *BROKER_PARTS), _this_machine),
    Row(
        "rabbitmq-trixie",
        "RabbitMQ of Debian 13",
        BROKER_PARTS,
        partial(_rabbitmq_of, "trixie", "trixie", "rabbitmq-server"),
    ),
    Row(
        "rabbitmq-newest",
        "RabbitMQ of Debian sid",
        BROKER_PARTS,
        partial(_rabbitmq_of, *interpreters.SID[:2], *interpreters.SID[2]),
        "nack with requeue counts towards no delivery limit, and a letter returns to the head of its queue; "
        "an acknowledgement timeout cancels the consumer",
    ),
    Row(
        "rabbitmq-cluster",
        "three nodes of that",
        CLUSTER_PARTS,
        partial(_cluster, *interpreters.SID[:2], *interpreters.SID[2]),
        "what was declared through one node may be returned by another for a moment",
    ),
    Row("docker", "RabbitMQ and MongoDB in Docker", BROKER_PARTS, _docker),
    Row("store-mongod", "MongoDB", STORE_PARTS, partial(_store, "mongod")),
    *(
        Row(f"store-{name}", what, STORE_PARTS, partial(_store, name), _shortfalls(name), faults)
        for name, what, faults in (
            ("ferretdb", "FerretDB 1", ()),
            ("ferretdb2", "FerretDB 2 with DocumentDB", _NO_DISK),
            ("mongo-java-server", "mongo-java-server", _NO_KILL),
            ("secantusdb", "SecantusDB", ()),
        )
    ),
    Row("libraries-oldest", "oldest libraries", PYTHON_PARTS, partial(_python, "oldest", "3.11", libraries="oldest")),
    Row("libraries-newest", "newest libraries", PYTHON_PARTS, partial(_python, "newest", "3.11", libraries="newest")),
    *(
        Row(f"python-{version}", f"Python {version}", PYTHON_PARTS, partial(_python, f"python-{version}", version))
        for version in ("3.11", "3.12", "3.13", "3.14")
    ),
)
