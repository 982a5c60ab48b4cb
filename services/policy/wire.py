"""Between the protocol's messages and the values of the core."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.errors import Corrupt
from services.policy.explain import Explanation, Step
from services.policy.model import PROTOCOLS, Action, Attachment, Direction, Endpoint, NamedPort
from services.policy.program import (
    CompiledEndpoint,
    CompiledPolicy,
    CompiledRule,
    Group,
    GroupKind,
    TierPolicies,
    Update,
)
from services.policy.sources import Status
from services.policy.status import Where
from services.policy.streams import Stream

_ACTIONS = {
    Action.ALLOW: policy_pb2.ACTION_ALLOW,
    Action.DENY: policy_pb2.ACTION_DENY,
    Action.PASS: policy_pb2.ACTION_PASS,
    Action.LOG: policy_pb2.ACTION_LOG,
}
_KINDS = {GroupKind.ADDRESS: policy_pb2.Group.KIND_ADDRESS, GroupKind.PORT: policy_pb2.Group.KIND_PORT}
_DIRECTIONS = {
    Direction.INGRESS: policy_pb2.DIRECTION_INGRESS,
    Direction.EGRESS: policy_pb2.DIRECTION_EGRESS,
}
_VERDICTS = {
    None: policy_pb2.VERDICT_UNSPECIFIED,
    True: policy_pb2.VERDICT_ALLOW,
    False: policy_pb2.VERDICT_DENY,
}


def attachment(message: cni_pb2.Attachment) -> Attachment:
    """The value of a message."""
    return Attachment(message.network, message.container_id, message.ifname)


def endpoint(message: endpoint_pb2.WorkloadEndpoint) -> Endpoint:
    """What policy needs of a record.

    Raises:
        Corrupt: it could not be enforced: no name for an interface, an address that is none, an unknown protocol.
    """
    name = f"endpoint {'/'.join(attachment(message.attachment))}"
    if not 0 < len(message.host_interface.encode()) < 16:
        raise Corrupt(f"{name}: host_interface {message.host_interface!r} has not 1 to 15 bytes")
    try:
        addresses = tuple(str(ipaddress.ip_address(address)) for address in message.addresses)
        ports = tuple(NamedPort(port.name, PROTOCOLS[port.protocol], port.port) for port in message.ports)
    except ValueError as problem:
        raise Corrupt(f"{name}: {problem}") from None
    except KeyError as problem:
        raise Corrupt(f"{name}: protocol {problem} of a port is none of {', '.join(PROTOCOLS)}") from None
    return Endpoint(
        attachment=attachment(message.attachment),
        node=message.node,
        interface=message.host_interface,
        workload=f"{message.namespace}/{message.pod}" if message.pod else message.workload,
        namespace=message.namespace,
        orchestrator=message.orchestrator,
        service_account=message.service_account,
        labels=dict(message.labels),
        addresses=addresses,
        profiles=tuple(message.profiles),
        ports=ports,
        revision=message.revision,
    )


def subscribe_response(update: Update, revision: int, *, snapshot: bool,
                       resume: str) -> policy_pb2.SubscribeResponse:
    """The message of an update."""
    return policy_pb2.SubscribeResponse(
        revision=revision,
        snapshot=snapshot,
        resume=resume,
        groups=map(_group, update.groups),
        group_changes=[policy_pb2.GroupChange(id=change.id, added=change.added, removed=change.removed)
                       for change in update.group_changes],
        policies=map(_policy, update.policies),
        endpoints=map(_endpoint, update.endpoints),
        removed_groups=update.removed_groups,
        removed_policies=update.removed_policies,
        removed_endpoints=map(_attachment, update.removed_endpoints),
    )


def _attachment(value: Attachment) -> cni_pb2.Attachment:
    return cni_pb2.Attachment(network=value.network, container_id=value.container_id, ifname=value.ifname)


def _group(value: Group) -> policy_pb2.Group:
    return policy_pb2.Group(id=value.id, kind=_KINDS[value.kind], members=sorted(value.members),
                            selector=value.selector)


def _policy(value: CompiledPolicy) -> policy_pb2.Policy:
    return policy_pb2.Policy(id=value.id, name=value.name, ingress=map(_rule, value.ingress),
                             egress=map(_rule, value.egress), origin=value.origin,
                             log_denied=value.log_denied)


def _rule(value: CompiledRule) -> policy_pb2.Rule:
    return policy_pb2.Rule(
        action=_ACTIONS[value.action],
        protocol=value.protocol,
        peer_group=value.peer_group,
        nets=value.nets,
        not_nets=value.not_nets,
        ports=[policy_pb2.PortRange(first=first, last=last) for first, last in value.ports],
        port_group=value.port_group,
        path=value.path,
    )


def _endpoint(value: CompiledEndpoint) -> policy_pb2.Endpoint:
    return policy_pb2.Endpoint(
        attachment=_attachment(value.attachment),
        interface=value.interface,
        addresses=value.addresses,
        ingress=_tiers(value.ingress),
        egress=_tiers(value.egress),
        profiles=value.profiles,
        workload=value.workload,
    )


def _tiers(tiers: Iterable[TierPolicies]) -> list[policy_pb2.TierPolicies]:
    return [policy_pb2.TierPolicies(tier=tier.tier, policies=tier.policies) for tier in tiers]


def explanation(value: Explanation) -> policy_pb2.Explanation:
    """The message of an answer."""
    return policy_pb2.Explanation(verdict=_VERDICTS[value.allowed], steps=map(_step, value.steps))


def _step(value: Step) -> policy_pb2.Step:
    return policy_pb2.Step(
        endpoint=value.endpoint,
        direction=_DIRECTIONS[value.direction],
        tier=value.tier,
        policy=value.policy,
        rule=value.rule,
        verdict=_VERDICTS[value.allowed],
        reason=value.reason,
        origin=value.origin,
    )


def node_status(node: str, endpoints: int, stream: Stream | None) -> policy_pb2.NodeStatus:
    """The message of a node's state; without a stream it is not subscribed here."""
    if stream is None:
        return policy_pb2.NodeStatus(node=node, endpoints=endpoints)
    return policy_pb2.NodeStatus(
        node=node,
        connected=True,
        connected_seconds=stream.age,
        sent_revision=stream.revision,
        acknowledged_revision=stream.acknowledged,
        lag_seconds=stream.lag,
        pending=stream.pending,
        endpoints=endpoints,
        resumed=stream.resumed,
    )


def policy_status(item: Status, ref: policy_pb2.ObjectRef, conditions: Iterable[policy_pb2.Condition],
                  where: Where) -> policy_pb2.PolicyStatus:
    """The message of what has become of an object."""
    return policy_pb2.PolicyStatus(
        object=ref,
        origin=item.origin,
        accepted=item.accepted,
        conditions=conditions,
        policy=item.policy,
        closed=item.closed,
        enforced_nodes=where.enforced,
        pending_nodes=where.pending,
    )
