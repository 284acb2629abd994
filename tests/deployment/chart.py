"""The Helm chart: linted, rendered as committed, held to the schemas of Kubernetes, KEDA and prometheus-operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from tests.deployment.tools import CheckFailed
from tests.documentation import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deployment.tools import Tools

CHART = ROOT / "deploy" / "helm" / "cim-worker"
MANIFESTS = ROOT / "deploy" / "helm" / "manifests"
KUBERNETES = "k8s.io/kubernetes@v1.34.4"
KEDA = "github.com/kedacore/keda/v2@v2.21.0"
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
EVERYTHING = (
    "autoscaling.enabled=true",
    "monitoring.serviceMonitor=true",
    "monitoring.prometheusRule=true",
    "gateway.enabled=true",
    "desk.enabled=true",
)
ADDRESSES = ("secret.rabbitmqUrl=amqp://a", "secret.mongodbUri=mongodb://b")
"""What the chart makes a secret of, for workers alone."""
MORE_ADDRESSES = (
    "secret.rabbitmqGatewayUrl=amqp://g",
    "secret.gatewayTokens=client a-token-of-20-letters",
    "secret.rabbitmqDeskUrl=amqp://d",
    "secret.deskTokens=person a-token-of-20-letters",
)
"""And for gateway and desk."""
FILES = {
    "cim-worker.yaml": (*("configmap", "deployment", "service", "jobs", "poddisruptionbudget", "networkpolicy"),),
    "autoscaling.yaml": ("scaledobject",),
    "monitoring.yaml": ("monitoring",),
    "gateway.yaml": ("gateway",),
    "desk.yaml": ("desk",),
}
"""What is committed for people without Helm, and the templates it is rendered from."""


def helm(tools: Tools) -> Path:
    """Return Helm."""
    return tools.from_go("helm", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3@v3.22.0")


def rendered(tools: Tools, *settings: str, show: tuple[str, ...] = ()) -> str:
    """Return the chart's manifests with *settings*, of all templates or of those to *show*."""
    options = [option for one in settings for option in ("--set", one)]
    shown = [option for name in show for option in ("--show-only", f"templates/{name}.yaml")]
    version = ("--kube-version", KUBERNETES.rpartition("@v")[2])
    return tools.run(helm(tools), "template", "cim-worker", CHART, *version, *options, *shown)


def check(tools: Tools) -> str:
    """Lint, compare with what is committed, and validate strictly."""
    existing = "secret.existing=cim-worker"
    partitioned = (existing, "autoscaling.enabled=true", "autoscaling.partitioned=true")
    everywhere = (*ADDRESSES, *MORE_ADDRESSES, *EVERYTHING)
    for settings in ((existing,), (existing, *EVERYTHING), partitioned, ADDRESSES, everywhere):
        tools.run(helm(tools), "lint", "--strict", CHART, *(option for one in settings for option in ("--set", one)))
    _refuses(tools, existing, "autoscaling.enabled=true", "autoscaling.minReplicas=0")
    _refuses(tools, existing, "autoscaling.enabled=true", "autoscaling.drainSeconds=1", "processes=4")
    _refuses(tools, *ADDRESSES, "gateway.enabled=true", "secret.rabbitmqGatewayUrl=amqp://g")
    _refuses(tools, *ADDRESSES, "desk.enabled=true", "secret.deskTokens=person a-token-of-20-letters")
    for name, templates in FILES.items():
        _compare(tools, MANIFESTS / name, rendered(tools, existing, *EVERYTHING, show=templates))
    everything = tools.folder / "all.yaml"
    everything.write_text(rendered(tools, *ADDRESSES, *MORE_ADDRESSES, *EVERYTHING))
    said = validate(tools, everything)
    misspelt = tools.folder / "misspelt.yaml"
    misspelt.write_text(everything.read_text().replace("pollingInterval:", "polingInterval:"))
    try:
        validate(tools, misspelt)
    except CheckFailed:
        return f"linted; {len(FILES)} manifests are as committed; {said.strip().splitlines()[-1]}"
    raise CheckFailed("kubeconform takes a misspelt key, so its yes means nothing")


def _refuses(tools: Tools, *settings: str) -> None:
    try:
        rendered(tools, *settings)
    except CheckFailed:
        return
    raise CheckFailed(f"the chart takes {settings}")


def _compare(tools: Tools, file: Path, text: str) -> None:
    if tools.write:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    elif file.read_text() != text:
        raise CheckFailed(f"{file} is not what the chart renders: run make deploy-check ARGS='--write chart'")


def validate(tools: Tools, file: Path) -> str:
    """Hold every object in *file* to its schema, unknown keys included, and return kubeconform's summary."""
    schemas = tools.folder / "schemas"
    if not (schemas / "_definitions.json").exists():
        schemas.mkdir(exist_ok=True)
        _kubernetes_schemas(tools.go_module(KUBERNETES) / "api" / "openapi-spec" / "swagger.json", schemas)
        crds = [*(tools.go_module(KEDA) / "config" / "crd" / "bases").glob("*.yaml")]
        crds += (tools.go_module(OPERATOR) / "example" / "prometheus-operator-crd").glob("*.yaml")
        _crd_schemas(crds, schemas)
    program = tools.from_go(
        "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "github.com/yannh/kubeconform@v0.8.0"
    )
    where = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    return tools.run(program, "-strict", "-summary", "-schema-location", where, file)


def _kubernetes_schemas(swagger: Path, folder: Path) -> None:
    """Write one JSON schema per kind from Kubernetes' own description."""
    definitions = json.loads(swagger.read_text())["definitions"]
    converted = {name: _strict(value) for name, value in definitions.items()}
    converted["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"oneOf": [{"type": "string"}, {"type": "number"}]}
    either = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    converted["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = either
    (folder / "_definitions.json").write_text(json.dumps({"definitions": converted}))
    for name, value in definitions.items():
        kinds = value.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1:
            kind = kinds[0]
            parts = (kind["kind"].lower(), kind["group"].split(".")[0], kind["version"])
            file = folder / f"{'-'.join(part for part in parts if part)}.json"
            file.write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))


def _strict(value: Any) -> Any:
    """Return a schema that refuses unknown keys, with references into the one file of definitions."""
    if isinstance(value, list):
        return [_strict(one) for one in value]
    if not isinstance(value, dict):
        return value
    schema = {name: _strict(one) for name, one in value.items()}
    if isinstance(schema.get("$ref"), str):
        return {"$ref": "_definitions.json" + schema["$ref"]}
    if schema.get("format") == "int-or-string":
        schema = {name: one for name, one in schema.items() if name not in {"type", "format"}}
        schema["oneOf"] = [{"type": "string"}, {"type": "integer"}]
    if isinstance(schema.get("properties"), dict):
        schema.setdefault("additionalProperties", False)
    return schema


def _crd_schemas(files: list[Path], folder: Path) -> None:
    for file in files:
        for document in yaml.load_all(file.read_text(), _Loader):
            if document and document.get("kind") == "CustomResourceDefinition":
                _write_versions(document["spec"], folder)


def _write_versions(spec: dict[str, Any], folder: Path) -> None:
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        _close(schema)
        schema["properties"]["metadata"] = {"type": "object"}
        name = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
        (folder / name).write_text(json.dumps(schema))


def _close(schema: Any) -> None:
    """Refuse unknown keys wherever the schema does not say that they are kept."""
    if isinstance(schema, list):
        for one in schema:
            _close(one)
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for one in list(schema.values()):
            _close(one)


class _Loader(yaml.SafeLoader):
    """Reads a bare `=`, which prometheus-operator's definitions contain, as the text it is."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _loader, node: node.value)
