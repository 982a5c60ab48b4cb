"""`python -m services.node`: run the node daemon."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from muslin import log, rpc
from muslin.cni.names import CALICO_PREFIX, MUSLIN_PREFIX
from muslin.errors import MuslinError
from services.node.app import NodeApp
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
@click.option("--encapsulation", type=click.IntRange(0, 1000), default=0, show_default=True, metavar="BYTES",
              envvar="MUSLIN_ENCAPSULATION", help="What the way between nodes takes of each packet: pods get less.")
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, node: str, ipam: str, endpoint: str,
         policy: str, interface_prefix: tuple[str, ...], uplink: str, encapsulation: int,
         run_dir: Path | None, state: Path) -> None:
    """Wire this node's pods and enforce their policy in its kernel."""
    log.setup("muslin-node", log_level)
    if not all(0 < len(prefix.encode()) < 16 for prefix in interface_prefix):
        raise click.UsageError("--interface-prefix must have 1 to 15 bytes")
    try:
        app = NodeApp(node, {"ipam": ipam, "endpoint": endpoint, "policy": policy}, interface_prefix,
                      Uplink(uplink, encapsulation), run_dir or _beside(listen), state)
    except MuslinError as problem:
        raise click.UsageError(problem.message) from None
    sys.exit(rpc.serve(app, listen, metrics))


def _beside(listen: Sequence[str]) -> Path:
    """The directory of the first unix socket, which is the run directory."""
    sockets = [Path(address.removeprefix("unix:")) for address in listen if address.startswith("unix:")]
    return sockets[0].parent if sockets else Path("/run/muslin")


main()
