"""What our translation makes of the outside cases means what they mean, and what Calico's own converter makes of them.

The judge is network-config-analyzer, which reads both kinds of policy and compares what they allow. It pins its
dependencies, so it lives in a virtual environment of its own: MUSLIN_NCA is that one's interpreter (`make judge
CASES=file` makes it). MUSLIN_CALICO_GOLDEN may name a file of Calico's own conversions: one JSON object a line, with
`case`, `step` and `policies`.

It takes an ipBlock for addresses outside the cluster only, and policyTypes neither empty nor with Egress first.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.policy.model import Policy
from services.policy.translate import Ref, translate
from tests.policy_judges import calico
from tests.policy_judges.test_outside import ENVELOPE
from tests.unit.policy.cluster import namespace, network_policy
from tests.unit.policy.test_outside_cases import load

INTERPRETER, GOLDEN = "MUSLIN_NCA", "MUSLIN_CALICO_GOLDEN"
LOOP = """
import contextlib, io, json, sys
from nca.nca_cli import nca_main
for line in sys.stdin:
    first, second, topology = json.loads(line)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = nca_main(["--equiv", first, "--base_np_list", second, "-n", topology, "-p", topology,
                             "-nb", topology, "-pb", topology])
        except SystemExit as end:
            code = f"exit {end.code}"
        except Exception as problem:
            code = f"{type(problem).__name__}: {problem}"
    print(json.dumps([code, said.getvalue()[-2000:]]), flush=True)
"""


Question = tuple[str, str, str]
"""Files: two sets of policies, and a cluster."""


def answers(questions: list[Question]) -> list[tuple[Any, str]]:
    """Exit codes (0: equivalent, 1: not), and what was said."""
    interpreter = os.environ.get(INTERPRETER)
    if not interpreter:
        pytest.skip(f"SKIPPED: {INTERPRETER} names no interpreter with network-config-analyzer, so the translation is "
                    "not compared with Calico's reading")
    done = subprocess.run([interpreter, "-W", "ignore", "-c", LOOP], text=True, capture_output=True, check=False,
                          input="".join(json.dumps(question) + "\n" for question in questions), timeout=3600)
    found = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == len(questions), done.stderr
    return found


def test_the_judge_tells_policies_apart(tmp_path: Path) -> None:
    space = [namespace("x"), *(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "x", "labels": {"pod": name}},
         "spec": {"containers": [{"name": "c", "image": "x"}]}} for name in "abc")]
    topology = write(tmp_path / "topology.yaml", space)
    files = {name: write(tmp_path / f"{name}.yaml", [converted(policy)]) for name in "ab" for policy in [
        network_policy("x", "p", {"podSelector": {}, "ingress": [{"from": [{"podSelector": {
            "matchLabels": {"pod": name}}}]}]})]}
    codes = [code for code, _ in answers([(files["a"], files["b"], topology), (files["a"], files["a"], topology)])]
    assert codes == [1, 0]


def test_what_we_make_of_every_outside_case_is_equivalent(tmp_path: Path) -> None:
    golden = conversions()
    names: list[str] = []
    questions: list[Question] = []
    for case in load():
        for number, step in enumerate(case["steps"]):
            folder = tmp_path / f"{case['case']}-{number}"
            folder.mkdir()
            policies = [{**ENVELOPE, **policy} for policy in step["policies"]]
            topology = write(folder / "topology.yaml", cluster(step))
            ours = write(folder / "ours.yaml", map(converted, policies))
            others: dict[str, Iterable[dict[str, Any]]] = {"kubernetes": map(plain, policies)}
            if (case["case"], number) in golden:
                others["calico"] = golden[case["case"], number]
            for kind, theirs in others.items():
                names.append(f"case {case['case']} step {number} ({case['description']}), {kind}")
                questions.append((ours, write(folder / f"{kind}.yaml", theirs), topology))
    found = [f"{name}: {code} {said}" for name, (code, said) in zip(names, answers(questions), strict=True)
             if code != 0]
    print(f"\n{len(questions)} comparisons, {len(found)} not equivalent or not judged")  # noqa: T201  for people
    assert not found, "\n".join(found[:10])


def conversions() -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Calico's policies by case and step."""
    path = os.environ.get(GOLDEN)
    if not path:
        return {}
    with gzip.open(path, "rt") as lines:
        return {(item["case"], item["step"]): item["policies"] for item in map(json.loads, lines)}


def converted(manifest: dict[str, Any]) -> dict[str, Any]:
    """Our translation, as Calico would have it."""
    meta = manifest["metadata"]
    policy = translate(Ref("NetworkPolicy", meta["namespace"], meta["name"]), manifest).resource
    assert isinstance(policy, Policy)
    return calico.network_policy(policy, meta["namespace"])


def plain(manifest: dict[str, Any]) -> dict[str, Any]:
    """The policy with its types as the judge takes them: in one order, and none rather than an empty list."""
    spec = {key: value for key, value in manifest["spec"].items() if key != "policyTypes"}
    types = sorted(manifest["spec"].get("policyTypes") or [], reverse=True)
    return {**manifest, "spec": {**spec, "policyTypes": types} if types else spec}


def cluster(step: dict[str, Any]) -> list[dict[str, Any]]:
    """Namespaces and pods; Calico's own label on pods is asked for by its conversions."""
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
              for name, labels in step["namespaces"].items()]
    pods = [{"apiVersion": "v1", "kind": "Pod",
             "metadata": {"name": pod["name"], "namespace": pod["namespace"],
                          "labels": {**(pod["labels"] or {}), "projectcalico.org/orchestrator": "k8s"}},
             "spec": {"containers": [{"name": "c", "image": "x", "ports": [
                 {"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]}
                 for port in pod["ports"]]}]},
             "status": {"podIP": pod["ip"]}} for pod in step["pods"]]
    return [*spaces, *pods]


def write(file: Path, documents: Iterable[dict[str, Any]]) -> str:
    """Write YAML documents, and return where."""
    file.write_text(yaml.safe_dump_all(list(documents)))
    return str(file)
