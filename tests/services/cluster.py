"""Three private RabbitMQ nodes as one cluster; each can be killed, frozen, stopped and cut off from the others.

    with LocalCluster() as cluster:
        urls = cluster.create_vhost("trial")        # one address for each node, comma separated
        cluster.leader("trial", "cim.ingress").kill()

Every node has a port mapper of its own, in which the others stand with the ports of proxies: so a network between nodes
can be cut without rights on the machine's own network.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from tests.services.broker import LocalBroker, installed_version
from tests.services.management import ManagementApi, ManagementError
from tests.services.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

_JOINED_SECONDS = 60.0
_POLL_SECONDS = 0.1
_LINKS_SECONDS = 10.0
_ASK_SECONDS = 2.0
_DRAIN_ATTEMPTS = 4
_RECOMMENDED = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "cluster.conf"
_KNOWS_RECOMMENDED = (4, 0)
"""Older ones may refuse a line that they do not know."""
FOR_OLDER_ONES = "[{aten, [{poll_interval, 2000}]}].\n"
"""The same for 3.10, as deploy/rabbitmq/README.md has it."""
_NO_PARTITION_HANDLING = _KEEPS_OF_VANISHED = (4, 3)


class Links:
    """The ways from each node to each other one, as proxies in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links between nodes")
        self._thread.start()
        self._proxies: dict[tuple[str, str], Proxy] = {}

    def add(self, source: str, target: str, port: int) -> int:
        """Make the way from *source* to *target*, who listens at *port*; return the port that *source* shall use."""
        proxy = Proxy(port)
        self._do(proxy.__aenter__())
        self._proxies[source, target] = proxy
        return proxy.port

    def cut_off(self, names: Iterable[str]) -> None:
        """Let nothing pass between *names* and the others; connections stand, and nobody says so."""
        apart = set(names)
        self._do(self._set_black_hole(lambda source, target: (source in apart) != (target in apart)))

    def heal(self) -> None:
        """Let everything pass, what was held back included."""
        self._do(self._set_black_hole(lambda *_: False))

    def close(self) -> None:
        """End every connection, and the thread."""
        for proxy in self._proxies.values():
            self._do(proxy.__aexit__())
        self._do(_others_ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _set_black_hole(self, is_cut: Callable[[str, str], bool]) -> None:
        for way, proxy in self._proxies.items():
            proxy.black_hole(on=is_cut(*way))

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_LINKS_SECONDS)


async def _others_ended() -> None:
    """End what still runs on this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class LocalCluster:
    """Three nodes owned by this process; `close` (or the end of the `with` block) removes all of them.

    Args:
        chroot: root file system that holds another RabbitMQ.
        configuration: further lines of each node's rabbitmq.conf.
        plugins: plugins besides management.
        recommended: whether the nodes are set up as deploy/rabbitmq says.
    """

    def __init__(
        self,
        *,
        chroot: Path | None = None,
        configuration: Sequence[str] = (),
        plugins: Sequence[str] = (),
        recommended: bool = True,
    ) -> None:
        names = [f"n{number}-{secrets.token_hex(3)}" for number in (1, 2, 3)]
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [
            f"cluster_formation.classic_config.nodes.{number} = {name}@localhost"
            for number, name in enumerate(names, start=1)
        ]
        self.version = installed_version(chroot)
        if self.version < _NO_PARTITION_HANDLING:
            lines.append("cluster_partition_handling = pause_minority")
        if self.version >= _KNOWS_RECOMMENDED and recommended:
            lines += _RECOMMENDED.read_text().splitlines()
        cookie = secrets.token_hex(16)
        self._links = Links()
        self.nodes = [
            LocalBroker(
                chroot=chroot, plugins=plugins, configuration=[*lines, *configuration], name=name, cookie=cookie
            )
            for name in names
        ]
        for node in self.nodes:
            if self.version < _KNOWS_RECOMMENDED and recommended:
                (node.folder / "advanced.config").write_text(FOR_OLDER_ONES)
            node.neighbours = {
                other.node_name: self._links.add(node.node_name, other.node_name, other.distribution_port)
                for other in self.nodes
                if other is not node
            }

    def __enter__(self) -> Self:
        """Start the nodes; clean up when that fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        self.close()

    # Life and death.

    def start(self) -> None:
        """Start every node that does not run, let frozen ones go on, and wait until all see each other.

        Raises `BrokerStartError`, or TimeoutError when they do not find each other.
        """
        self._links.heal()
        for node in self.nodes:
            node.thaw()
        _at_once(lambda node: node.start(), self.nodes)
        self.wait_until_joined()

    def wait_until_joined(self) -> None:
        """Wait until every node says that all three run. Raises TimeoutError with what each of them says."""
        said: dict[str, str] = {}

        def joined() -> bool:
            said.update((node.node_name, _seen_by(node)) for node in self.nodes)
            return all(names.count("@") == len(self.nodes) for names in said.values())

        try:
            self._wait(joined, "")
        except TimeoutError:
            raise TimeoutError(f"the nodes do not see each other: {said}") from None

    def stop(self, *nodes: LocalBroker) -> None:
        """Shut *nodes* down in good order, all at once."""
        _at_once(lambda node: node.stop(), nodes)

    def drain(self, node: LocalBroker) -> None:
        """Put *node* into maintenance: it gives its leaders away, closes connections and takes no new ones.

        RabbitMQ 3.10 gives up half-way, with `noproc`, when a connection that it wants to close ends by itself: it is
        then told again. Raises CalledProcessError when it never gets to the end.
        """
        for _ in range(_DRAIN_ATTEMPTS - 1):
            with contextlib.suppress(subprocess.CalledProcessError):
                node.upgrade("drain")
                return
        node.upgrade("drain")

    def cut_off(self, *nodes: LocalBroker) -> None:
        """Cut the network between *nodes* and the others; clients reach all of them."""
        self._links.cut_off(node.node_name for node in nodes)

    def heal(self) -> None:
        """Give the network back."""
        self._links.heal()

    def close(self) -> None:
        """Kill every node and remove its folder."""
        _at_once(lambda node: node.close(), self.nodes)
        self._links.close()

    # What is in it.

    @property
    def management(self) -> ManagementApi:
        """The management API of a node that answers; of the first one when none does."""
        return next((node.management for node in self.nodes if _answers(node)), self.nodes[0].management)

    @property
    def url(self) -> str:
        """Addresses of the default virtual host, one for each node, comma separated."""
        return self.urls(self.nodes, "/")

    def urls(self, nodes: Iterable[LocalBroker], vhost: str) -> str:
        """Return the addresses of a virtual host on *nodes*, comma separated."""
        return ",".join(node.vhost_url(vhost) for node in nodes)

    def create_vhost(self, name: str) -> str:
        """Create a virtual host and return its addresses, comma separated. Raises TimeoutError with what was said."""
        self._insist(lambda api: api.create_vhost(name))
        return self.urls(self.nodes, name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host and everything in it. Raises TimeoutError with what was said."""
        self._insist(lambda api: api.delete_vhost(name))

    def vhost_url(self, name: str) -> str:
        """Return the address of a virtual host on a node that answers; on the first one when none does."""
        return next((node for node in self.nodes if _answers(node)), self.nodes[0]).vhost_url(name)

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: dict[str, Any], apply_to: str = "queues"
    ) -> None:
        """Create or replace a policy."""
        self.management.set_policy(vhost, name, pattern, definition, apply_to)

    def give_back_soon(self, vhost: str) -> None:
        """Have queues give what a dead node had handed out to others after two seconds, where that has to be said."""
        if self.version >= _KEEPS_OF_VANISHED:
            self.set_policy(
                vhost, "cim-disconnected", r"^cim\.", {"consumer-disconnected-timeout": 2000}, "quorum_queues"
            )

    @property
    def logs(self) -> list[Path]:
        """The log file of each node."""
        return [node.log for node in self.nodes]

    def leader(self, vhost: str, queue: str) -> LocalBroker:
        """Return the node that leads a quorum queue. Raises TimeoutError when nobody does."""
        path = f"/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}?columns=leader"
        found: list[LocalBroker] = []

        def led() -> bool:
            name = self._asked(path).get("leader")
            found[:] = [node for node in self.nodes if node.node_name == name and node.is_running]
            return bool(found)

        self._wait(led, f"nobody leads {queue}")
        return found[0]

    def leaders(self, vhost: str) -> dict[str, str]:
        """Return the name of the leading node of each quorum queue."""
        rows = self._asked(f"/queues/{quote(vhost, safe='')}?columns=name,type,leader")
        return {row["name"]: row["leader"] for row in rows if row.get("type") == "quorum" and row.get("leader")}

    def lead(self, vhost: str, queue: str, node: LocalBroker) -> None:
        """Have *node* lead a quorum queue. Raises TimeoutError when it does not become the leader."""
        leader = self.leader(vhost, queue)
        if leader is node:
            return
        lookup = f'rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>))'
        leader.control("eval", f"{{ok, Q}} = {lookup}, rabbit_quorum_queue:transfer_leadership(Q, '{node.node_name}').")
        self._wait(lambda: self.leader(vhost, queue) is node, f"{node.node_name} does not lead {queue}")

    def node_of(self, connection_name: str) -> LocalBroker:
        """Return the node that a client's connection of this name is on. Raises TimeoutError when there is none."""
        found: list[LocalBroker] = []

        def there() -> bool:
            rows = self._asked("/connections")
            named = [one for one in rows if one.get("client_properties", {}).get("connection_name") == connection_name]
            found[:] = [node for node in self.nodes for one in named if one["node"] == node.node_name]
            return bool(found)

        self._wait(there, f"no connection {connection_name}")
        return found[0]

    def _asked(self, path: str) -> Any:
        """Return what the management API says; nothing when it does not answer."""
        try:
            return self.management.request("GET", path) or {}
        except (OSError, HTTPException, ManagementError):
            return {}

    def _insist(self, request: Callable[[ManagementApi], None]) -> None:
        """Make *request* until it is answered: nodes that have just met leave the first ones without an answer."""
        said: list[Exception] = []

        def answered() -> bool:
            try:
                request(self.management)
            except (OSError, HTTPException, ManagementError) as error:
                said.append(error)
                return False
            return True

        try:
            self._wait(answered, "")
        except TimeoutError:
            raise TimeoutError(f"the management API: {said[-1]!r}") from None

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _JOINED_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise)
            time.sleep(_POLL_SECONDS)


def _at_once(action: Callable[[LocalBroker], object], nodes: Sequence[LocalBroker]) -> None:
    with ThreadPoolExecutor(len(nodes) or 1) as threads:
        list(threads.map(action, nodes))


def _answers(node: LocalBroker) -> bool:
    return node.is_running and not node.is_frozen and node.management.answers(_ASK_SECONDS)


def _seen_by(node: LocalBroker) -> str:
    """Return the names of the nodes that run, as *node* says; why it says nothing, if it does not."""
    try:
        nodes = node.management.request("GET", "/nodes?columns=name,running", timeout=_ASK_SECONDS)
    except (OSError, HTTPException, ManagementError) as error:
        return f"no answer: {type(error).__name__}"
    return " ".join(str(one["name"]) for one in nodes if one.get("running"))
