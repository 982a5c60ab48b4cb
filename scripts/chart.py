"""Make the Helm chart of the kustomize overlays: `python scripts/chart.py [--check]`.

The overlays are what is true: each is rendered, and what a user may set is put in as a value. What all of them have
goes into one template, and what they differ in into one for each, of which the values choose one.
"""

from __future__ import annotations

import argparse
import copy
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/muslin"
HEAD = "# Made by scripts/chart.py of deploy/overlays; change those.\n"
CHOICES = {
    "single": "not (or .Values.ha .Values.externalEtcd.endpoints)",
    "ha": "and .Values.ha (not .Values.externalEtcd.endpoints)",
    "external-etcd": ".Values.externalEtcd.endpoints",
}
"""Overlays, and when one is used."""
NAMESPACE, CONFIG = "muslin-system", "muslin-config"
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")
EXAMPLE = "etcd1.example:2379,etcd2.example:2379,etcd3.example:2379"
"""The endpoints that the overlay with an etcd elsewhere is written with."""

Manifest = dict[str, Any]


def main() -> None:
    """Write the chart, or say what of it is not as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    check = parser.parse_args().check
    wanted = dict(chart())
    there = {path: path.read_text() for path in CHART.rglob("*") if path.is_file()} if CHART.exists() else {}
    if check:
        stale = sorted({*wanted, *there} - {path for path in wanted if there.get(path) == wanted[path]})
        if stale:
            sys.exit(f"not as scripts/chart.py makes it: {', '.join(str(path.relative_to(ROOT)) for path in stale)}")
        return
    for path in there.keys() - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def chart() -> Iterator[tuple[Path, str]]:
    """The files of the chart."""
    rendered = {overlay: render(overlay) for overlay in CHOICES}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    yield CHART / "Chart.yaml", HEAD + _dump({
        "apiVersion": "v2", "name": "muslin", "version": version, "appVersion": version, "type": "application",
        "description": "A pod network for Kubernetes made of small gRPC services", "kubeVersion": ">=1.20.0-0"})
    yield CHART / "values.yaml", values(rendered["single"], version)
    made = {overlay: [text for item in found if (text := template(item))] for overlay, found in rendered.items()}
    shared = [text for text in made["single"] if all(text in each for each in made.values())]
    yield CHART / "templates/config.yaml", HEAD + _CONFIG
    yield CHART / "templates/common.yaml", HEAD + "---\n".join(shared)
    for overlay, texts in made.items():
        own = "---\n".join(text for text in texts if text not in shared)
        yield CHART / f"templates/{overlay}.yaml", f"{HEAD}{{{{- if {CHOICES[overlay]} }}}}\n{own}{{{{- end }}}}\n"


def render(overlay: str) -> list[Manifest]:
    """The objects of an overlay; exits where there is no kustomize."""
    place = str(ROOT / "deploy/overlays" / overlay)
    for program in (("kubectl", "kustomize"), ("kustomize", "build")):
        if shutil.which(program[0]):
            done = subprocess.run([*program, place], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return list(yaml.safe_load_all(done.stdout))
            sys.exit(f"{' '.join(program)} {place}: {done.stderr.strip()}")
    sys.exit("needs kubectl 1.21 or later, or kustomize, on the PATH")


def values(found: list[Manifest], version: str) -> str:
    """What a user may set, and what it is if nobody does."""
    (config,) = (item["data"] for item in found if item["kind"] == "ConfigMap")
    resources = {name: each["resources"] for item in found if item["kind"] in WORKLOADS for name, each in _sized(item)}
    named = {key: config.pop(f"MUSLIN_{variable}") for key, variable in (
        ("pool", "POOL"), ("encapsulation", "ENCAPSULATION"), ("logLevel", "LOG_LEVEL"))}
    assert not config, f"values.yaml lacks {', '.join(config)}"
    return HEAD + f"""
images:
  registry: docker.io/muslin
  tag: {version}
  pullPolicy: IfNotPresent

# Addresses of pods. The pool is made at the first start; later ones are made with `muslin ipam pool`.
pool: {named['pool']}
# How packets get to other nodes: vxlan, cross-subnet (vxlan beyond routers only), none.
encapsulation: {named['encapsulation']}
logLevel: {named['logLevel']}
# More variables of docs/kubernetes.md, such as MUSLIN_UPLINK.
config: {{}}

# Two of each service, and three members of etcd on the nodes that are labelled muslin.dev/etcd=0, 1 and 2.
ha: false

# An etcd that is there already, host:port with commas between; its Secrets are in deploy/overlays/external-etcd.
externalEtcd:
  endpoints: ""

resources:
{_indented(_dump(resources), 2)}"""


_CONFIG = """apiVersion: v1
kind: ConfigMap
metadata:
  name: muslin-config
  namespace: {{ .Release.Namespace }}
  labels: {app.kubernetes.io/part-of: muslin}
data:
  MUSLIN_POOL: {{ .Values.pool | quote }}
  MUSLIN_ENCAPSULATION: {{ .Values.encapsulation | quote }}
  MUSLIN_LOG_LEVEL: {{ .Values.logLevel | quote }}
  {{- range $name, $value := .Values.config }}
  {{ $name }}: {{ $value | quote }}
  {{- end }}
"""


def template(item: Manifest) -> str:
    """An object as a template; empty for what Helm makes itself, or has a template of its own."""
    if item["kind"] in ("Namespace", "ConfigMap"):
        return ""
    item = copy.deepcopy(item)
    if item["kind"] == "PodDisruptionBudget":
        item["apiVersion"] = ('{{ if .Capabilities.APIVersions.Has "policy/v1" }}policy/v1{{ else }}policy/v1beta1'
                              "{{ end }}")
    if item["kind"] in WORKLOADS:
        _workload(item)
    if item["kind"] == "Deployment" and item["metadata"]["labels"].get("muslin.dev/replicas") == "several":
        item["spec"]["replicas"] = "__REPLICAS__"
    text = _dump(_placed(item))
    text = re.sub(r"^( *)resources: __(\S+)__$", _block, text, flags=re.MULTILINE)
    # With an etcd elsewhere there may be two of each service, too.
    return text.replace("__REPLICAS__", "{{ if .Values.ha }}2{{ else }}1{{ end }}")


def _block(found: re.Match[str]) -> str:
    indent, name = found.groups()
    value = f'toYaml (index .Values.resources "{name}") | nindent {len(indent) + 2}'
    return f"{indent}resources:\n{indent}  {{{{- {value} }}}}"


def _workload(item: Manifest) -> None:
    pod = item["spec"]["template"]
    # What is started anew when the configuration changes, as by the name that kustomize gives it.
    pod["metadata"].setdefault("annotations", {})["checksum/config"] = (
        "{{ printf \"%s %s %s %s\" .Values.pool .Values.encapsulation .Values.logLevel (toYaml .Values.config) "
        "| sha256sum }}")
    for name, container in _sized(item):
        container["resources"] = f"__{name}__"
    for container in _containers(item):
        image, _, _ = container["image"].removeprefix("docker.io/muslin/").partition(":")
        container["image"] = f"{{{{ .Values.images.registry }}}}/{image}:{{{{ .Values.images.tag }}}}"
        container["imagePullPolicy"] = "{{ .Values.images.pullPolicy }}"
        for source in container.get("envFrom", ()):
            source["configMapRef"]["name"] = CONFIG
        if "envFrom" in container:
            container["env"].append({"name": "MUSLIN_NAMESPACE",
                                     "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}})


def _placed(value: Any) -> Any:
    """The same in the release's namespace, and with the etcd of the values."""
    if isinstance(value, dict):
        return {key: _placed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_placed(each) for each in value]
    if value == EXAMPLE:
        return "{{ .Values.externalEtcd.endpoints }}"
    return "{{ .Release.Namespace }}" if value == NAMESPACE else value


def _containers(item: Manifest) -> list[Manifest]:
    spec = item["spec"]["template"]["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _sized(item: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Containers by what their resources are called in the values."""
    workload = re.sub(r"^muslin-|-\d+$", "", item["metadata"]["name"])
    for container in _containers(item):
        name = str(container["name"])
        yield {"service": workload}.get(name, name), container


def _dump(value: Any) -> str:
    return yaml.dump(value, sort_keys=False, width=10_000)


def _indented(text: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}\n" for line in text.splitlines())


if __name__ == "__main__":
    main()
