"""The commands `muslin cluster ...`: options and help. What they do is imported when they run."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from muslin.cli.cluster.names import NAMESPACE

__all__ = ["cluster"]

_namespace = click.option("--namespace", default=NAMESPACE, show_default=True, envvar="MUSLIN_NAMESPACE",
                          metavar="NAME", help="Where Muslin is in the cluster.")
_renew = click.option("--renew", type=click.IntRange(1, 3650), default=30, show_default=True, metavar="DAYS",
                      envvar="MUSLIN_CERTS_RENEW", help="Replace what ends within so many days.")
_log_level = click.option("--log-level", default="info", show_default=True, envvar="MUSLIN_LOG_LEVEL",
                          type=click.Choice(("debug", "info", "warning", "error")), help="Least level of the log.")


@click.group()
def cluster() -> None:
    """What runs in pods of a Kubernetes cluster to have Muslin there; the manifests in deploy/ call it."""


@cluster.command()
@_namespace
@click.option("--folder", type=click.Path(path_type=Path), default=Path("/run/muslin/authority"), show_default=True,
              metavar="DIR", help="For keys while they are written: in memory.")
@click.option("--days", type=click.IntRange(2, 3650), default=90, show_default=True, envvar="MUSLIN_CERTS_DAYS",
              help="Life of a certificate.")
@_renew
@click.option("--etcd", default="", envvar="MUSLIN_ETCD", metavar="HOST:PORT[,HOST:PORT...]",
              help="etcd's members, to have certificates and users; none: etcd is somebody else's.")
@_log_level
def authority(namespace: str, folder: Path, days: int, renew: int, etcd: str, log_level: str) -> None:
    """Keep certificates: of services as Secrets, of nodes by answering their certificate signing requests.

    Also etcd's users, and the ConfigMap with the authorities that are trusted.
    """
    from muslin import log
    from muslin.cli import interrupt
    from muslin.cli.cluster import authority as work
    log.setup("muslin-authority", log_level)
    if renew >= days:
        raise click.UsageError("--renew must be less than --days")
    members = tuple(each.strip() for each in etcd.split(",") if each.strip())
    try:
        sys.exit(interrupt.run(work.run(work.Wanted(namespace, folder, days, renew, members))))
    except interrupt.Interrupted:
        sys.exit(0)


@cluster.command()
@_namespace
@click.option("--node", required=True, envvar="MUSLIN_NODE", metavar="NAME", help="Name of this node.")
@click.option("--bin-dir", type=click.Path(path_type=Path), default=Path("/opt/cni/bin"), show_default=True,
              envvar="MUSLIN_CNI_BIN", help="Directory of the host's CNI plugins.")
@click.option("--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True,
              envvar="MUSLIN_CNI_CONF", help="Directory of the host's CNI configurations.")
@click.option("--plugin", type=click.Path(path_type=Path), default=Path("/usr/local/lib/muslin/muslin"),
              show_default=True, help="The plugin to install.")
@click.option("--host", type=click.Path(path_type=Path), default=Path("/"), show_default=True, metavar="DIR",
              help="Where the host's /run, /var/lib and /var/log are.")
@_renew
@click.option("--patience", type=click.FloatRange(1, 600), default=20.0, show_default=True, metavar="SECONDS",
              envvar="MUSLIN_PATIENCE", help="How long to find out, after SIGTERM, whether Muslin is being removed.")
@click.option("--prepare", is_flag=True, help="Only what the daemon needs to start: a certificate, and the plugin.")
@_log_level
def node(namespace: str, node: str, bin_dir: Path, conf_dir: Path, plugin: Path, host: Path, renew: int,
         patience: float, prepare: bool, log_level: str) -> None:
    """Look after what a node needs besides its daemon.

    The plugin and its configuration, written once the daemon can serve; the node's certificate; and everything removed
    from the node if Muslin is removed from the cluster, which is when its DaemonSet or namespace is deleted.
    """
    stops: list[int] = []
    if not prepare:
        # At once: what is asked of process 1 of a container before it listens is lost.
        signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    from muslin import log
    from muslin.cli import interrupt
    from muslin.cli.cluster import agent
    from muslin.cli.cluster.removal import Directories
    from muslin.cli.install import Places
    log.setup("muslin-agent", log_level)
    wanted = agent.Wanted(
        namespace, node, Places(bin_dir, conf_dir, "muslin"), plugin,
        Directories(run=host / "run/muslin", state=host / "var/lib/muslin", logs=host / "var/log/muslin",
                    etcd=host / "var/lib/muslin-etcd"), renew, patience)
    if prepare:
        interrupt.run(agent.prepare(wanted))
    else:
        sys.exit(agent.serve(wanted, lambda: bool(stops)))
