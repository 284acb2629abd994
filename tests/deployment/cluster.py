"""The chart on a real API server, scaled by the real KEDA from a real queue: 0 → 1 → several → 0.

There is no node: pods are objects only, and nothing of them runs. What is shown is that every object is taken as it is,
and that the ScaledObject, of the chart sees ready and unacknowledged messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pika
import trustme
import yaml

from tests.deployment.chart import ADDRESSES, EVERYTHING, KEDA, KUBERNETES, MORE_ADDRESSES, OPERATOR, rendered
from tests.deployment.tools import CheckFailed
from tests.services.processes import KeptProcess, free_ports
from tests.services.services import private_broker
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from tests.deployment.tools import Tools
    from tests.services.services import Broker

_SECONDS = 120
_HELD = 150
"""Messages that a consumer holds unacknowledged: they count, although none is ready."""
_PER_POD = 100
_NEXUS = "github.com/nexus-rpc/nexus-proto-annotations"


def scale(tools: Tools) -> str:
    """Apply everything, and watch the Deployment follow the queue."""
    with tempfile.TemporaryDirectory() as folder, private_broker(say=lambda _line: None) as broker:
        url = broker.create_vhost("cim")
        with _Cluster(tools, Path(folder)) as cluster:
            count = cluster.apply(_objects(tools, broker))
            return f"{count} objects are taken; {_follow(cluster, url)}"


def _objects(tools: Tools, broker: Broker) -> str:
    """Return the chart's objects, with a lower threshold and quicker pauses than anybody wants in earnest."""
    settings = (
        *ADDRESSES,
        *MORE_ADDRESSES,
        f"secret.rabbitmqManagementUrl={broker.management.url}",
        *EVERYTHING,
        "autoscaling.pollingIntervalSeconds=2",
        "autoscaling.cooldownSeconds=5",
        "autoscaling.maxReplicas=5",
    )
    documents = list(yaml.safe_load_all(rendered(tools, *settings)))
    for one in documents:
        if one["kind"] == "ScaledObject":
            spec = one["spec"]
            if spec["minReplicaCount"] < 1:
                raise CheckFailed("the chart's minimum is 0: nobody would take lifecycle events")
            spec["minReplicaCount"] = 0  # only here: to see it come from nothing and go back to it
            spec.pop("fallback")
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            behavior["scaleDown"] = {"stabilizationWindowSeconds": 0}
            for trigger in spec["triggers"]:
                trigger["metadata"]["value"] = str(_PER_POD)
    return yaml.safe_dump_all(documents)


def _follow(cluster: _Cluster, url: str) -> str:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for queue in ("cim.ingress", "cim.ingress.waiting"):
            channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        seen = [cluster.waits_for(lambda replicas: replicas == 0, "no replica while there is nothing to do")]
        for _ in range(350):
            channel.basic_publish("", "cim.ingress", b"{}")
        seen.append(cluster.waits_for(lambda replicas: replicas >= 1, "a first replica"))
        seen.append(cluster.waits_for(lambda replicas: replicas == 4, "as many as 350 messages ask for"))
        channel.queue_purge("cim.ingress")
        for _ in range(_HELD):
            channel.basic_publish("", "cim.ingress", b"{}")
        channel.basic_qos(prefetch_count=_HELD)
        channel.basic_consume("cim.ingress", lambda *_: None)
        connection.process_data_events(1)
        held = "two for what is only held unacknowledged"
        seen.append(cluster.waits_for(lambda replicas: replicas == 2, held, meanwhile=connection.process_data_events))
        channel.queue_purge("cim.ingress")
        channel.close()
        other = connection.channel()
        eventually(lambda: other.queue_purge("cim.ingress").method.message_count == _HELD, "what was held came back")
        seen.append(cluster.waits_for(lambda replicas: replicas == 0, "none again"))
    return "scaled " + ", ".join(seen)


class _Cluster:
    """etcd, an API server, the controllers of Deployments and autoscalers, and KEDA."""

    def __init__(self, tools: Tools, folder: Path) -> None:
        self._tools, self._folder = tools, folder
        self._ports = dict(zip(("etcd", "peer", "api", "adapter", "manager", "keda"), free_ports(6), strict=True))
        self._config = folder / "kubeconfig"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._certificates()
            self._start_api()
            self._start_keda()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def apply(self, objects: str) -> int:
        """Apply *objects*, unknown keys refused, and return how many there are."""
        file = self._folder / "objects.yaml"
        file.write_text(objects)
        self._kubectl("apply", "--server-side", "--validate=strict", "-f", file)
        return len(re.findall(r"^kind:", objects, re.MULTILINE))

    def waits_for(self, wanted: Any, what: str, *, meanwhile: Any = lambda _seconds: None) -> str:
        """Wait until the Deployment's replicas are as *wanted*; return how many, and after how long."""
        started = time.monotonic()
        while not wanted(replicas := self._replicas()):
            if time.monotonic() - started > _SECONDS:
                raise CheckFailed(f"{replicas} replicas, not {what}\n{self._logs()}")
            meanwhile(0.5)
            time.sleep(0.2)
        return f"to {replicas} in {time.monotonic() - started:.0f} s"

    def _replicas(self) -> int:
        found = json.loads(self._kubectl("get", "deployment", "cim-worker", "-o", "json"))
        return int(found["spec"].get("replicas", 0))

    def _logs(self) -> str:
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in self._folder.glob("*.log"))

    def _kubectl(self, *arguments: str | Path) -> str:
        # Output and complaints apart: warnings of the API server are no part of an answer.
        finished = subprocess.run(
            ["kubectl", f"--kubeconfig={self._config}", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise CheckFailed(f"kubectl {' '.join(map(str, arguments))}: {finished.stderr}")
        return finished.stdout

    def _start(self, name: str, *command: str | Path, **environment: str) -> None:
        process = KeptProcess(
            [*map(str, command)], environment={**os.environ, **environment}, log=self._folder / f"{name}.log"
        )
        self._stack.callback(process.terminate, 10)

    def _certificates(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self._folder / "ca.crt"))
        authority.private_key_pem.write_to_path(str(self._folder / "ca.key"))
        for name, host in (("tls", "localhost"), ("proxy", "front-proxy")):
            made = authority.issue_cert(host, common_name=host)
            made.private_key_pem.write_to_path(str(self._folder / f"{name}.key"))
            (self._folder / f"{name}.crt").write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
        self._tools.run("openssl", "genrsa", "-out", self._folder / "sa.key", "2048")
        self._tools.run("openssl", "rsa", "-in", self._folder / "sa.key", "-pubout", "-out", self._folder / "sa.pub")
        (self._folder / "tokens.csv").write_text("secret,admin,1,system:masters\n")
        cluster = {"server": f"https://127.0.0.1:{self._ports['api']}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "check", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": "secret"}}],
            "contexts": [{"name": "check", "context": {"cluster": "check", "user": "admin"}}],
            "current-context": "check",
        }
        self._config.write_text(yaml.safe_dump(config))

    def _start_api(self) -> None:
        here, ports = self._folder, self._ports
        etcd, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peer"))
        self._start(
            *("etcd", self._tools.from_apt("etcd", "etcd-server"), "--data-dir", here / "etcd"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        )
        self._start(
            *("api", self._kubernetes("kube-apiserver"), f"--etcd-servers={etcd}", "--bind-address=127.0.0.1"),
            *("--advertise-address=127.0.0.1", f"--secure-port={ports['api']}", f"--cert-dir={here / 'certs'}"),
            *("--service-account-issuer=https://k", f"--service-account-key-file={here / 'sa.pub'}"),
            *(f"--service-account-signing-key-file={here / 'sa.key'}", f"--token-auth-file={here / 'tokens.csv'}"),
            *("--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"),
            *("--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount"),
            *(f"--requestheader-client-ca-file={here / 'ca.crt'}", "--requestheader-allowed-names=front-proxy"),
            *("--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group"),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            *(f"--proxy-client-cert-file={here / 'proxy.crt'}", f"--proxy-client-key-file={here / 'proxy.key'}"),
        )
        eventually(self._answers, "the API server", 120)
        crds = self._tools.go_module(KEDA) / "config" / "crd" / "bases"
        monitors = self._tools.go_module(OPERATOR) / "example" / "prometheus-operator-crd"
        files = [
            crds,
            *(file for name in ("servicemonitors", "prometheusrules") for file in monitors.glob(f"*{name}*")),
        ]
        self._kubectl("apply", "--server-side", *(option for file in files for option in ("-f", file)))

    def _answers(self) -> bool:
        with contextlib.suppress(CheckFailed):
            return self._kubectl("get", "--raw", "/readyz") == "ok"
        return False

    def _start_keda(self) -> None:
        here, ports, config = self._folder, self._ports, f"--kubeconfig={self._config}"
        (here / "keda.yaml").write_text(_KEDA_SERVICE.format(port=ports["adapter"]))
        self._kubectl("apply", "--server-side", "-f", here / "keda.yaml")
        around = {"POD_NAMESPACE": "keda", "KEDA_CLUSTER_OBJECT_NAMESPACE": "keda", "WATCH_NAMESPACE": ""}
        self._start(
            *("keda-operator", self._keda("keda-operator", "operator"), config, f"--cert-dir={here}"),
            *("--leader-elect=false", "--metrics-bind-address=0", "--health-probe-bind-address=0"),
            *(f"--metrics-service-bind-address=127.0.0.1:{ports['keda']}", "--enable-webhook-patching=false"),
            "--enable-apiservice-patching=false",
            **around,
        )
        self._start(
            *("keda-adapter", self._keda("keda-adapter", "adapter"), config, f"--lister-kubeconfig={self._config}"),
            *(f"--authentication-kubeconfig={self._config}", f"--authorization-kubeconfig={self._config}"),
            *(f"--secure-port={ports['adapter']}", "--bind-address=127.0.0.1", f"--cert-dir={here}"),
            *(f"--tls-cert-file={here / 'tls.crt'}", f"--tls-private-key-file={here / 'tls.key'}"),
            *(f"--client-ca-file={here / 'ca.crt'}", f"--metrics-service-address=localhost:{ports['keda']}"),
            **around,
        )
        self._start(
            *("manager", self._kubernetes("kube-controller-manager"), config),
            *(f"--authentication-kubeconfig={self._config}", f"--authorization-kubeconfig={self._config}"),
            *("--bind-address=127.0.0.1", f"--secure-port={ports['manager']}", f"--cert-dir={here / 'certs'}"),
            "--leader-elect=false",
            "--controllers=deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller",
            *("--horizontal-pod-autoscaler-sync-period=3s", "--horizontal-pod-autoscaler-downscale-stabilization=5s"),
        )

    def _kubernetes(self, program: str) -> Path:
        """Build a program of Kubernetes: its parts are modules of their own, at versions of their own."""
        own = (self._tools.go_module(KUBERNETES) / "go.mod").read_text()
        version = KUBERNETES.rpartition("@v1")[2]
        parts = re.findall(r"^\t(k8s.io/[a-z0-9-]+) =>", own, re.MULTILINE)
        replaced = [f"replace {name} => {name} v0{version}" for name in parts]
        return self._tools.from_go(program, f"k8s.io/kubernetes/cmd/{program}", KUBERNETES, replaced)

    def _keda(self, program: str, command: str) -> Path:
        replaced = f"replace {_NEXUS} v0.1.0 => {_NEXUS} v0.1.1-0.20260629224316-835bd8d49cb4"
        return self._tools.from_go(program, f"github.com/kedacore/keda/v2/cmd/{command}", KEDA, [replaced])


_KEDA_SERVICE = """
apiVersion: v1
kind: Namespace
metadata: {{name: keda}}
---
apiVersion: v1
kind: Service
metadata: {{name: keda-metrics-apiserver, namespace: keda}}
spec: {{type: ExternalName, externalName: localhost, ports: [{{port: {port}}}]}}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1beta1.external.metrics.k8s.io}}
spec:
  service: {{name: keda-metrics-apiserver, namespace: keda, port: {port}}}
  group: external.metrics.k8s.io
  version: v1beta1
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
"""
