"""`python -m services.node`: run the node daemon."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from muslin import log, rpc
from muslin.cni.names import CALICO_PREFIX, MUSLIN_PREFIX
from muslin.errors import MuslinError
from services.node.across.plan import Encapsulation
from services.node.across.service import ABSENT_SECONDS, PORT, VNI, Settings
from services.node.app import NodeApp
from services.node.netlink.network import IPAddress
from services.node.uplink import Uplink


@click.command()
@rpc.options("unix:/run/muslin/muslin.sock", etcd=False)
@click.option("--node", default=socket.gethostname, show_default="this host's name", envvar="MUSLIN_NODE",
              metavar="NAME", help="Name of this node.")
@click.option("--ipam", default="unix:/run/muslin/ipam.sock", show_default=True, envvar="MUSLIN_IPAM",
              metavar="TARGET", help="Where calls for muslin.ipam.v1 are passed on to.")
@click.option("--endpoint", default="unix:/run/muslin/endpoint.sock", show_default=True, envvar="MUSLIN_ENDPOINT",
              metavar="TARGET", help="The same for muslin.endpoint.v1.")
@click.option("--policy", default="unix:/run/muslin/policy.sock", show_default=True, envvar="MUSLIN_POLICY",
              metavar="TARGET", help="The same for muslin.policy.v1, and where this node's program comes from.")
@click.option("--run-dir", type=click.Path(path_type=Path), default=None, envvar="MUSLIN_RUN_DIR", metavar="DIR",
              show_default="where the first unix socket is, else /run/muslin",
              help="Where it is noted what is wired; gone with the machine's uptime.")
@click.option("--state", type=click.Path(path_type=Path), default="/var/lib/muslin", show_default=True,
              envvar="MUSLIN_STATE", metavar="DIR", help="Where the plugin puts deletions that wait for a service.")
@click.option("--interface-prefix", multiple=True, default=(CALICO_PREFIX, MUSLIN_PREFIX), show_default=True,
              metavar="PREFIX", help="Interfaces so named are dropped until a policy for them is in; repeatable.")
@click.option("--uplink", default="", envvar="MUSLIN_UPLINK", metavar="INTERFACE", show_default="the default route's",
              help="Interface whose MTU is that of pods, where the configuration says none.")
@click.option("--overhead", type=click.IntRange(0, 1000), default=None, metavar="BYTES", envvar="MUSLIN_OVERHEAD",
              show_default="what VXLAN needs, where it is used",
              help="What the way between nodes takes of each packet: pods get less.")
@click.option("--node-address", multiple=True, envvar="MUSLIN_NODE_ADDRESS", metavar="ADDRESS",
              show_default="the source address of the default route",
              help="What other nodes reach this one by; one of each family, repeatable, or with commas between.")
@click.option("--encapsulation", type=click.Choice([str(mode) for mode in Encapsulation]), default="none",
              show_default=True, envvar="MUSLIN_ENCAPSULATION",
              help="How packets get to other nodes, where a pool does not say: by their link, in VXLAN, or in VXLAN to "
                   "nodes beyond a router only.")
@click.option("--vxlan-vni", type=click.IntRange(1, 0xFFFFFF), default=VNI, show_default=True,
              envvar="MUSLIN_VXLAN_VNI", metavar="NUMBER", help="Network identifier of VXLAN; the same on all nodes.")
@click.option("--vxlan-port", type=click.IntRange(1, 0xFFFF), default=PORT, show_default=True,
              envvar="MUSLIN_VXLAN_PORT", metavar="PORT", help="UDP port of VXLAN; the same on all nodes.")
@click.option("--absent-after", type=click.FloatRange(2, 3600), default=ABSENT_SECONDS, show_default=True,
              envvar="MUSLIN_ABSENT_AFTER", metavar="SECONDS",
              help="How long a node that does not announce itself counts as present; after as long again it is asked, "
                   "and if it does not answer the ways to it are taken away.")
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, node: str, ipam: str, endpoint: str,
         policy: str, interface_prefix: tuple[str, ...], uplink: str, overhead: int | None,
         node_address: tuple[str, ...], encapsulation: str, vxlan_vni: int, vxlan_port: int, absent_after: float,
         run_dir: Path | None, state: Path) -> None:
    """Wire this node's pods and enforce their policy in its kernel."""
    log.setup("muslin-node", log_level)
    if not all(0 < len(prefix.encode()) < 16 for prefix in interface_prefix):
        raise click.UsageError("--interface-prefix must have 1 to 15 bytes")
    try:
        app = NodeApp(node, {"ipam": ipam, "endpoint": endpoint, "policy": policy}, interface_prefix,
                      Uplink(uplink, overhead), run_dir or _beside(listen), state, Settings(
                          _addresses(node_address), Encapsulation(encapsulation), vxlan_vni, vxlan_port, absent_after))
    except MuslinError as problem:
        raise click.UsageError(problem.message) from None
    sys.exit(rpc.serve(app, listen, metrics))


def _addresses(given: Sequence[str]) -> dict[int, IPAddress]:
    """By family. Raises UsageError."""
    found: dict[int, IPAddress] = {}
    for text in [part.strip() for each in given for part in each.split(",") if part.strip()]:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as problem:
            raise click.UsageError(f"--node-address: {problem}") from None
        if address.version in found:
            raise click.UsageError(f"--node-address {text} is the second of its family: name one of each")
        found[address.version] = address
    return found


def _beside(listen: Sequence[str]) -> Path:
    """The directory of the first unix socket, which is the run directory."""
    sockets = [Path(address.removeprefix("unix:")) for address in listen if address.startswith("unix:")]
    return sockets[0].parent if sockets else Path("/run/muslin")


main()
