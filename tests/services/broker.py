"""A private RabbitMQ node: own ports, data, configuration and Erlang port mapper; loopback only; gone with its owner.

    with LocalBroker() as broker:
        url = broker.create_vhost("trial")

For demos, tests, benchmarks and chaos on one machine. Needs RabbitMQ's programs on the machine (Debian's
`rabbitmq-server`), or in a root file system named by `chroot` (for trying another RabbitMQ version; needs root rights).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pika

from tests.services.management import ManagementApi
from tests.services.port_mapper import introduced
from tests.services.processes import KeptProcess, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 30.0
_CONTROL_TIMEOUT_SECONDS = 60.0
_ON_DISK_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.05
# The management plugin takes five seconds to stop when it is let; the broker itself needs milliseconds.
_SHUTDOWN_TIMEOUT_MS = 2000
_DEFAULT_MEMORY_WATERMARK = "0.4"
# Debian's /usr/sbin/rabbitmq-server changes the user and forgets the environment: we need the program behind it.
_PROGRAM_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/usr/sbin")
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BrokerStartError(Exception):
    """The node did not come up; the text ends with the last lines of its output."""


class BrokerNotInstalledError(BrokerStartError):
    """There is no `rabbitmq-server` program on this machine."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files of a TLS server: the authority that signed it, its certificate and its private key."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class _Ports:
    amqp: int
    management: int
    distribution: int
    port_mapper: int
    control: int
    tls: int


def find_program(name: str, root: Path | None = None) -> str | None:
    """Return the path (inside `root`, if given) of one of RabbitMQ's programs, or None when it is not installed."""
    base = root or Path("/")
    for folder in _PROGRAM_FOLDERS:
        # A link may point to an absolute path inside `root`: it is enough that it is there.
        if os.path.lexists(base / folder.lstrip("/") / name):
            return f"{folder}/{name}"
    return None if root else shutil.which(name)


def installed_version(root: Path | None = None) -> tuple[int, ...]:
    """Return the version of the RabbitMQ on this machine (in *root*, if given); empty when its folder does not say."""
    found = [path.name for path in (root or Path("/")).glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")]
    numbers = [name.rpartition("-")[2].split(".") for name in found]
    return max((tuple(map(int, one)) for one in numbers if all(part.isdecimal() for part in one)), default=())


class LocalBroker:
    """One RabbitMQ node owned by this process.

    Data survives `stop`, `kill` and `start` on the same ports; `close` (or the end of the `with` block) removes all.
    When this process dies in whatever way, the node and its port mapper die with it.

    Args:
        plugins: plugins besides management, such as "rabbitmq_shovel".
        ssl: also listen for amqps with these files (`tls_url`).
        chroot: root file system that holds another RabbitMQ.
        folder: where to make the node's folder; the system's place for temporary files unless given.
        configuration: further lines of rabbitmq.conf, such as "max_message_size = 100000".
        name: what the node is called in its cluster, such as "n1"; a name of its own unless given.
        cookie: what nodes of one cluster have in common; one of its own unless given.
    """

    def __init__(
        self,
        *,
        plugins: Sequence[str] = (),
        ssl: CertificateFiles | None = None,
        chroot: Path | None = None,
        folder: Path | None = None,
        configuration: Sequence[str] = (),
        name: str | None = None,
        cookie: str | None = None,
    ) -> None:
        self._root = chroot.resolve() if chroot else None
        parent = folder or (self._root / "tmp" if self._root else None)
        self.folder = Path(tempfile.mkdtemp(prefix="cim-broker-", dir=parent))
        """Everything the node reads and writes."""
        self.may_have_alarm = False
        """Whether a memory alarm was asked for and not cleared for certain; a start begins without one."""
        self._ports = _Ports(*free_ports(6))
        self.node_name = f"{name or f'cim-{secrets.token_hex(4)}'}@localhost"
        self.neighbours: dict[str, int] = {}
        """The other nodes of its cluster, and the ports by which this one reaches them, from its next start on."""
        self._introduced: list[socket.socket] = []
        self.is_frozen = False
        """Whether its clock stands still."""
        self._port_mapper: KeptProcess | None = None
        self._node: KeptProcess | None = None
        self.management_url = f"http://guest:guest@127.0.0.1:{self._ports.management}"
        self.management = ManagementApi(self.management_url)
        self._write_files(("rabbitmq_management", *plugins), ssl, configuration, cookie or secrets.token_hex(16))

    def __enter__(self) -> Self:
        """Start the node; clean up when that fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the node and everything it wrote."""
        self.close()

    @property
    def url(self) -> str:
        """AMQP URL of the default virtual host, for the administrator `guest`."""
        return f"amqp://guest:guest@127.0.0.1:{self._ports.amqp}/"

    @property
    def tls_url(self) -> str:
        """The same over TLS; only there when the broker was made with `ssl`."""
        return f"amqps://guest:guest@localhost:{self._ports.tls}/"

    @property
    def amqp_port(self) -> int:
        """Port of the plain AMQP listener on 127.0.0.1."""
        return self._ports.amqp

    @property
    def port_mapper_port(self) -> int:
        """Port of the node's own Erlang port mapper (epmd)."""
        return self._ports.port_mapper

    @property
    def distribution_port(self) -> int:
        """Port by which other nodes reach this one."""
        return self._ports.distribution

    @property
    def pid(self) -> int:
        """Process id of the Erlang VM; 0 when it is not running."""
        return self._node.pid if self._node and self._node.is_running else 0

    @property
    def log(self) -> Path:
        """The node's log file."""
        return self.folder / "log" / f"{self.node_name}.log"

    @property
    def logs(self) -> list[Path]:
        """The same, as a cluster has several."""
        return [self.log]

    @property
    def is_running(self) -> bool:
        """Whether the node's process is there (a frozen one is)."""
        return self._node is not None and self._node.is_running

    # Life and death.

    def start(self) -> None:
        """Start the node and wait until it takes AMQP connections and answers the management API.

        Raises:
            BrokerNotInstalledError: there is no rabbitmq-server.
            BrokerStartError: it ended or was not ready in time.
        """
        if self.is_running:
            return
        program = find_program("rabbitmq-server", self._root)
        if program is None:
            message = "rabbitmq-server is not installed; on Debian or Ubuntu: apt-get install rabbitmq-server"
            raise BrokerNotInstalledError(message)
        self._start_port_mapper()
        self._node = self._spawn([program])
        self._wait_until_ready(self._node)
        self.may_have_alarm = False

    def stop(self) -> None:
        """Shut the node down in good order; `start` brings it back with its data."""
        if self._node:
            self._node.terminate(STOP_TIMEOUT_SECONDS)
        self.is_frozen = False
        self._stop_port_mapper()

    def kill(self) -> None:
        """End the node at once, as a power cut would (SIGKILL); `start` brings it back with its data."""
        if self._node:
            self._node.kill()
        self.is_frozen = False
        self._stop_port_mapper()

    def restart(self) -> None:
        """Stop in good order and start again on the same ports with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the node and remove its folder. The object cannot be started again."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def freeze(self) -> None:
        """Stop the node's clock (SIGSTOP): connections stay open and nothing answers."""
        if self._node:
            self._node.send_signal(signal.SIGSTOP)
            self.is_frozen = self._node.is_running

    def thaw(self) -> None:
        """Let a frozen node run on (SIGCONT)."""
        if self._node:
            self._node.send_signal(signal.SIGCONT)
        self.is_frozen = False

    # What is in it.

    def vhost_url(self, name: str) -> str:
        """Return the AMQP URL of a virtual host."""
        return self.url + quote(name, safe="")

    def create_vhost(self, name: str) -> str:
        """Create a virtual host (nothing happens if it is there) and return its AMQP URL."""
        self.management.create_vhost(name)
        return self.vhost_url(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host and everything in it; its connections are closed."""
        self.management.delete_vhost(name)

    def create_user(
        self, name: str, password: str, configure: str = ".*", write: str = ".*", read: str = ".*", *, vhost: str = "/"
    ) -> str:
        """Create a user with rights on one virtual host (regular expressions) and return the user's AMQP URL."""
        self.management.create_user(name, password)
        self.management.set_permissions(name, vhost, configure=configure, write=write, read=read)
        credentials = f"{quote(name, safe='')}:{quote(password, safe='')}"
        return f"amqp://{credentials}@127.0.0.1:{self._ports.amqp}/{quote(vhost, safe='')}"

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: dict[str, Any], apply_to: str = "queues"
    ) -> None:
        """Create or replace a policy."""
        self.management.set_policy(vhost, name, pattern, definition, apply_to)

    def queue_depths(self, vhost: str = "/") -> dict[str, int]:
        """Return how many messages are ready in each queue, exactly and now (unacknowledged ones do not count)."""
        names = self.management.queues(vhost)
        connection = pika.BlockingConnection(pika.URLParameters(self.vhost_url(vhost)))
        try:
            channel = connection.channel()
            return {name: channel.queue_declare(name, passive=True).method.message_count for name in names}
        finally:
            connection.close()

    def wait_until_on_disk(self, vhost: str, *queues: str) -> None:
        """Wait until freshly declared quorum queues would survive `kill`.

        RabbitMQ (3.10 and 4.0 measured) writes the directory of its quorum queues about a second after declaring one. A
        node killed before that forgets the queue's log, confirmed messages included, and the queue never works again.

        Raises:
            TimeoutError: they did not get there within ten seconds.
        """
        marks = {f"{vhost}_{queue}".encode() for queue in queues}
        deadline = time.monotonic() + _ON_DISK_TIMEOUT_SECONDS
        while not all(any(mark in content for content in self._queue_directories()) for mark in marks):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not on disk: {', '.join(queues)}")
            time.sleep(_POLL_SECONDS)

    def _queue_directories(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.folder / "data").rglob("names.dets")]

    def set_memory_alarm(self, on: bool) -> None:  # noqa: FBT001 - reads well at the call
        """Raise or clear the memory alarm: while it is on, connections that publish are blocked.

        Every connection knows of it on return: one that learnt it after its publish would not be blocked by that.
        """
        self.may_have_alarm = True
        self.control("set_vm_memory_high_watermark", "0.0000001" if on else _DEFAULT_MEMORY_WATERMARK)
        if on:
            self.control("eval", "rabbit_alarm:get_alarms().")  # is answered when connections have been told
        self.may_have_alarm = on

    def close_connections(self, reason: str = "closed by the sandbox") -> None:
        """Close every client connection from the broker's side."""
        self.control("close_all_connections", "--global", reason)

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this node and return what it printed.

        Raises:
            subprocess.CalledProcessError: it failed; its output is in the exception.
        """
        return self._told("rabbitmqctl", *arguments)

    def upgrade(self, *arguments: str) -> str:
        """Run `rabbitmq-upgrade` against this node and return what it printed; otherwise as `control`."""
        return self._told("rabbitmq-upgrade", *arguments)

    def queues(self, *arguments: str) -> str:
        """Run `rabbitmq-queues` against this node and return what it printed; otherwise as `control`."""
        return self._told("rabbitmq-queues", *arguments)

    def _told(self, tool: str, *arguments: str) -> str:
        program = find_program(tool, self._root) or tool
        finished = subprocess.run(
            self._command([program, "--quiet", "--node", self.node_name, *arguments]),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CONTROL_TIMEOUT_SECONDS,
            check=True,
        )
        return finished.stdout

    # How it is made.

    def _write_files(
        self, plugins: Sequence[str], ssl: CertificateFiles | None, configuration: Sequence[str], secret: str
    ) -> None:
        for name in ("home", "log", "data", "tls"):
            (self.folder / name).mkdir()
        (self.folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        (self.folder / "rabbitmq-env.conf").touch()
        cookie = self.folder / "home" / ".erlang.cookie"
        cookie.write_text(secret)
        cookie.chmod(0o400)
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self._ports.amqp}",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self._ports.management}",
            "log.console = false",
            "disk_free_limit.absolute = 50MB",
        ]
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, *self._tls_lines(ssl), *configuration]) + "\n")
        if self._root and not (self._root / "etc/hosts").exists():
            (self._root / "etc/hosts").write_text("127.0.0.1 localhost\n")

    def _tls_lines(self, ssl: CertificateFiles | None) -> list[str]:
        if ssl is None:
            return []
        tls = self.folder / "tls"
        options = {"cacertfile": ssl.authority, "certfile": ssl.certificate, "keyfile": ssl.key}
        lines = [
            f"listeners.ssl.1 = 127.0.0.1:{self._ports.tls}",
            "ssl_options.verify = verify_none",
            "ssl_options.fail_if_no_peer_cert = false",
        ]
        for option, file in options.items():
            shutil.copy(file, tls / option)
            lines.append(f"ssl_options.{option} = {self._inside(tls / option)}")
        return lines

    def _environment(self) -> dict[str, str]:
        folder = self._inside(self.folder)
        shutdown = f"-kernel shutdown_timeout {_SHUTDOWN_TIMEOUT_MS}"
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": _SEARCH_PATH if self._root else os.environ.get("PATH", "") + ":" + _SEARCH_PATH,
            "HOME": f"{folder}/home",
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._ports.port_mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(self._ports.distribution),
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            # "Input allowed" makes the start script replace itself with the Erlang VM instead of staying as its parent.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput +B i {loopback} {shutdown}",
            "RABBITMQ_CTL_ERL_ARGS": loopback,
            # A tool that finds no port mapper must not start one: it would outlive the run.
            "ERL_AFLAGS": "-start_epmd false",
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._ports.control),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._ports.control + 20),
        }

    def _inside(self, path: Path) -> str:
        return f"/{path.relative_to(self._root)}" if self._root else str(path)

    def _command(self, command: Sequence[str]) -> list[str]:
        if self._root is None:
            return list(command)
        # A mount name space of its own: /proc for the memory monitor disappears with the last process inside.
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self._root), *command]

    def _spawn(self, command: Sequence[str]) -> KeptProcess:
        return KeptProcess(
            self._command(command),
            environment=self._environment(),
            log=self.folder / "log" / "console.log",
            remove=self.folder,
        )

    def _start_port_mapper(self) -> None:
        if self._port_mapper is None or not self._port_mapper.is_running:
            self._port_mapper = self._spawn(["epmd", "-port", str(self._ports.port_mapper), "-address", "127.0.0.1"])
            mapper = self._port_mapper
            self._wait_for(lambda: _is_listening(self._ports.port_mapper), mapper, "epmd")
            self._introduced = [introduced(self._ports.port_mapper, *one) for one in self.neighbours.items()]

    def _stop_port_mapper(self) -> None:
        for introduction in self._introduced:
            introduction.close()
        self._introduced = []
        if self._port_mapper:
            self._port_mapper.kill()
            self._port_mapper = None

    def _wait_until_ready(self, node: KeptProcess) -> None:
        self._wait_for(lambda: _speaks_amqp(self._ports.amqp) and self.management.answers(), node, "rabbitmq-server")

    def _wait_for(self, is_ready: Callable[[], bool], process: KeptProcess, name: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not is_ready():
            if not process.is_running or time.monotonic() > deadline:
                state = "is not ready" if process.is_running else "ended while starting"
                message = f"{name} {state}; its last words:\n{self._last_words()}"
                raise BrokerStartError(message)
            time.sleep(_POLL_SECONDS)

    def _last_words(self) -> str:
        lines: list[str] = []
        for file in (self.folder / "log" / "console.log", self.log):
            with contextlib.suppress(OSError):
                lines += file.read_text(errors="replace").splitlines()[-15:]
        return "\n".join(lines)


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _speaks_amqp(port: int) -> bool:
    """Tell whether the server answers the AMQP greeting with a method frame (Connection.Start)."""
    with socket.socket() as client:
        client.settimeout(1.0)
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(b"AMQP\x00\x00\x09\x01")
            return client.recv(1) == b"\x01"
        except OSError:
            return False
