"""The manifests: valid for the oldest and newest API that is known here, no more rights than are said, one version."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from muslin.cli.cluster import names
from services.endpoint.standing import NOT_READY
from tests.unit.deploy import manifests
from tests.unit.deploy.manifests import LACKING, OVERLAYS, ROOT, Manifest, containers, rendered, rendering, templates
from tests.unit.deploy.schemas import NEW, OLD, Invalid, valid

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ADDED = {
    "muslin-node/prepare": {"DAC_OVERRIDE"},
    "muslin-node/node": {"NET_ADMIN", "NET_RAW", "SYS_ADMIN"},
    "muslin-node/agent": {"DAC_OVERRIDE", "NET_ADMIN"},
    **{f"muslin-etcd-{number}/place": {"CHOWN"} for number in range(3)},
}
"""Capabilities; all else has none."""
AS_ROOT = set(ADDED)
HOST_PATHS = {"muslin-node", "muslin-etcd-0", "muslin-etcd-1", "muslin-etcd-2"}
OLDEST_ONLY = {"ha-1.20"}
"""Overlays whose objects newer API servers do not know."""
NEWER_ONLY = {"ha"}

rendering_only = pytest.mark.skipif(not rendering(), reason=LACKING)


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_what_is_written_is_valid_where_nothing_renders() -> None:
    found = list(manifests.files())
    assert len(found) > 20
    for _, manifest in found:
        valid(manifest, OLD)
        valid(manifest, NEW)


def test_validation_can_fail() -> None:
    with pytest.raises(Invalid):
        valid({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}, OLD)


@rendering_only
def test_what_is_applied_is_valid(overlay: str) -> None:
    for manifest in rendered(overlay):
        if overlay not in NEWER_ONLY:
            valid(manifest, OLD)
        if overlay not in OLDEST_ONLY:
            valid(manifest, NEW)


@rendering_only
def test_an_overlay_is_for_the_versions_that_it_says() -> None:
    """Budgets are the only difference: what is in one version of the API is not in the other."""
    for overlay, version in (("ha", OLD), ("ha-1.20", NEW)):
        invalid = set()
        for manifest in rendered(overlay):
            try:
                valid(manifest, version)
            except Invalid:
                invalid.add(manifest["kind"])
        assert invalid == {"PodDisruptionBudget"}


@rendering_only
def test_nobody_has_more_rights_on_a_host_than_is_said(overlay: str) -> None:
    for name, spec in templates(rendered(overlay)):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.get("hostPID")
        assert not spec.get("hostIPC")
        assert any("hostPath" in volume for volume in spec["volumes"]) == (name in HOST_PATHS)
        for container in containers(spec):
            what = f"{name}/{container['name']}"
            context = container["securityContext"]
            assert "privileged" not in context, what
            assert context["allowPrivilegeEscalation"] is False, what
            assert context["readOnlyRootFilesystem"] is True, what
            assert context["capabilities"]["drop"] == ["ALL"], what
            assert set(context["capabilities"].get("add", ())) == ADDED.get(what, set()), what
            user = context.get("runAsUser", spec["securityContext"]["runAsUser"])
            assert (user == 0) == (what in AS_ROOT), what
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, what


@rendering_only
def test_images_are_of_one_version_which_is_this(overlay: str) -> None:
    for name, spec in templates(rendered(overlay)):
        for container in containers(spec):
            assert re.fullmatch(rf"docker\.io/muslin/(cli|endpoint|etcd|ipam|node|policy):{re.escape(VERSION)}",
                                container["image"]), (name, container["image"])
            assert container["imagePullPolicy"] == "IfNotPresent"


@rendering_only
def test_what_must_run_before_there_is_a_network_can(overlay: str) -> None:
    """On the host's network, on nodes that are not ready, and before all that is less important."""
    for name, spec in templates(rendered(overlay)):
        assert spec["hostNetwork"] is True, name
        assert spec["priorityClassName"].startswith("system-"), name
        tolerated = {each.get("key") for each in spec["tolerations"]}
        assert None in tolerated or {"node.kubernetes.io/not-ready", "node.kubernetes.io/network-unavailable",
                                     "node-role.kubernetes.io/control-plane", NOT_READY} <= tolerated, name


@rendering_only
def test_replicas_are_on_different_nodes_and_one_may_be_away() -> None:
    found = rendered("ha")
    budgets = {each["metadata"]["name"]: each["spec"] for each in found if each["kind"] == "PodDisruptionBudget"}
    assert set(budgets) == {"muslin-endpoint", "muslin-etcd", "muslin-ipam", "muslin-policy"}
    for each in found:
        if each["kind"] not in ("Deployment", "StatefulSet") or each["metadata"]["name"] == "muslin-authority":
            continue
        labels = each["spec"]["template"]["metadata"]["labels"]
        budget = budgets[labels["app.kubernetes.io/name"]]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= labels.items()
        (apart,) = each["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"]
        assert apart["topologyKey"] == "kubernetes.io/hostname"
        assert apart["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": labels["app.kubernetes.io/name"]}
        assert each["kind"] == "StatefulSet" or each["spec"]["replicas"] == 2
    members = [each for each in found if each["kind"] == "StatefulSet"]
    assert [each["spec"]["template"]["spec"]["nodeSelector"]["muslin.dev/etcd"] for each in members] == ["0", "1", "2"]


@rendering_only
def test_services_select_their_pods(overlay: str) -> None:
    """Each the pods of one workload, by the port that these have."""
    found = rendered(overlay)
    pods = [(each["metadata"]["name"], each["spec"]["template"]) for each in found
            if each["kind"] in manifests.WORKLOADS]
    for service in (each for each in found if each["kind"] == "Service"):
        chosen = [(name, pod) for name, pod in pods
                  if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
        assert [name for name, _ in chosen] == [service["metadata"]["name"]]
        ports = {port["containerPort"] for each in containers(chosen[0][1]["spec"]) for port in each.get("ports", ())
                 if port["name"] != "metrics"}  # those are for the host's loopback
        assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    for each in found:
        if each["kind"] in manifests.WORKLOADS:
            assert each["spec"]["selector"]["matchLabels"].items() <= each["spec"]["template"]["metadata"][
                "labels"].items()


@rendering_only
def test_probes_ask_where_something_listens(overlay: str) -> None:
    """Kubelet asks from the host, where all share one loopback: no port is two workloads'."""
    taken: dict[int, str] = {}
    for name, spec in templates(rendered(overlay)):
        for container in spec["containers"]:
            for port in container.get("ports", ()):  # members of etcd are on different nodes
                owner = re.sub(r"-\d$", "", name)
                assert taken.setdefault(port["containerPort"], owner) == owner
            listening = {each.get("value", "").rpartition(":")[2].strip("/") for each in container.get("env", ())}
            for probe in (container.get("readinessProbe", {}), container.get("livenessProbe", {})):
                for asked in (probe[kind] for kind in ("httpGet", "tcpSocket") if kind in probe):
                    assert asked["host"] == "127.0.0.1", name
                    assert str(asked["port"]) in listening, name


@rendering_only
def test_variables_name_services_that_there_are(overlay: str) -> None:
    """A misspelt one would reach the process as it stands."""
    found = rendered(overlay)
    services = {each["metadata"]["name"].upper().replace("-", "_") + "_SERVICE_HOST" for each in found
                if each["kind"] == "Service"}
    for name, spec in templates(found):
        for container in containers(spec):
            own = [each["name"] for each in container.get("env", ())]
            assert len(own) == len(set(own)), name
            for number, each in enumerate(container.get("env", ())):
                for used in re.findall(r"\$\((\w+)\)", each.get("value", "")):
                    assert used in services or used in own[:number], (name, each)


@rendering_only
def test_the_code_and_the_manifests_call_things_the_same() -> None:
    found = {(each["kind"], each["metadata"]["name"]): each for each in rendered("single")}
    assert ("Namespace", names.NAMESPACE) in found
    assert ("ServiceAccount", names.ACCOUNT) in found
    assert found["DaemonSet", names.DAEMON_SET]["spec"]["template"]["spec"]["serviceAccountName"] == names.ACCOUNT
    assert ("StatefulSet", names.member(0)) in found
    assert ("Service", names.member(0)) in found
    certificates = ("endpoint", "etcd", "etcd-root", "ipam", "operator", "policy")
    assert set(found["Role", "muslin-authority"]["rules"][0]["resourceNames"]) == {
        names.AUTHORITY, *map(names.secret, certificates)}
    for name in ("ipam", "endpoint", "policy"):
        assert ("Service", names.service(name)) in found


# What is said of rights.


def granted(found: list[Manifest]) -> Iterator[tuple[str, str, str, str]]:
    """Account, where, what and verbs, of each rule."""
    for role in (each for each in found if each["kind"] in ("Role", "ClusterRole")):
        where = "cluster" if role["kind"] == "ClusterRole" else "namespace"
        for rule in role["rules"]:
            group = next(iter(rule["apiGroups"]))
            what = ", ".join(sorted(f"{resource}.{group}" if group else resource for resource in rule["resources"]))
            if only := rule.get("resourceNames"):
                what += f": {', '.join(sorted(only))}"
            yield role["metadata"]["name"], where, what, ", ".join(rule["verbs"])


@rendering_only
def test_the_guide_lists_exactly_the_rights_that_are_granted() -> None:
    guide = (ROOT / "docs/kubernetes.md").read_text()
    table = guide[guide.index("<!-- rights -->"):guide.index("<!-- end of rights -->")]
    listed = [tuple(cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
              for line in table.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(granted(rendered("single")))
    assert not any("*" in cell for line in listed for cell in line)


@rendering_only
def test_each_account_is_bound_to_its_own_roles_only() -> None:
    for each in rendered("single"):
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            (subject,) = each["subjects"]
            assert subject["kind"] == "ServiceAccount"
            assert subject["name"] == each["roleRef"]["name"] == each["metadata"]["name"]
