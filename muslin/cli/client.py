"""The running services, as the commands talk to them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.node.v1 import node_pb2, node_pb2_grpc
from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.cli.lock import Running, running
from muslin.cli.places import DEFAULT_RUN, DEFAULT_STATE, Places
from muslin.cli.play.flows import Answer, Flow
from muslin.errors import Unavailable
from muslin.rpc import channel, translated

__all__ = ["Services", "services", "answer_of", "elsewhere", "require_up", "target_of"]

TIMEOUT = 15.0
"""Seconds for one request."""
RECORDS_AT_ONCE = 2_000
"""Records of endpoints in one answer."""
FLOWS_AT_ONCE = 500
"""Flows explained by one request, which keeps its answer well under gRPC's limit."""

T = TypeVar("T")


def require_up(run: Path) -> Running:
    """What runs on the run directory. Raises Unavailable, saying how to start it, if nothing does."""
    found = running(run)
    if found is None:
        option = "" if run == DEFAULT_RUN else f" --run-dir {run}"
        raise Unavailable(f"muslin is not up on {run}; start it with: muslin up{option} (in another terminal, or with "
                          "--detach)")
    return found


def elsewhere(service: str) -> str:
    """Where ipam, endpoint or policy is, if the environment says so (MUSLIN_IPAM, ...); empty if it does not."""
    return os.environ.get(f"MUSLIN_{service.upper()}", "") if service != "node" else ""


def target_of(service: str, run: Path) -> str:
    """Where a service is: elsewhere, or on a run directory. Raises Unavailable if nothing runs there."""
    if found := elsewhere(service):
        return found
    places = Places(run, DEFAULT_STATE)
    if not _listens(places.socket(service)):  # each may run without `muslin up`
        require_up(run)
    return places.target(service)


def _listens(path: Path) -> bool:
    """Whether somebody does behind a unix socket; one that is left over from somebody killed is there, too."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            return probe.connect_ex(str(path)) == 0
        except OSError:  # the path is too long for one
            return False


class Services:
    """Requests to the services of one `muslin up`, or of those elsewhere. Errors come as those of muslin.errors."""

    def __init__(self, places: Places, stack: AsyncExitStack) -> None:
        self.places = places
        self._stack = stack

    async def connect(self) -> None:
        """Open the channels; the first requests connect them."""
        policy, endpoint = [await self._stack.enter_async_context(channel(elsewhere(name) or self.places.target(name)))
                            for name in ("policy", "endpoint")]
        node = await self._stack.enter_async_context(channel(self.places.target("node")))
        self._policies = policy_pb2_grpc.PoliciesStub(policy)
        self._endpoints = endpoint_pb2_grpc.EndpointsStub(endpoint)
        self._node = node_pb2_grpc.NodeStub(node)

    async def apply(self, objects: Sequence[policy_pb2.Object]) -> Sequence[policy_pb2.Condition]:
        """Store namespaces and policies, all or none; the rules that could not be translated are returned."""
        with translated("policy: apply"):
            answer = await self._policies.Apply(policy_pb2.ApplyRequest(objects=objects), timeout=TIMEOUT)
        return answer.conditions

    async def delete(self, refs: Sequence[policy_pb2.ObjectRef]) -> Sequence[policy_pb2.ObjectRef]:
        """Remove namespaces and policies; returns those that existed."""
        with translated("policy: delete"):
            answer = await self._policies.Delete(policy_pb2.DeleteRequest(objects=refs), timeout=TIMEOUT)
        return answer.deleted

    async def objects(self) -> Sequence[policy_pb2.Object]:
        """The stored namespaces and policies."""
        with translated("policy: list"):
            answer = await self._policies.List(policy_pb2.ListRequest(), timeout=TIMEOUT)
        return answer.objects

    async def explain(self, flows: Sequence[policy_pb2.Flow]) -> list[policy_pb2.Explanation]:
        """What decides each flow."""
        found: list[policy_pb2.Explanation] = []
        for begin in range(0, len(flows), FLOWS_AT_ONCE):
            request = policy_pb2.ExplainRequest(flows=flows[begin:begin + FLOWS_AT_ONCE])
            with translated("policy: explain"):
                found += (await self._policies.Explain(request, timeout=TIMEOUT)).explanations
        return found

    async def answers(self, flows: Iterable[Flow]) -> dict[Flow, Answer]:
        """The same for flows between pods."""
        asked = list(flows)
        found = await self.explain([policy_pb2.Flow(
            source=policy_pb2.Peer(pod=flow.source), destination=policy_pb2.Peer(pod=flow.destination),
            protocol=flow.port.protocol, port=flow.port.port) for flow in asked])
        return {flow: answer_of(explanation) for flow, explanation in zip(asked, found, strict=True)}

    async def apply_inventory(self, namespaces: Sequence[endpoint_pb2.Namespace],
                              nodes: Sequence[endpoint_pb2.Node]) -> None:
        """Store namespaces and nodes, as what pods and addresses are decided by."""
        if namespaces:
            with translated("endpoint: apply namespaces"):
                await self._endpoints.ApplyNamespaces(endpoint_pb2.ApplyNamespacesRequest(namespaces=namespaces),
                                                      timeout=TIMEOUT)
        if nodes:
            with translated("endpoint: apply nodes"):
                await self._endpoints.ApplyNodes(endpoint_pb2.ApplyNodesRequest(nodes=nodes), timeout=TIMEOUT)

    async def delete_inventory(self, namespaces: Sequence[str], nodes: Sequence[str]) -> None:
        """Forget namespaces and nodes, by name."""
        if namespaces:
            with translated("endpoint: delete namespaces"):
                await self._endpoints.DeleteNamespaces(endpoint_pb2.DeleteNamespacesRequest(names=namespaces),
                                                       timeout=TIMEOUT)
        if nodes:
            with translated("endpoint: delete nodes"):
                await self._endpoints.DeleteNodes(endpoint_pb2.DeleteNodesRequest(names=nodes), timeout=TIMEOUT)

    async def nodes(self) -> dict[str, endpoint_pb2.Node]:
        """The stored nodes, by name."""
        found = {}
        stream = self._endpoints.WatchInventory(endpoint_pb2.WatchInventoryRequest(), timeout=TIMEOUT)
        with translated("endpoint: watch inventory"):
            async for response in stream:
                found.update({change.node.name: change.node for change in response.changes
                              if change.WhichOneof("object") == "node"})
                if response.snapshot_complete:
                    break
        stream.cancel()
        return found

    async def apply_pods(self, pods: Sequence[endpoint_pb2.Pod]) -> None:
        """Store pods."""
        with translated("endpoint: apply pods"):
            await self._endpoints.ApplyPods(endpoint_pb2.ApplyPodsRequest(pods=pods), timeout=TIMEOUT)

    async def delete_pods(self, pods: Sequence[endpoint_pb2.PodRef]) -> None:
        """Forget pods."""
        with translated("endpoint: delete pods"):
            await self._endpoints.DeletePods(endpoint_pb2.DeletePodsRequest(pods=pods), timeout=TIMEOUT)

    async def pods(self) -> Sequence[endpoint_pb2.Pod]:
        """The stored pods."""
        with translated("endpoint: list pods"):
            return (await self._endpoints.ListPods(endpoint_pb2.ListPodsRequest(), timeout=TIMEOUT)).pods

    async def endpoints(self) -> list[endpoint_pb2.WorkloadEndpoint]:
        """All records of endpoints."""
        records: list[endpoint_pb2.WorkloadEndpoint] = []
        request = endpoint_pb2.ListRequest(page_size=RECORDS_AT_ONCE)
        while True:
            with translated("endpoint: list"):
                answer = await self._endpoints.List(request, timeout=TIMEOUT)
            records += answer.endpoints
            if not answer.next_page_token:
                return records
            request.page_token = answer.next_page_token

    async def policy_status(self) -> policy_pb2.GetStatusResponse:
        """How far nodes lag, and where each policy is enforced."""
        with translated("policy: status"):
            return await self._policies.GetStatus(policy_pb2.GetStatusRequest(), timeout=TIMEOUT)

    async def node_status(self) -> node_pb2.GetStatusResponse:
        """What the node runs and enforces."""
        with translated("node: status"):
            return await self._node.GetStatus(node_pb2.GetStatusRequest(), timeout=TIMEOUT)


@asynccontextmanager
async def services(run: Path) -> AsyncIterator[Services]:
    """The services of the `muslin up` on a run directory, or elsewhere. Raises Unavailable if there are none."""
    if elsewhere("policy") and elsewhere("endpoint"):
        state = Path(os.environ.get("MUSLIN_STATE") or DEFAULT_STATE)
    else:
        state = Path(require_up(run).state)
    async with AsyncExitStack() as stack:
        opened = Services(Places(run, state), stack)
        await opened.connect()
        yield opened


def answer_of(explanation: policy_pb2.Explanation) -> Answer:
    """Verdict and reason of an explanation: that of the step that denied, or of all that allowed."""
    allowed = explanation.verdict == policy_pb2.VERDICT_ALLOW
    steps = explanation.steps if allowed else explanation.steps[-1:]
    return Answer(allowed, "; ".join(step.reason for step in steps) or "nothing decides")
