"""Putting pods on and taking them off: namespaces, plugin calls, listeners, objects; all or nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from muslin import netns
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.cli.client import Services
from muslin.cli.console import Console
from muslin.cli.play import cni, listeners, sandbox
from muslin.cli.play.nodes import Nodes, spread
from muslin.cli.play.record import PlayedPod, Record, Records
from muslin.cli.process import of_pid, this_process
from muslin.cni import result as cni_result
from muslin.errors import FailedPrecondition, InvalidArgument, IOFailure, MuslinError
from muslin.kube.convert import default_namespace, namespace_message, node_message, pod_message, policy_object
from muslin.kube.manifest import Manifest
from muslin.kube.objects import DEFAULT_NAMESPACE, Namespace, NetworkPolicy, Node

__all__ = ["Stage", "plan", "remove", "remove_pods", "needed_objects", "condition_text"]

PARALLEL = 8
"""Plugin calls at once: a node's runtime is as busy when it starts many pods."""
LISTENERS_SECONDS = 30.0

T = TypeVar("T")


def plan(manifest: Manifest, network: cni.Network, bin_dirs: Sequence[str], name: str,
         nodes: Sequence[str] = ()) -> Record:
    """The record of a play that has not begun; on several nodes, if any are named, else on this machine.

    Raises InvalidArgument if there is no pod, or one without a network, or for a node that is none of these; NotFound
    if a plugin is not there.
    """
    if not manifest.pods:
        raise InvalidArgument("there is no Pod to play in these files")
    for plugin in network.plugins if not nodes else ():
        cni.find(plugin.type, bin_dirs)
    pods = []
    for pod, node in zip(manifest.pods, spread(manifest.pods, nodes), strict=True):
        if pod.host_network:
            raise InvalidArgument(f"{pod.origin.place}: spec.hostNetwork: pod {pod.namespace}/{pod.name} has no "
                                  "network of its own to play; remove it")
        box = sandbox.name_of(pod.namespace, pod.name)
        pods.append(PlayedPod(
            cni.Sandbox(pod.namespace, pod.name, pod.uid or str(uuid.uuid4()), uuid.uuid4().hex + uuid.uuid4().hex,
                        str(netns.path_of(box))),
            box, [(port.protocol, port.port) for port in pod.ports], node=node))
    return Record(name, network, list(bin_dirs), this_process(), pods, [])


def needed_objects(manifest: Manifest, stored: Iterable[str]) -> list[Namespace | NetworkPolicy]:
    """The manifest's namespaces and policies, with the default namespace if it is used and neither here nor stored."""
    items: list[Namespace | NetworkPolicy] = [*manifest.namespaces, *manifest.policies]
    known = {*stored, *(item.name for item in manifest.namespaces)}
    if DEFAULT_NAMESPACE not in known and any(item.namespace == DEFAULT_NAMESPACE for item in manifest.objects):
        items.insert(0, default_namespace())
    return items


class Stage:
    """One play, from its manifest to its pods and back."""

    def __init__(self, services: Services, console: Console, manifest: Manifest, record: Record,
                 nodes: Nodes | None = None) -> None:
        """With `nodes` the pods are put on those that the record says, else on this machine."""
        self._nodes = nodes
        self._services = services
        self._console = console
        self._manifest = manifest
        self._records = Records(services.places)
        self.record = record
        self._listeners: asyncio.subprocess.Process | None = None
        self._claimed = False

    async def set_up(self) -> None:
        """Store the objects, make the pods, start the listeners. On an error `tear_down` undoes what was done."""
        stored = await self._services.objects()
        known = await self._services.nodes() if self._manifest.nodes else {}
        with self._records.locked():
            objects, nodes = self._claim(stored), self._claim_nodes(known)
            self._records.write(self.record)
            self._claimed = True
        conditions = await self._services.apply([policy_object(item) for item in objects])
        for condition in conditions:
            self._console.warn(condition_text(condition))
        await self._services.apply_inventory(
            [namespace_message(item) for item in objects if isinstance(item, Namespace)],
            [node_message(item) for item in nodes])
        uids = {pod.key: pod.sandbox.uid for pod in self.record.pods}
        await self._services.apply_pods([pod_message(pod, uids[f"{pod.namespace}/{pod.name}"])
                                         for pod in self._manifest.pods])
        await _each("starting pods", self.record.pods, self._add, self._console)
        self._records.write(self.record)
        await self._listen()

    async def keep(self) -> None:
        """Leave the pods and their listeners when this process ends."""
        assert self._listeners is not None
        assert self._listeners.stdin is not None
        self._listeners.stdin.write(b"keep\n")
        await self._listeners.stdin.drain()
        self.record.kept = True
        self._records.write(self.record)

    async def tear_down(self) -> None:
        """Remove everything of the play. Raises IOFailure, after all was tried, if something could not be removed."""
        if not self._claimed:
            return  # nothing was made, and what has the same names is another's
        if self._listeners and self._listeners.stdin:
            self._listeners.stdin.close()
        await remove(self.record, self._services, self._records, self._console, self._nodes)

    def _claim(self, stored: Sequence[policy_pb2.Object]) -> list[Namespace | NetworkPolicy]:
        """The objects to apply. Raises FailedPrecondition if another play or the store has something of the same name.

        An object that is stored already, word for word, may be shared.
        """
        others = self._records.all()
        taken = {pod.key for record in others for pod in record.pods}
        if both := sorted(taken & {pod.key for pod in self.record.pods}):
            raise FailedPrecondition(f"pod {both[0]} is played already; remove it with `muslin delete -f FILE`, or all "
                                     "with `muslin down`")
        if both := sorted(set(netns.names()) & {pod.netns_name for pod in self.record.pods if not pod.node}):
            raise FailedPrecondition(f"network namespace {both[0]} exists and belongs to no play; remove it with "
                                     f"`ip netns delete {both[0]}`")
        existing = {(item.kind, item.namespace, item.name): item.manifest for item in stored}
        played = {tuple(entry) for record in others for entry in record.objects}
        names = [item.name for item in stored if item.kind == "Namespace"]
        wanted = []
        for item in needed_objects(self._manifest, names):
            key = item.kind, item.namespace, item.name
            if key in existing and json.loads(existing[key]) != json.loads(item.manifest):
                shown = f"{item.namespace}/{item.name}" if item.namespace else item.name
                raise FailedPrecondition(
                    f"{item.origin.place}: {item.kind} {shown} is stored already and differs; remove it first with "
                    "`muslin delete -f FILE`, or change it with `muslin apply -f FILE`")
            if key not in existing:
                wanted.append(item)
            if key not in existing or key in played:  # one that was applied by hand outlives every play
                self.record.objects.append(key)
        return wanted

    def _claim_nodes(self, stored: Mapping[str, endpoint_pb2.Node]) -> list[Node]:
        """The nodes to apply; as `_claim`."""
        played = {tuple(entry) for record in self._records.all() for entry in record.objects}
        wanted = []
        for item in self._manifest.nodes:
            key = item.kind, "", item.name
            if item.name in stored and stored[item.name] != node_message(item):
                raise FailedPrecondition(
                    f"{item.origin.place}: Node {item.name} is stored already and differs; remove it first with "
                    "`muslin delete -f FILE`, or change it with `muslin apply -f FILE`")
            if item.name not in stored:
                wanted.append(item)
            if item.name not in stored or key in played:
                self.record.objects.append(key)
        return wanted

    async def _add(self, pod: PlayedPod) -> None:
        try:
            if self._nodes is not None:
                pod.result = await self._nodes.put(pod)
            else:
                sandbox.create(pod.netns_name)  # in this thread: one that is cancelled can not come after its undoing
                pod.result = await cni.add(self.record.network, pod.sandbox, self.record.bin_dirs)
        except MuslinError as error:
            raise type(error)(f"pod {pod.key}: {error.message}") from error
        addresses = [entry.address.partition("/")[0] for entry in cni_result.parse(pod.result).ips]
        pod.address = next((address for address in addresses if ":" not in address), "")
        if not pod.address:
            raise IOFailure(f"pod {pod.key}: the plugin's result has no IPv4 address: {pod.result.decode()}")

    async def _listen(self) -> None:
        if self._nodes is not None:
            await self._nodes.listen(self.record.pods)
            return
        log = self._services.places.log("listeners")
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", listeners.__name__, stdin=PIPE, stdout=PIPE, stderr=errors, cwd="/",
                start_new_session=True)
        self._listeners = process
        assert process.stdin is not None
        assert process.stdout is not None
        self.record.listeners = of_pid(process.pid)
        self._records.write(self.record)
        process.stdin.write(listeners.request(
            (pod.key, pod.sandbox.netns, pod.played_ports) for pod in self.record.pods))
        try:
            async with asyncio.timeout(LISTENERS_SECONDS):
                answer = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            answer = f"no answer in {LISTENERS_SECONDS:.0f} s"
        if answer != "ready":
            raise IOFailure(f"listeners of the pods: {answer or f'ended at once; log: {log}'}")


async def remove(record: Record, services: Services | None, records: Records, console: Console,
                 nodes: Nodes | None = None) -> None:
    """Remove a play: listeners, pods, objects that no other play has, the record.

    Without services only what is in the kernel goes. Raises IOFailure, after all was tried, and then the record stays.
    """
    if record.listeners:  # first: its sockets keep the namespaces alive
        await asyncio.to_thread(record.listeners.end, 5.0)
    problems = await remove_pods(record, record.pods, services, console, nodes)
    if services:
        others = {tuple(entry) for other in records.all() if other.name != record.name for entry in other.objects}
        mine = [(kind, namespace, name) for kind, namespace, name in record.objects
                if (kind, namespace, name) not in others]
        try:
            await services.delete_inventory([name for kind, _, name in mine if kind == "Namespace"],
                                            [name for kind, _, name in mine if kind == "Node"])
            await services.delete([policy_pb2.ObjectRef(kind=kind, namespace=namespace, name=name)
                                   for kind, namespace, name in mine if kind != "Node"])
        except MuslinError as error:
            problems.append(error.message)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise IOFailure(f"{problems[0]}{more}; try again with `muslin down`")
    records.remove(record)


async def remove_pods(record: Record, pods: Sequence[PlayedPod], services: Services | None, console: Console,
                      nodes: Nodes | None = None) -> list[str]:
    """Stop pods of a play, in the kernel and in the store; returns what went wrong, in words.

    Pods on other nodes go with the agents there, which have gone if there are no `nodes`.
    """
    problems: list[str] = []

    async def stop(pod: PlayedPod) -> None:
        if pod.node:
            if nodes is not None and pod.result:
                try:
                    await nodes.take(pod)
                except MuslinError as error:
                    problems.append(error.message)
            return
        try:
            if services:
                await cni.delete(record.network, pod.sandbox, record.bin_dirs, pod.result)
        except MuslinError as error:
            problems.append(error.message)
        try:
            netns.delete(pod.netns_name)
        except MuslinError as error:
            problems.append(error.message)

    await _each("stopping pods", pods, stop, console)
    if services:
        refs = [endpoint_pb2.PodRef(namespace=pod.sandbox.namespace, name=pod.sandbox.pod) for pod in pods]
        try:
            await services.delete_pods(refs)
        except MuslinError as error:
            problems.append(error.message)
    return problems


async def _each(what: str, items: Sequence[T], action: Callable[[T], Awaitable[None]], console: Console) -> None:
    """Do something for all items, PARALLEL at once. The first error stops the rest and is raised when all are."""
    turn = asyncio.Semaphore(PARALLEL)
    done = 0

    async def one(item: T) -> None:
        nonlocal done
        async with turn:
            await action(item)
        done += 1
        console.progress(f"{what} {done}/{len(items)}")

    tasks = [asyncio.create_task(one(item), name=what) for item in items]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def condition_text(condition: policy_pb2.Condition) -> str:
    """What a reservation about an object is, in a line."""
    item = condition.object
    name = f"{item.namespace}/{item.name}" if item.namespace else item.name
    return f"warning: {item.kind} {name}: {condition.path}: {condition.message}"

