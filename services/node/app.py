"""The node daemon as a service: what it opens, starts, serves and leaves behind."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from prometheus_client import REGISTRY

from muslin import rpc
from muslin.api.node.v1 import node_pb2, node_pb2_grpc
from muslin.rpc import Readiness
from services.node.across.service import Across, Settings
from services.node.attachments import Attachments
from services.node.counters import DropsCollector
from services.node.enforce.state import Claim
from services.node.enforcer import Enforcer
from services.node.forward import PACKAGES, Forwarder
from services.node.iptables import Iptables, keep_open
from services.node.kernel import Kernel
from services.node.nft.connection import Nftables
from services.node.plugin import Plugin
from services.node.server import NodeServer
from services.node.subscription import subscribe
from services.node.tracing import Tracer
from services.node.upkeep.events import Monitor
from services.node.upkeep.service import Upkeep
from services.node.uplink import Uplink

__all__ = ["NodeApp"]

log = logging.getLogger(__name__)


class NodeApp(rpc.App):
    """Wires pods, enforces their policy, passes calls on. Stopping it changes nothing in the kernel."""

    name = "muslin-node"

    def __init__(self, node: str, targets: Mapping[str, str], prefixes: Sequence[str], uplink: Uplink,
                 run: Path, state: Path, between: Settings) -> None:
        """`targets` by service: ipam, endpoint, policy. `prefixes` begin the names of workload interfaces.

        Below `run`, which is in memory, lies what is known of each attachment; below `state` deletions that wait.
        `between` is how the node takes part in the ways between nodes.
        """
        super().__init__()
        self._uplink = uplink
        self.node = node
        self._targets = dict(targets)
        self._prefixes = tuple(prefixes)
        self._run, self._state = run, state
        self._between = between
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._readiness = Readiness()
        self.attachments = Attachments()
        self._nft: Nftables | None = None
        self._forwarder: Forwarder | None = None

    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Serve muslin.node.v1, and pass the other services' packages on."""
        self._nft = Nftables()
        self._enforcer = Enforcer(self._nft, self._prefixes)
        self._dropped = DropsCollector(self._nft, lambda: self._enforcer.state)
        self._iptables = Iptables(self._nft, self._prefixes)
        self._monitor = Monitor()
        self._kernel = Kernel(self._monitor, self._uplink)
        self._channels = {service: rpc.channel(target, self.node) for service, target in self._targets.items()}
        self.upkeep = Upkeep(self.node, self._channels, self._kernel, self._enforcer, self.attachments, self._monitor,
                             self._run, self._state)
        self.across = Across(self.node, self._channels, self._kernel, self._nft, self._prefixes, self._uplink,
                             self._between, self._trouble)
        plugin = Plugin(self.node, self._kernel, self._enforcer, self.attachments, self.upkeep, self._prefixes)
        node_pb2_grpc.add_PluginServicer_to_server(plugin, server)
        own = NodeServer(self.status, self._enforcer, Tracer(self._enforcer))
        node_pb2_grpc.add_NodeServicer_to_server(own, server)
        self._forwarder = Forwarder(
            self.node, {PACKAGES[service]: channel for service, channel in self._channels.items()}, self.upkeep.gate)
        server.add_generic_rpc_handlers((self._forwarder,))
        return "muslin.node.v1.Plugin", "muslin.node.v1.Node"

    async def start(self, readiness: Readiness) -> None:
        """Adopt what is wired, and follow the program.

        Raises:
            KernelError: netlink or nf_tables can not be used; root is needed.
        """
        self._readiness = readiness
        self._monitor.start()
        for name in await self._kernel.remove_unfinished():
            log.info("removed veth %s, which an earlier run did not finish", name)
        self.upkeep.adopt(await self._kernel.owned(), readiness)
        claims = [Claim(*wired) for wired in self.attachments.interfaces.items()]
        await self._enforcer.start(claims, readiness.part("kernel"))
        log.info("adopted attachments=%d", len(claims))
        REGISTRY.register(self._dropped)
        for channel in self._channels.values():
            channel.get_state(try_to_connect=True)  # warm before the first pod needs it
        self.tasks.spawn("enforcer", self._enforcer.run())
        self.tasks.spawn("unwiring", self._kernel.remove())
        self.tasks.spawn("iptables", keep_open(self._iptables))
        self.tasks.spawn("program", subscribe(self._channels["policy"], self.node, self._enforcer,
                                              readiness.part("policy stream")))
        self.upkeep.start(self.tasks)
        await self.across.start(self.tasks)

    async def stop(self) -> None:
        """Close everything of ours. Pods stay wired and rules in force."""
        try:
            REGISTRY.unregister(self._dropped)
        except KeyError:
            pass  # it did not come to be started
        await self.attachments.aclose()
        await self.tasks.aclose()
        await self._enforcer.aclose()
        await self._kernel.aclose()
        self._monitor.close()
        if self._forwarder is not None:
            await self._forwarder.aclose()
        for channel in self._channels.values():
            await channel.close()
        if self._nft is not None:
            self._nft.close()

    def _trouble(self) -> str:
        """Why an ADD would not be served now; empty if it would."""
        return "; ".join(f"{part.name}: {part.message}" for part in self._readiness.parts.values() if not part.ready)

    def status(self) -> node_pb2.GetStatusResponse:
        """What the node runs and enforces, and what is amiss."""
        waiting = self.upkeep.waiting
        return node_pb2.GetStatusResponse(
            node=self.node,
            attachments=[a.to_message() for a in sorted(self.attachments.interfaces)],
            enforced_revision=self._enforcer.revision,
            parts=[node_pb2.Part(name=p.name, ready=p.ready, message=p.message)
                   for p in self._readiness.parts.values()],
            deletions=node_pb2.Deletions(waiting=waiting.count, oldest_seconds=waiting.oldest_seconds,
                                         failed=waiting.failed),
            problems=[*self.upkeep.problems, *self.across.problems])
