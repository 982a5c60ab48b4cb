"""The commands `muslin endpoint ...`: options and help. What they do is imported when they run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from muslin.cli.ipam.options import Where, form
from muslin.cli.options import run_dir

__all__ = ["endpoint"]

Command = TypeVar("Command", bound=Callable[..., Any])


def _where(command: Command) -> Command:
    """Add --run-dir and --endpoint, which the command gets as `where`."""
    @functools.wraps(command)
    def found(*args: Any, run_dir: Path, target: str, **kwargs: Any) -> Any:
        return command(*args, where=Where(run_dir.absolute(), target), **kwargs)
    target = click.option("--endpoint", "target", default="", envvar="MUSLIN_ENDPOINT", metavar="TARGET",
                          help="unix:/path or host:port of the endpoint service, or of a node daemon.  [default: that "
                               "of `muslin up`]")
    return run_dir(target(found))  # type: ignore[return-value]  # click's decorators keep the type of what they wrap


@click.group()
def endpoint() -> None:
    """Endpoints: what is attached to the network, where, with which addresses, labels and profiles.

    \b
    muslin endpoint list --node node1        what is on a node
    muslin endpoint list -l "app == 'web'"   what a policy's selector matches
    muslin endpoint show shop/web            one pod's record; also an address, or NETWORK/CONTAINER/INTERFACE

    Every listing is a table, or JSON or YAML with -o, with the field names of
    protos/muslin/endpoint/v1/endpoint.proto.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are


@endpoint.command("list")
@click.option("--node", default="", metavar="NAME", help="Only of this node.")
@click.option("-n", "--namespace", default="", metavar="NAME", help="Only of this namespace.")
@click.option("--network", default="", metavar="NAME", help="Only of this network.")
@click.option("-l", "--selector", default="", metavar="SELECTOR",
              help="Only those whose labels this matches, such as \"app == 'web' && !has(canary)\".")
@form
@_where
def list_(where: Where, form: str, **filters: str) -> None:
    """List endpoints.

    With -o: {"revision": of the store, "endpoints": [WorkloadEndpoint]}.
    """
    from muslin.cli import interrupt
    from muslin.cli.endpoint import commands
    interrupt.run(commands.show_list(where, form, filters))


@endpoint.command()
@click.argument("what", metavar="NAME")
@form
@_where
def show(where: Where, form: str, what: str) -> None:
    """Show endpoints in full.

    NAME is NAMESPACE/POD, an address, a container's id or the beginning of it, or NETWORK/CONTAINER/INTERFACE.
    With -o: {"endpoints": [WorkloadEndpoint]}.
    """
    from muslin.cli import interrupt
    from muslin.cli.endpoint import commands
    interrupt.run(commands.show_one(where, form, what))


@endpoint.command()
@click.argument("attachment", metavar="NETWORK/CONTAINER/INTERFACE")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@form
@_where
def label(where: Where, form: str, attachment: str, changes: tuple[str, ...]) -> None:
    """Change labels of an endpoint.

    KEY=VALUE sets a label, KEY- removes one. Those of a Kubernetes pod are the pod's, and can not be changed here.
    With -o: {"endpoints": [WorkloadEndpoint]}.
    """
    from muslin.cli import interrupt
    from muslin.cli.endpoint import commands
    put = dict(change.split("=", 1) for change in changes if "=" in change)
    remove = [change[:-1] for change in changes if "=" not in change and change.endswith("-")]
    if wrong := [change for change in changes if "=" not in change and not change.endswith("-")]:
        raise click.UsageError(f"{wrong[0]!r} is neither KEY=VALUE nor KEY-")
    interrupt.run(commands.relabel(where, form, attachment, put, remove))
