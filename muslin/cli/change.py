"""`muslin apply`, `muslin delete` and `muslin explain`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.client import Services, services
from muslin.cli.console import Console
from muslin.cli.play import stage
from muslin.cli.play.record import Records
from muslin.cli.policy.engine import check
from muslin.errors import FailedPrecondition, InvalidArgument
from muslin.kube.convert import namespace_message, node_message, object_refs, pod_message, pod_ref, policy_object
from muslin.kube.manifest import Manifest, load
from muslin.kube.objects import Namespace, Object

__all__ = ["apply", "delete", "explain"]


async def apply(run: Path, files: Sequence[str]) -> None:
    """Create or update what manifests declare: all of it, or nothing."""
    console = Console()
    manifest = load(files)
    check([*manifest.namespaces, *manifest.policies])
    async with services(run) as up:
        namespaces = [item.name for item in await up.objects() if item.kind == "Namespace"]
        manifest.require_namespaces(namespaces)
        objects = stage.needed_objects(manifest, namespaces)
        conditions = await up.apply([policy_object(item) for item in objects]) if objects else ()
        await up.apply_inventory([namespace_message(item) for item in objects if isinstance(item, Namespace)],
                                 [node_message(item) for item in manifest.nodes])
        if manifest.pods:
            uids = {(pod.namespace, pod.name): pod.uid for pod in await up.pods()}
            await up.apply_pods([pod_message(pod, uids.get((pod.namespace, pod.name), "")) for pod in manifest.pods])
        played = {pod.key for record in Records(up.places).all() for pod in record.pods}
    for item in manifest.objects:
        hint = ""
        if item.kind == "Pod" and f"{item.namespace}/{item.name}" not in played:
            hint = " (it does not run: `muslin play` starts pods)"
        console.result(f"{_shown(item)} applied{hint}")
    for condition in conditions:
        console.warn(stage.condition_text(condition))


async def delete(run: Path, files: Sequence[str]) -> None:
    """Remove what manifests declare; pods of a kept play are stopped. What is not there is passed over."""
    console = Console()
    manifest = load(files)
    async with services(run) as up:
        await _require_empty(manifest, up)
        stored = {(pod.namespace, pod.name) for pod in await up.pods()}
        await _stop(manifest, up, console)
        await up.delete_pods([pod_ref(pod) for pod in manifest.pods])
        nodes = await up.nodes() if manifest.nodes else {}
        await up.delete_inventory([item.name for item in manifest.namespaces], [item.name for item in manifest.nodes])
        deleted = await up.delete(object_refs([*manifest.namespaces, *manifest.policies]))
    gone = {(ref.kind, ref.namespace, ref.name) for ref in deleted} | {("Pod", *name) for name in stored}
    gone |= {("Node", "", name) for name in nodes}
    for item in manifest.objects:
        there = (item.kind, item.namespace, item.name) in gone
        console.result(f"{_shown(item)} {'deleted' if there else 'is not there'}")


async def explain(run: Path, source: str, destination: str, port: int, protocol: str) -> int:
    """Say what decides a flow; returns 0 whichever way it is decided."""
    console = Console()
    flow = policy_pb2.Flow(source=_peer("FROM", source), destination=_peer("TO", destination),
                           protocol=protocol.upper(), port=port)
    async with services(run) as up:
        [answer] = await up.explain([flow])
    verdict = "allowed" if answer.verdict == policy_pb2.VERDICT_ALLOW else "denied"
    console.result(f"{source} -> {destination} port {port}/{protocol.upper()}: {verdict}")
    for step in answer.steps:
        way = "ingress" if step.direction == policy_pb2.DIRECTION_INGRESS else "egress"
        decided = "allowed" if step.verdict == policy_pb2.VERDICT_ALLOW else "denied"
        origin = f" [{step.origin}]" if step.origin else ""
        console.result(f"  {way} of {step.endpoint}: {decided}: {step.reason}{origin}")
    return 0


async def _require_empty(manifest: Manifest, up: Services) -> None:
    """Raise FailedPrecondition if a namespace would go while something in it stays, which would cut it off."""
    leaving = {(item.kind, item.namespace, item.name) for item in manifest.objects}
    staying = [("Pod", pod.namespace, pod.name) for pod in await up.pods()]
    staying += [(item.kind, item.namespace, item.name) for item in await up.objects()]
    for namespace in manifest.namespaces:
        for kind, inside, name in sorted(staying):
            if inside == namespace.name and (kind, inside, name) not in leaving:
                raise FailedPrecondition(f"{namespace.origin.place}: Namespace {namespace.name} still holds {kind} "
                                         f"{name}; delete that too, or first")


async def _stop(manifest: Manifest, up: Services, console: Console) -> None:
    """Stop those of the pods that are played; a play whose pods are all gone ends."""
    records = Records(up.places)
    leaving = {f"{pod.namespace}/{pod.name}" for pod in manifest.pods}
    for record in records.kept():
        stopping = [pod for pod in record.pods if pod.key in leaving]
        if len(stopping) == len(record.pods):
            await stage.remove(record, up, records, console)
        elif stopping:
            if problems := await stage.remove_pods(record, stopping, up, console):
                raise FailedPrecondition(problems[0])
            record.pods = [pod for pod in record.pods if pod.key not in leaving]
            records.write(record)


def _peer(argument: str, text: str) -> policy_pb2.Peer:
    """A peer as it is written on the command line: NAMESPACE/POD or an address."""
    namespace, slash, pod = text.partition("/")
    if slash and namespace and pod and "/" not in pod:
        return policy_pb2.Peer(pod=text)
    try:
        return policy_pb2.Peer(address=str(ipaddress.ip_address(text)))
    except ValueError:
        raise InvalidArgument(f"{argument} {text!r} is neither NAMESPACE/POD nor an IP address") from None


def _shown(item: Object) -> str:
    return f"{item.kind} {item.namespace}/{item.name}" if item.namespace else f"{item.kind} {item.name}"
