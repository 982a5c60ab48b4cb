"""The command `muslin`: options and help. What a command does is in a module that is imported when it runs."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from muslin.cli.cluster.group import cluster
from muslin.cli.completion import completion
from muslin.cli.endpoint.group import endpoint
from muslin.cli.ipam.group import ipam
from muslin.cli.node.group import node
from muslin.cli.options import run_dir as _run_dir
from muslin.cli.places import DEFAULT_STATE, Places
from muslin.cli.policy.group import complete_pods, policy
from muslin.options import etcd_members, tls_files

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
"""The clone that this is installed from."""
PLUGINS = ROOT / "build/cni"
NODE_PLUGINS = ("/opt/cni/bin", str(PLUGINS))
"""Where plugins are on other machines, if nobody says otherwise."""
"""Where `make setup` puts the plugin."""

Command = TypeVar("Command", bound=Callable[..., Any])

_output = click.option("-o", "--output", type=click.Choice(("text", "json")), default="text",
                       help="Format of the result.")
_files = click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE",
                      help="YAML file or directory, - for standard input; repeatable.")


def _root(command: Command) -> Command:
    """Refuse to run without the rights that namespaces and nf_tables need."""
    @functools.wraps(command)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if os.geteuid():
            raise click.ClickException("needs root, for network namespaces and nf_tables; try it with sudo")
        return command(*args, **kwargs)
    return checked  # type: ignore[return-value]  # the same signature, which wraps() can not say


class _Group(click.Group):
    """Turns errors of ours into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from muslin.cli.interrupt import Interrupted
            from muslin.errors import MuslinError
            if isinstance(error, MuslinError | OSError):
                raise click.ClickException(str(error)) from error
            if isinstance(error, Interrupted):
                print(f"muslin: {error}", file=sys.stderr)
                ctx.exit(error.exit_code)
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="muslin", message="%(prog)s %(version)s")
@tls_files("tls", "Certificate shown to services elsewhere, such as that of the operator.",
           "Authorities that are trusted on TCP.")
def cli(tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None) -> None:
    """A pod network for Kubernetes made of small services, run and tried on one machine.

    \b
    muslin up                                the services and an embedded etcd
    muslin play examples/three-tier --keep   pods from Kubernetes YAML; who reaches whom
    muslin apply -f policy.yaml              change policy; then: muslin probe
    muslin explain web/gateway-1 data/redis --port 6379
    muslin ipam show                         how full the address pools are
    muslin endpoint list                     what is attached to the network
    muslin node list                         nodes, and what they have of the pools
    muslin policy explain 10.0.0.0/8 data/redis    which line of which file decides; also matrix, test, lint
    muslin down                              stop, and remove everything

    Services that are not of `muslin up` are named by MUSLIN_IPAM, MUSLIN_ENDPOINT and
    MUSLIN_POLICY, each host:port, several with commas between; they want --tls-...

    Exit codes: 0 success, 1 an error, 2 wrong usage, 3 what was checked is not as it
    should be.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are
    from muslin.tls import named
    if files := named(tls_cert, tls_key, tls_ca, "tls"):
        from muslin.rpc import tls
        tls.use(files)


@cli.command()
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_STATE, show_default=True,
              envvar="MUSLIN_STATE", help="Directory of etcd's data, logs and records of plays; kept over restarts.")
@_run_dir
@click.option("--node", default=lambda: os.uname().nodename, metavar="NAME",
              help="Name of this node.  [default: the host's]")
@click.option("--pool", default="", metavar="CIDR",
              help="Range that pods get addresses from, if there is no pool yet.  [default: the address manager's]")
@click.option("--kubeconfig", default="", envvar="MUSLIN_KUBECONFIG", metavar="PATH",
              help="Follow the API server of this file's current context.")
@click.option("--log-level", type=click.Choice(("debug", "info", "warning", "error")), default="info",
              show_default=True, help="Of the services' logs, in STATE/logs.")
@click.option("--detach", is_flag=True, help="Return when everything is healthy, and leave it running.")
@click.option("--ready-fd", type=int, hidden=True)
@_root
def up(state: Path, run_dir: Path, node: str, pool: str, kubeconfig: str, log_level: str, detach: bool,
       ready_fd: int | None) -> None:
    """Start etcd and the four services; stop them with Ctrl-C, SIGTERM or `muslin down`.

    A service that dies is started again. Pods of a kept play outlive it; `muslin down` removes them.
    """
    from muslin.cli import embedded, interrupt, lifecycle
    places = Places(run_dir.absolute(), state.absolute())
    kubeconfig = str(Path(kubeconfig).absolute()) if kubeconfig else ""
    if detach:
        lifecycle.up_detached(places, [
            f"--state={places.state}", f"--run-dir={places.run}", f"--node={node}", f"--pool={pool}",
            f"--kubeconfig={kubeconfig}", f"--log-level={log_level}"])
        return
    try:
        interrupt.run(lifecycle.up(places, embedded.Options(node, pool, log_level, kubeconfig=kubeconfig), ready_fd))
    except interrupt.Interrupted as stop:
        print(f"muslin: {stop}, everything is stopped", file=sys.stderr)


@cli.command()
@_run_dir
@click.option("--state", type=click.Path(path_type=Path, file_okay=False),
              help="State directory.  [default: that of the last `muslin up`]")
@_root
def down(run_dir: Path, state: Path | None) -> None:
    """Stop `muslin up`, remove played pods, and all links and tables of Muslin's. Harmless if there is nothing."""
    from muslin.cli import interrupt, lifecycle
    interrupt.run(lifecycle.down(run_dir.absolute(), state.absolute() if state else None))


@cli.command()
@_run_dir
@_output
@_root
def status(run_dir: Path, output: str) -> NoReturn:
    """Show what runs and whether it is healthy. Exit code 0 if everything is."""
    from muslin.cli import interrupt, lifecycle
    sys.exit(interrupt.run(lifecycle.status(run_dir.absolute(), output)))


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--conf", metavar="FILE", help="CNI configuration (.conf or .conflist).  [default: Muslin's own]")
@click.option("--bin-dir", "bin_dirs", multiple=True, metavar="DIR",
              help="Directory of CNI plugins; repeatable.  [default: build/cni of the clone]")
@click.option("--keep", is_flag=True, help="Leave the pods running, for `muslin probe`, until `muslin down`.")
@click.option("--node", "nodes", multiple=True, metavar="NAME=COMMAND",
              help="Play on this node, which COMMAND runs a command on, such as 'node1=docker exec -i node1'; "
                   "repeatable. Pods go where their spec.nodeName says, the others in turn.")
@click.option("--agent", "agent", default="", envvar="MUSLIN_PLAY_AGENT", metavar="COMMAND",
              help="What runs a play's agent on a node.  [default: python3 -m muslin.cli.play.agent]")
@_run_dir
@_output
@_root
def play(files: tuple[str, ...], conf: str | None, bin_dirs: tuple[str, ...], keep: bool, nodes: tuple[str, ...],
         agent: str, run_dir: Path, output: str) -> NoReturn:
    """Play kubelet: make pods from Kubernetes YAML, and probe who reaches whom with real packets.

    FILEs are YAML files or directories of Namespaces, Nodes, Pods and NetworkPolicies. Each Pod gets a network
    namespace and is attached by the CNI plugin, with a small listener on each of its container ports. Then every pair
    of pods is probed on every port, and each result compared with what Explain says: a difference is exit code 3. Needs
    `muslin up`, or the services elsewhere (MUSLIN_ENDPOINT, MUSLIN_POLICY).
    """
    from muslin.cli import interrupt
    from muslin.cli.play import command
    if nodes:
        if keep:
            raise click.UsageError("--keep and --node do not go together: pods on nodes go when the play ends")
        sys.exit(interrupt.run(command.play_on_nodes(
            run_dir.absolute(), files, conf, list(bin_dirs) or list(NODE_PLUGINS), nodes=nodes, agent_command=agent,
            output=output)))
    sys.exit(interrupt.run(command.play(run_dir.absolute(), files, conf, list(bin_dirs) or [str(PLUGINS)], keep=keep,
                                        output=output)))


@cli.command()
@click.option("--watch", is_flag=True, help="Probe again and again and show each change, until Ctrl-C.")
@_run_dir
@_output
@_root
def probe(watch: bool, run_dir: Path, output: str) -> NoReturn:
    """Probe the pods of kept plays again."""
    from muslin.cli import interrupt
    from muslin.cli.play import command
    try:
        sys.exit(interrupt.run(command.probe(run_dir.absolute(), watch=watch, output=output)))
    except interrupt.Interrupted:
        if not watch:
            raise
        sys.exit(0)


@cli.command()
@_files
@_run_dir
@_root
def apply(files: tuple[str, ...], run_dir: Path) -> None:
    """Create or change Namespaces, Nodes, NetworkPolicies and what is known of Pods; in force within a second."""
    from muslin.cli import change, interrupt
    interrupt.run(change.apply(run_dir.absolute(), files))


@cli.command()
@_files
@_run_dir
@_root
def delete(files: tuple[str, ...], run_dir: Path) -> None:
    """Remove what the files declare. Pods of a kept play are stopped."""
    from muslin.cli import change, interrupt
    interrupt.run(change.delete(run_dir.absolute(), files))


@cli.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Destination port.")
@click.option("--proto", type=click.Choice(("tcp", "udp", "sctp"), case_sensitive=False), default="tcp",
              show_default=True, help="Protocol.")
@_run_dir
@_root
def explain(source: str, destination: str, port: int, proto: str, run_dir: Path) -> NoReturn:
    """Say which policy and rule decide a flow, and why. FROM and TO are NAMESPACE/POD or IP addresses."""
    from muslin.cli import change, interrupt
    sys.exit(interrupt.run(change.explain(run_dir.absolute(), source, destination, port, proto)))


@cli.group()
def trace() -> None:
    """Packets that policy drops, as they happen and as they are counted; and what a pod is connected to."""


@trace.command("pod")
@click.argument("workload", metavar="NAMESPACE/POD", shell_complete=complete_pods)
@click.option("--count", type=click.IntRange(0), default=0, metavar="NUMBER", help="End after so many packets.")
@_run_dir
@_output
@_root
def trace_pod(workload: str, count: int, run_dir: Path, output: str) -> NoReturn:
    """Show what is dropped of a pod from now on, with the policy and rule that did it, until Ctrl-C.

    Of each cause at most 50 packets a second are shown. It costs nothing when nobody watches. -o json prints a line of
    JSON for each packet.
    """
    from muslin.cli import interrupt
    from muslin.cli import trace as tracing
    try:
        sys.exit(interrupt.run(tracing.pod(run_dir.absolute(), workload, count=count, output=output)))
    except interrupt.Interrupted:
        sys.exit(0)


@trace.command("drops")
@click.argument("workload", metavar="[NAMESPACE/POD]", default="",
                shell_complete=complete_pods)
@_run_dir
@_output
@_root
def trace_drops(workload: str, run_dir: Path, output: str) -> NoReturn:
    """Show how many packets were dropped, by pod and by what decided."""
    from muslin.cli import interrupt
    from muslin.cli import trace as tracing
    sys.exit(interrupt.run(tracing.drops(run_dir.absolute(), workload, output=output)))


@trace.command("flows")
@click.argument("workload", metavar="NAMESPACE/POD", shell_complete=complete_pods)
@_run_dir
@_output
@_root
def trace_flows(workload: str, run_dir: Path, output: str) -> NoReturn:
    """Show what a pod is connected to now, how much goes that way, and which policy and rule allow it.

    The kernel counts packets of new connections if you say: sysctl net.netfilter.nf_conntrack_acct=1
    """
    from muslin.cli import interrupt
    from muslin.cli import trace as tracing
    sys.exit(interrupt.run(tracing.flows(run_dir.absolute(), workload, output=output)))


cli.add_command(ipam)
cli.add_command(endpoint)
cli.add_command(node)
cli.add_command(policy)
cli.add_command(cluster)
cli.add_command(completion)

_bin_dir = click.option("--bin-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("/opt/cni/bin"),
                        show_default=True, help="Directory of the runtime's CNI plugins.")
_conf_dir = click.option("--conf-dir", type=click.Path(path_type=Path, file_okay=False),
                         default=Path("/etc/cni/net.d"), show_default=True,
                         help="Directory of the runtime's CNI configurations.")
_name = click.option("--name", default="muslin", show_default=True, metavar="NAME",
                     help="Name of the plugin, `type` in configurations; calico takes Calico's place.")


@cli.command()
@_bin_dir
@_conf_dir
@_name
@click.option("--conf", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="CNI configuration (.conf or .conflist).  [default: Muslin's own]")
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("/var/log/muslin"),
              show_default=True, help="Directory of the plugin's log, made if it is not there.")
@click.option("--force", is_flag=True, help="Replace files that are not of our making.")
def install(bin_dir: Path, conf_dir: Path, name: str, conf: Path | None, log_dir: Path, force: bool) -> None:
    """Install the CNI plugin and its configuration for a container runtime.

    Files are replaced in one step, the configuration last, so it may be done while the runtime works. Repeating it
    changes nothing.
    """
    from muslin.cli import install as installing
    places = installing.Places(bin_dir.absolute(), conf_dir.absolute(), name)
    for line in installing.install(places, PLUGINS / "muslin", conf, log_dir, force=force):
        print(line)


@cli.command()
@_bin_dir
@_conf_dir
@_name
@click.option("--force", is_flag=True, help="Remove files that were changed since, too.")
def uninstall(bin_dir: Path, conf_dir: Path, name: str, force: bool) -> None:
    """Remove what `muslin install` installed, the configuration first. Harmless if there is nothing."""
    from muslin.cli import install as installing
    for line in installing.uninstall(installing.Places(bin_dir.absolute(), conf_dir.absolute(), name), force=force):
        print(line)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--node", "nodes", multiple=True, default=("node1", "node2", "node3"), show_default=True,
              envvar="MUSLIN_NODES", metavar="NAME", help="Name of a node; repeatable.")
@click.option("--hosts", multiple=True, metavar="[NAME=]HOST[,HOST...]",
              help="More DNS names or IP addresses at which NAME (a service, etcd member or node), or everybody who "
                   "serves, is reached; repeatable.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Life of a certificate.")
@click.option("--renew", type=click.IntRange(0, 3650), default=30, show_default=True, metavar="DAYS",
              help="Replace what ends within so many days.")
@click.option("--owner", type=(int, int), default=None, metavar="UID GID",
              help="Whose the keys are.  [default: whose they were, else yours]")
def certs(directory: Path, nodes: tuple[str, ...], hosts: tuple[str, ...], days: int, renew: int,
          owner: tuple[int, int] | None) -> None:
    """Make the certificates of a cluster: an authority, etcd members, services, nodes, operator.

    DIR/ca.crt is what everybody trusts; DIR/ca.key signs and should be kept elsewhere. In DIR/NAME are tls.crt, tls.key
    and ca.crt, for the options --tls-cert, --tls-key and --tls-ca of NAME; in DIR/etcd-root those for `muslin
    etcd-auth`. What is valid stays, what soon ends is replaced: repeat it often. Running services take new files
    without a restart.
    """
    from muslin.errors import FailedPrecondition
    try:
        from muslin.cli.certs import directory as files
    except ImportError as problem:
        raise FailedPrecondition(f"{problem}; install it: pip install 'muslin[certs]'") from problem
    from muslin.cli.certs.subjects import subjects
    for line in files.write(directory, subjects(nodes, hosts), days=days, renew=renew, owner=owner):
        print(line)


@cli.command("etcd-auth")
@etcd_members
def etcd_auth(etcd: tuple[str, ...], etcd_cert: Path | None, etcd_key: Path | None, etcd_ca: Path | None) -> None:
    """Have etcd's users: ipam, endpoint and policy may touch their own keys only, everybody else nothing.

    Needs a cluster with --client-cert-auth, and the certificate of `root` (DIR/etcd-root of `muslin certs`). Repeating
    it changes nothing.
    """
    from muslin.cli import interrupt
    from muslin.etcd import Members
    from muslin.etcd.auth import set_up
    from muslin.tls import named
    for line in interrupt.run(set_up(Members.of(etcd, named(etcd_cert, etcd_key, etcd_ca, "etcd")))):
        print(line)
    print("authentication is required")


@cli.command()
@_root
def demo() -> NoReturn:
    """Start everything, play examples/three-tier with Calico's configuration, stop, and leave nothing behind."""
    from muslin.cli import interrupt
    from muslin.cli.demo import demo as perform
    sys.exit(interrupt.run(perform(ROOT)))


def main() -> NoReturn:
    """The console script."""
    cli(prog_name="muslin")
    sys.exit(0)


if __name__ == "__main__":
    main()
