"""What the tests ask the policy service, and a node that follows its program."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.cni import context

TIMEOUT = 10.0


def namespace(name: str, **labels: str) -> policy_pb2.Object:
    """A Namespace to apply."""
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    return policy_pb2.Object(kind="Namespace", name=name, manifest=json.dumps(manifest).encode(),
                             origin=f"{name}.yaml, document 1")


def network_policy(space: str, name: str, spec: Mapping[str, Any]) -> policy_pb2.Object:
    """A NetworkPolicy to apply."""
    manifest = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": space}, "spec": spec}
    return policy_pb2.Object(kind="NetworkPolicy", namespace=space, name=name, manifest=json.dumps(manifest).encode(),
                             origin=f"{space}.yaml, document 2")


def ref(item: policy_pb2.Object) -> policy_pb2.ObjectRef:
    """The name of an object."""
    return policy_pb2.ObjectRef(kind=item.kind, namespace=item.namespace, name=item.name)


class Client:
    """The policy service's API; errors come as `muslin.errors`."""

    def __init__(self, target: str, options: Sequence[tuple[str, int]] = ()) -> None:
        """`options` are gRPC's, in place of the project's own."""
        self._channel = grpc.aio.insecure_channel(target, options=options) if options else rpc.channel(target)
        self.policies = policy_pb2_grpc.PoliciesStub(self._channel)
        self.plugin = policy_pb2_grpc.PluginStub(self._channel)
        self.programs = policy_pb2_grpc.ProgramsStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def apply(self, *objects: policy_pb2.Object, timeout: float = TIMEOUT) -> policy_pb2.ApplyResponse:
        with rpc.translated("apply"):
            return await self.policies.Apply(policy_pb2.ApplyRequest(objects=objects), timeout=timeout)

    async def delete(self, *objects: policy_pb2.Object) -> policy_pb2.DeleteResponse:
        with rpc.translated("delete"):
            return await self.policies.Delete(policy_pb2.DeleteRequest(objects=map(ref, objects)), timeout=TIMEOUT)

    async def listed(self) -> policy_pb2.ListResponse:
        with rpc.translated("list"):
            return await self.policies.List(policy_pb2.ListRequest(), timeout=TIMEOUT)

    async def state(self) -> policy_pb2.GetStatusResponse:
        """How far nodes are, and where policies are enforced."""
        with rpc.translated("get status"):
            return await self.policies.GetStatus(policy_pb2.GetStatusRequest(), timeout=TIMEOUT)

    async def explain(self, *flows: policy_pb2.Flow) -> list[policy_pb2.Explanation]:
        with rpc.translated("explain"):
            answer = await self.policies.Explain(policy_pb2.ExplainRequest(flows=flows), timeout=TIMEOUT)
        return list(answer.explanations)

    async def allowed(self, source: str, destination: str, port: int) -> bool:
        flow = policy_pb2.Flow(source=policy_pb2.Peer(pod=source), destination=policy_pb2.Peer(pod=destination),
                               protocol="TCP", port=port)
        (answer,) = await self.explain(flow)
        return answer.verdict == policy_pb2.VERDICT_ALLOW

    async def add(self, config: Mapping[str, Any], container: str = "c1", pod: str = "x/web") -> tuple[str, ...]:
        """The profiles that ADD names."""
        space, _, name = pod.partition("/")
        arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={space};K8S_POD_NAME={name}" if pod else ""
        call = cni_pb2.Call(container_id=container, netns="/proc/1/ns/net", ifname="eth0", args=arguments,
                            path="/opt/cni/bin", config=json.dumps(config).encode())
        with rpc.translated("add"):
            answer = await self.plugin.Add(cni_pb2.AddRequest(call=call), timeout=TIMEOUT)
        return context.parse(answer.context).profiles

    async def check(self, config: Mapping[str, Any], args: str = "") -> None:
        call = cni_pb2.Call(container_id="c1", ifname="eth0", args=args, config=json.dumps(config).encode())
        with rpc.translated("check"):
            await self.plugin.Check(cni_pb2.CheckRequest(call=call), timeout=TIMEOUT)

    async def status(self, config: Mapping[str, Any]) -> None:
        call = cni_pb2.Call(config=json.dumps(config).encode())
        with rpc.translated("status"):
            await self.plugin.Status(cni_pb2.StatusRequest(call=call), timeout=TIMEOUT)

    async def gc(self, config: Mapping[str, Any]) -> None:
        call = cni_pb2.Call(config=json.dumps(config).encode())
        with rpc.translated("gc"):
            await self.plugin.GC(cni_pb2.GCRequest(call=call), timeout=TIMEOUT)

    async def delete_attachment(self, config: Mapping[str, Any]) -> None:
        call = cni_pb2.Call(container_id="c1", ifname="eth0", config=json.dumps(config).encode())
        with rpc.translated("del"):
            await self.plugin.Del(cni_pb2.DelRequest(call=call), timeout=TIMEOUT)


class Node:
    """A node that is subscribed: its program as messages gave it, without the help of the service's own code."""

    def __init__(self, client: Client, name: str, since: Node | None = None) -> None:
        """`since` is the node as it was when it lost its stream; it goes on from there."""
        self.groups: dict[str, set[str]] = dict(since.groups) if since else {}
        self.policies: dict[str, policy_pb2.Policy] = dict(since.policies) if since else {}
        self.endpoints: dict[str, policy_pb2.Endpoint] = dict(since.endpoints) if since else {}
        self._resume = since.messages[-1].resume if since else ""
        self.messages: list[policy_pb2.SubscribeResponse] = []
        self._name = name
        self._stream = client.programs.Subscribe(timeout=None, wait_for_ready=True)

    async def __aenter__(self) -> Self:
        await self._stream.write(policy_pb2.SubscribeRequest(node=self._name, resume=self._resume))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stream.cancel()

    async def receive(self, timeout: float = TIMEOUT) -> policy_pb2.SubscribeResponse:
        """The next message, applied and acknowledged."""
        with rpc.translated("subscribe"):
            message = await asyncio.wait_for(self._stream.read(), timeout)
        assert isinstance(message, policy_pb2.SubscribeResponse), "the stream has ended"
        self._take(message)
        await self._stream.write(policy_pb2.SubscribeRequest(enforced_revision=message.revision))
        return message

    async def until(self, condition: Callable[[Node], bool], timeout: float = TIMEOUT) -> None:
        """Receive until the program is as wanted."""
        async with asyncio.timeout(timeout):
            while not condition(self):
                await self.receive(timeout)

    def _take(self, message: policy_pb2.SubscribeResponse) -> None:
        self.messages.append(message)
        if message.snapshot:
            self.groups.clear()
            self.policies.clear()
            self.endpoints.clear()
        for group in message.groups:
            self.groups[group.id] = set(group.members)
        for change in message.group_changes:
            assert not self.groups[change.id] & set(change.added)
            assert self.groups[change.id] >= set(change.removed)
            self.groups[change.id] = self.groups[change.id] - set(change.removed) | set(change.added)
        self.policies.update((policy.id, policy) for policy in message.policies)
        self.endpoints.update((endpoint.workload, endpoint) for endpoint in message.endpoints)
        for group_id in message.removed_groups:
            del self.groups[group_id]
        for policy_id in message.removed_policies:
            del self.policies[policy_id]
        for attachment in message.removed_endpoints:
            self.endpoints = {name: endpoint for name, endpoint in self.endpoints.items()
                              if endpoint.attachment != attachment}
        for policy in self.policies.values():  # a message leaves nothing dangling
            for rule in (*policy.ingress, *policy.egress):
                assert {rule.peer_group, rule.port_group} - {""} <= self.groups.keys()

