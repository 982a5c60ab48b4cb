"""The Helm chart is the overlays, with values: rendered with what these are written with, it is what they are."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.unit.deploy import manifests
from tests.unit.deploy.helm import render
from tests.unit.deploy.manifests import LACKING, ROOT, Manifest, containers, rendered, rendering
from tests.unit.deploy.schemas import OLD, valid

CHART = ROOT / "deploy/helm/muslin"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
NEW_API = frozenset({"policy/v1"})
EXTERNAL = {"endpoints": "etcd1.example:2379,etcd2.example:2379,etcd3.example:2379"}

rendering_only = pytest.mark.skipif(not rendering(), reason=LACKING)


def chart(changed: Mapping[str, Any], *, namespace: str = "muslin-system",
          apis: frozenset[str] = NEW_API) -> list[Manifest]:
    """What is applied with some values."""
    texts = [render(path.read_text(), {**VALUES, **changed}, namespace, apis)
             for path in sorted((CHART / "templates").glob("*.yaml"))]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def comparable(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """By kind and name, without what the chart does otherwise: the namespace, and how a change is noticed."""
    result = {}
    for each in copy.deepcopy(found):
        if each["kind"] == "ConfigMap":
            each["metadata"]["name"] = "muslin-config"
        if each["kind"] in manifests.WORKLOADS:
            pod = each["spec"]["template"]
            pod["metadata"].pop("annotations", None)
            for container in containers(pod["spec"]):
                for source in container.get("envFrom", ()):
                    source["configMapRef"]["name"] = "muslin-config"
                container["env"] = [one for one in container.get("env", ()) if one["name"] != "MUSLIN_NAMESPACE"]
        if each["kind"] != "Namespace":
            result[each["kind"], each["metadata"]["name"]] = each
    return result


@rendering_only
@pytest.mark.parametrize(("overlay", "changed"), [
    ("single", {}), ("ha", {"ha": True}), ("external-etcd", {"externalEtcd": EXTERNAL})])
def test_it_is_what_the_overlay_is(overlay: str, changed: Mapping[str, Any]) -> None:
    assert comparable(chart(changed)) == comparable(rendered(overlay))


@rendering_only
def test_it_is_as_it_is_made() -> None:
    done = subprocess.run([sys.executable, "scripts/chart.py", "--check"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, f"{done.stderr}; run python scripts/chart.py"


def test_its_values_get_where_they_belong() -> None:
    found = comparable(chart({
        "pool": "10.9.0.0/16", "encapsulation": "none", "config": {"MUSLIN_UPLINK": "bond0"}, "ha": True,
        "images": {"registry": "registry.example/m", "tag": "9", "pullPolicy": "Always"},
        "externalEtcd": {"endpoints": "here:2379"},
        "resources": {**VALUES["resources"], "ipam": {"limits": {"memory": "1Gi"}}}}, namespace="other"))
    assert found["ConfigMap", "muslin-config"]["data"] == {
        "MUSLIN_POOL": "10.9.0.0/16", "MUSLIN_ENCAPSULATION": "none", "MUSLIN_LOG_LEVEL": "info",
        "MUSLIN_UPLINK": "bond0"}
    ipam = found["Deployment", "muslin-ipam"]
    (service,) = ipam["spec"]["template"]["spec"]["containers"]
    assert (ipam["spec"]["replicas"], service["image"], service["imagePullPolicy"], service["resources"]) == (
        2, "registry.example/m/ipam:9", "Always", {"limits": {"memory": "1Gi"}})
    assert {"name": "MUSLIN_ETCD", "value": "here:2379"} in service["env"]
    assert not [kind for kind, _ in found if kind == "StatefulSet"]
    text = yaml.safe_dump(list(found.values()))
    assert "muslin-system" not in text
    assert found["ClusterRole", "muslin-node"]["rules"][1]["resourceNames"] == ["other"]


def test_a_changed_configuration_starts_anew_what_reads_it() -> None:
    def notes(**changed: Any) -> set[str]:
        return {each["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for each in chart(changed)
                if each["kind"] in manifests.WORKLOADS}

    assert len(notes()) == 1
    assert len({*notes(), *notes(pool="10.0.0.0/8"), *notes(config={"MUSLIN_UPLINK": "eth1"})}) == 3


@pytest.mark.parametrize("changed", [{}, {"ha": True}, {"externalEtcd": EXTERNAL}])
def test_it_is_valid_for_an_old_cluster_too(changed: Mapping[str, Any]) -> None:
    for each in chart(changed, apis=frozenset()):
        valid(each, OLD)
