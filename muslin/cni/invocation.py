"""One CNI call, understood: what every service of the chain starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from muslin.api.cni.v1 import cni_pb2
from muslin.cni import args, context, names, netconf, result
from muslin.cni.context import Context
from muslin.cni.netconf import NetConf
from muslin.cni.result import Result
from muslin.errors import InvalidArgument

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9.\-]*[a-z0-9])?")


@dataclass(frozen=True)
class Invocation:
    """A call with its configuration, arguments, result so far and context decoded."""

    attachment: cni_pb2.Attachment
    """Network, container id and interface name: the identity."""
    netns: str
    """Path of the namespace; may be empty for DEL."""
    node: str
    """Node that the call comes from."""
    conf: NetConf
    args: Mapping[str, str]
    result: Result
    context: Context

    @classmethod
    def parse(cls, call: cni_pb2.Call, node: str) -> Invocation:
        """Decode a call that came from a node.

        Raises:
            Corrupt, InvalidArgument: naming what is wrong.
        """
        conf = netconf.parse(call.config)
        if not _CONTAINER_ID.fullmatch(call.container_id):
            raise InvalidArgument(f"CNI_CONTAINERID {call.container_id!r} must match {_CONTAINER_ID.pattern}")
        if not valid_interface_name(call.ifname):
            raise InvalidArgument(f"CNI_IFNAME {call.ifname!r} is not a name for an interface: 1 to 15 bytes, no '/', "
                                  "':' or white space")
        pairs = args.parse(call.args)
        for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"):
            if (value := pairs.get(key, "")) and (len(value) > 253 or not _KUBERNETES_NAME.fullmatch(value)):
                raise InvalidArgument(f"CNI_ARGS: {key} {value!r} is not a Kubernetes name")
        return cls(
            attachment=cni_pb2.Attachment(network=conf.name, container_id=call.container_id, ifname=call.ifname),
            netns=call.netns,
            node=node,
            conf=conf,
            args=pairs,
            result=result.parse(call.result),
            context=context.parse(call.context),
        )

    @property
    def network(self) -> str:
        """Network name."""
        return self.attachment.network

    @property
    def container_id(self) -> str:
        """Container (sandbox) id."""
        return self.attachment.container_id

    @property
    def ifname(self) -> str:
        """Interface name in the container."""
        return self.attachment.ifname

    @property
    def kubernetes(self) -> bool:
        """Whether this is a pod of Kubernetes: both names are in CNI_ARGS."""
        return bool(self.args.get("K8S_POD_NAMESPACE") and self.args.get("K8S_POD_NAME"))

    @property
    def namespace(self) -> str:
        """The pod's namespace; empty outside Kubernetes."""
        return self.args["K8S_POD_NAMESPACE"] if self.kubernetes else ""

    @property
    def pod(self) -> str:
        """The pod's name; empty outside Kubernetes."""
        return self.args["K8S_POD_NAME"] if self.kubernetes else ""

    @property
    def orchestrator(self) -> str:
        """`k8s` or `cni`, as Calico names them."""
        return "k8s" if self.kubernetes else "cni"

    @property
    def workload(self) -> str:
        """`<namespace>.<pod>`, or the container id."""
        return f"{self.namespace}.{self.pod}" if self.kubernetes else self.container_id

    @property
    def host_interface(self) -> str:
        """Name of the host end of the veth: it follows from the call, the same in every service."""
        return names.host_interface(names.prefix(self.conf.type, self.conf.interface_prefix), self.workload,
                                    self.ifname)

    def response(self, answer: Result, handed_on: Context) -> cni_pb2.AddResponse:
        """The answer to ADD, in the configuration's version."""
        return cni_pb2.AddResponse(result=result.render(answer, self.conf.cni_version),
                                   context=context.render(handed_on))


def valid_interface_name(name: str) -> bool:
    """Whether Linux takes it: 1 to 15 bytes, not `.` or `..`, no `/`, `:` or white space (dev_valid_name)."""
    return (0 < len(name.encode()) <= 15 and name not in (".", "..")
            and not any(c in "/:" or c.isspace() for c in name))
