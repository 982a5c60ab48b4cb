"""The commands `muslin policy ...`: options and help. What they do is imported when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from muslin.cli.ipam.options import form, run_dir_default
from muslin.cli.options import run_dir as _run_dir

__all__ = ["complete_pods", "policy"]

UNEXPECTED = 3
"""Exit code where what was checked is not as it should be."""


@click.group()
def policy() -> None:
    """Policy: why a flow is decided as it is, who reaches whom, and checks for CI.

    \b
    muslin policy explain shop/web shop/db --port 5432     the policy, rule and line that decide
    muslin policy explain 10.0.0.0/8 shop/db               which addresses, on which ports
    muslin policy matrix -n shop                           who reaches whom
    muslin policy test checks.yaml                         expected verdicts; needs nothing that runs
    muslin policy lint policies/                           what is likely to be a mistake
    muslin policy status                                   how far nodes lag, and what is in force where

    With -f, explain and matrix judge manifests instead of what runs. Exit code 3 if `test` or `lint` finds something.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are


def complete_pods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of pods, for completion."""
    from muslin.cli.policy import complete
    run = Path(ctx.params.get("run_dir") or run_dir_default()).absolute()
    return [name for name in complete.pods(run) if name.startswith(incomplete)]


def _namespaces(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of namespaces, for completion."""
    return sorted({name.partition("/")[0] for name in complete_pods(ctx, param, "")
                   if name.startswith(incomplete)})


_files = click.option("-f", "--filename", "files", multiple=True, type=click.Path(allow_dash=True), metavar="FILE",
                      help="Judge the manifests of this YAML file or directory (- for standard input) instead of what "
                           "runs; repeatable.")
_pools = click.option("--pool", "pools", multiple=True, metavar="CIDR",
                      help="With -f: range that pods get addresses from whose status tells none; one for each address "
                           "family.  [default: 192.168.0.0/16]")


@policy.command()
@click.argument("source", metavar="FROM", shell_complete=complete_pods)
@click.argument("destination", metavar="TO", shell_complete=complete_pods)
@click.option("--port", type=click.IntRange(1, 65535), help="Destination port.  [default: all of them]")
@click.option("--proto", type=click.Choice(("tcp", "udp", "sctp"), case_sensitive=False),
              help="Protocol.  [default: TCP; without --port, all three]")
@_files
@_pools
@form
@_run_dir
def explain(source: str, destination: str, port: int | None, proto: str | None, **options: Any) -> None:
    """Say which tier, policy and rule decide a flow, and on which line of which file it is written.

    FROM and TO are NAMESPACE/POD, an address or a CIDR. For a CIDR, or without --port, all that is decided alike is
    shown together. Lines are shown where the file is still as it was applied.

    With -o: {"flows": [{"from": [], "to": [], "families": [4, 6], "ports": [{"protocol", "first", "last"}],
    "verdict": "allow", "deny" or "undecided", "steps": [{"endpoint", "direction", "tier", "policy", "rule", "verdict",
    "reason", "object", "origin", "file", "line"}]}]}.
    """
    from muslin.cli import interrupt
    from muslin.cli.policy import commands
    from muslin.cli.policy.explaining import Asked
    asked = Asked(source, destination, port, (proto or "").upper())
    interrupt.run(commands.explain(commands.Where(**_where(options)), asked, options["form"]))


@policy.command()
@click.option("-n", "--namespace", "namespaces", multiple=True, metavar="NAME", shell_complete=_namespaces,
              help="Only pods of this namespace; repeatable.")
@click.option("-l", "--selector", default="", metavar="SELECTOR",
              help="Only pods whose labels this matches, such as \"app == 'web' && !has(canary)\".")
@click.option("--port", "ports", multiple=True, metavar="PORT[/PROTO]",
              help="Ask about this port of every pod, such as 80 or 53/udp; repeatable.  [default: those that each "
                   "pod's manifest declares]")
@click.option("--outside", multiple=True, metavar="ADDRESS", help="An address that sends, too; repeatable.")
@_files
@_pools
@click.option("-o", "--format", "form", type=click.Choice(("table", "json", "yaml", "svg", "png")),
              default="table",
              help="Format of the result: for people, for programs, or a picture.")
@_run_dir
def matrix(namespaces: tuple[str, ...], selector: str, ports: tuple[str, ...], outside: tuple[str, ...],
           **options: Any) -> None:
    """Show who reaches whom: every pair of pods, on every port.

    Rows are senders, columns receivers; a cell has a mark for each port. With -o svg or png it is a picture,
    for a file. Of what runs, ports are known that have names, or that a played pod listens on.

    With -o json: {"pods": [{"pod", "ports": [{"protocol", "port"}]}], "flows": [{"from", "to", "protocol", "port",
    "verdict", "policy", "rule", "reason"}]}.
    """
    from muslin.cli import interrupt
    from muslin.cli.play.flows import PlayedPort
    from muslin.cli.policy import commands
    from muslin.cli.policy.matrix import Selection
    from muslin.selectors import parse
    selection = Selection(namespaces, parse(selector) if selector else None,
                          tuple(PlayedPort(*_port(text)) for text in ports), outside)
    interrupt.run(commands.show_matrix(commands.Where(**_where(options)), selection, options["form"]))


@policy.command()
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@form
def test(file: str, form: str) -> NoReturn:
    """Check expected verdicts, without a kernel and without anything that runs.

    FILE is YAML; - is standard input. Each check says that all flows from any of `from` to any of `to`, on any of
    `port`, have the verdict. Sides are NAMESPACE/POD, a pattern of pods such as "shop/*", an address, or a CIDR, which
    means all of its addresses. Without `port` all ports are meant.

    \b
      apiVersion: muslin/v1
      kind: PolicyTest
      manifests: [policies/]        # files or directories, as seen from FILE
      checks:
        - {from: shop/web, to: shop/db, port: 5432, verdict: allow}
        - {from: "*/*", except: [shop/web], to: shop/db, verdict: deny}
        - {from: 203.0.113.0/24, to: shop/dns, port: 53, protocol: UDP, verdict: deny}

    Further documents of FILE are Kubernetes objects, which count with those of `manifests`. Pods have the addresses of
    their status, or those of `pools` (a list of CIDRs; 192.168.0.0/16 if left out).

    Exit code 3 if a verdict is another than expected; each such flow is shown with the rule that decides it.
    With -o: {"checks": [{"file", "document", "line", "expected", "passed", "failures": as of explain}], "passed"}.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are
    from muslin.cli import interrupt
    from muslin.cli.policy import commands
    sys.exit(0 if interrupt.run(commands.test(file, form)) else UNEXPECTED)


@policy.command()
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.Path(allow_dash=True))
@click.option("--live", is_flag=True, help="Look at what runs instead of files.")
@form
@_run_dir
def lint(files: tuple[str, ...], live: bool, form: str, run_dir: Path) -> NoReturn:
    """Look for what is likely to be a mistake, in YAML files and directories, or in what runs.

    \b
      refused          error    the policy service would not take the object
      not-enforced     warning  a rule, or a part of it, that can not be enforced and is left out
      shadowed         warning  a rule that never decides, because others decide before all that it matches
      matches-nothing  warning  a selector that matches no pod, a name of a port that no pod has
      dns              warning  pods that may not ask for names over UDP (info: only not over TCP), port 53
      default-deny     info     a namespace without a policy that selects all its pods, for each direction

    Each finding has file, document and line, as far as they are known. If no pod is declared, what can only be said of
    pods is left out, and a note says so. Exit code 3 if there is an error or a warning.

    With -o: {"findings": [{"severity", "check", "object", "path", "message", "origin", "file", "document", "line"}],
    "notes": []}.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are
    from muslin.cli import interrupt
    from muslin.cli.policy import commands
    if live == bool(files):
        raise click.UsageError("name FILEs, or say --live")
    sys.exit(0 if interrupt.run(commands.lint(commands.Where(run_dir.absolute(), files), form)) else UNEXPECTED)


@policy.command()
@form
@_run_dir
def status(form: str, run_dir: Path) -> None:
    """Show how far nodes lag behind what is wanted, and what has become of each policy.

    A node tells the replica of the policy service that it is subscribed to; what is shown is what the one here knows.

    With -o: a GetStatusResponse of protos/muslin/policy/v1/policy.proto.
    """
    from muslin.cli import interrupt
    from muslin.cli.policy import commands
    interrupt.run(commands.show_status(run_dir.absolute(), form))


def _port(text: str) -> tuple[str, int]:
    """Protocol and number of PORT[/PROTO]."""
    number, _, protocol = text.partition("/")
    name = protocol.upper() or "TCP"
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 65535) or name not in ("TCP", "UDP", "SCTP"):
        raise click.UsageError(f"--port {text!r} is not PORT or PORT/PROTO, such as 80 or 53/udp")
    return name, int(number)


def _where(options: dict[str, Any]) -> dict[str, Any]:
    """What of a command's options says whom to ask."""
    if options["pools"] and not options["files"]:
        raise click.UsageError("--pool is for manifests: name them with -f")
    return {"run": options["run_dir"].absolute(), "files": options["files"], "pools": options["pools"]}
