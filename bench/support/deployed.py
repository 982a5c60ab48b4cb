"""What bench/deployed.py measures.

One node, on which `kubectl apply -k deploy/overlays/single` is run, then pods of users. CPU is what the control group
of each pod of ours used while nothing happened, so that what probes execute in containers counts too; memory is the
resident sets of its processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from bench.support.figures import row
from bench.support.kubelet import AIM_IDLE, SETTLE
from tests.kubernetes import cgroups
from tests.kubernetes.deployed import NAMESPACE, Cluster, Lacking, images_archive
from tests.kubernetes.node import Node, missing
from tests.kubernetes.pods import container, manifest

_SERVICES = ("muslin-ipam", "muslin-endpoint", "muslin-policy", "muslin-node")
_OTHERS = ("muslin-etcd", "muslin-authority")


def main() -> None:
    """Run, print the table, then one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pods, and a short time at rest")
    parser.add_argument("--pods", type=int, help="of users, beside which it is measured; default 100, or 10")
    options = parser.parse_args()
    if lacking := missing():
        print(f"NOT RUN: bench/deployed.py needs {lacking}")
        return
    node = Node(report=lambda said: print(f"# {said}", file=sys.stderr))
    with tempfile.TemporaryDirectory() as folder:
        try:
            archive, cluster = images_archive(Path(folder)), Cluster(node)
            node.up()
            node.import_image(archive)
            _run(cluster, options.pods if options.pods is not None else 10 if options.quick else 100,
                 20 if options.quick else 120)
        except Lacking as problem:
            print(f"NOT RUN: bench/deployed.py needs {problem}")
        finally:
            node.remove()


def _run(cluster: Cluster, pods: int, seconds: float) -> None:
    node, began = cluster.node, time.monotonic()
    cluster.kustomize("apply")
    node.ready()
    cluster.rolled_out()
    installed = time.monotonic() - began
    node.apply(*(manifest(f"p{number}", containers=[container("pause")]) for number in range(pods)))
    node.kubectl("wait", "--for=condition=Ready", "--timeout=280s", "pods", "--all")
    time.sleep(SETTLE)
    groups = {pod["metadata"]["labels"]["app.kubernetes.io/name"]: f"pod{pod['metadata']['uid']}"
              for pod in node.get("-n", NAMESPACE, "pods")["items"]}
    before = {name: cgroups.cpu_seconds(node.label, group) for name, group in groups.items()}
    time.sleep(seconds)
    idle = {name: 100 * (cgroups.cpu_seconds(node.label, group) - before[name]) / seconds
            for name, group in groups.items()}
    memory = {name: sum(map(_megabytes, cgroups.pids(node.label, group))) for name, group in groups.items()}
    print(f"from apply -k to a Ready node with everything rolled out: {installed:.0f} s\n")
    widths = (28, 12, 20)
    print(row((f"with {pods} pods of users", "MB", "idle, % of a core"), widths))
    for name in (*_SERVICES, *_OTHERS):
        print(row((name, f"{memory[name]:.0f}", f"{idle[name]:.2f}"), widths))
    services = sum(idle[name] for name in _SERVICES)
    print(f"the four services: {services:.2f} % of a core (aim: below {AIM_IDLE}); "
          f"with etcd and the authority {sum(idle.values()):.2f}")
    print(json.dumps({"bench": "deployed", "pods": pods, "installed_seconds": installed, "memory_mb": memory,
                      "idle_percent": idle, "idle_percent_services": services}))


def _megabytes(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        status = ""  # a probe's, which has ended
    return int((status.partition("VmRSS:")[2].split() or ["0"])[0]) / 1000


if __name__ == "__main__":
    main()
