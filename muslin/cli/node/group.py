"""The commands `muslin node ...`: options and help. What they do is imported when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click

from muslin.cli.ipam.options import form
from muslin.cli.options import run_dir

__all__ = ["node"]


@click.group()
def node() -> None:
    """Nodes: whether their daemons are heard of, what they have of the pools, how far their policy lags.

    \b
    muslin node list
    muslin node show node1
    muslin node drain-ipam node1 --wait      no new addresses on node1; its blocks go as its pods leave
    muslin node drain-ipam node1 --undo

    Services elsewhere are named by MUSLIN_IPAM, MUSLIN_ENDPOINT and MUSLIN_POLICY.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are


@node.command("list")
@form
@run_dir
def list_(run_dir: Path, form: str) -> None:
    """List all nodes that have announced themselves, have addresses, or have policy.

    STATE is `ready`, `not ready`, `silent` (not heard of lately; it may work all the same) or `unknown` (never heard
    of). LAG is how long its kernel has been behind its policy. With -o: {"nodes": [node, host: Host, use: NodeUse,
    policy: NodeStatus]}, null where nothing is known.
    """
    from muslin.cli import interrupt
    from muslin.cli.node import commands
    interrupt.run(commands.show_list(run_dir.absolute(), form))


@node.command()
@click.argument("name", metavar="NAME")
@form
@run_dir
def show(run_dir: Path, form: str, name: str) -> None:
    """Show all that is known of a node, and its blocks.

    With -o: as of list, of one node, and {"blocks": [Block]}.
    """
    from muslin.cli import interrupt
    from muslin.cli.node import commands
    interrupt.run(commands.show_one(run_dir.absolute(), form, name))


@node.command("drain-ipam")
@click.argument("name", metavar="NAME")
@click.option("--wait", is_flag=True, help="Return when nothing is left; show what still is.")
@click.option("--timeout", type=click.FloatRange(1), default=None, metavar="SECONDS",
              help="With --wait: give up after so long, with exit code 3.")
@click.option("--undo", is_flag=True, help="Have it get addresses again, of the blocks that it still has first.")
@form
@run_dir
def drain_ipam(run_dir: Path, form: str, name: str, wait: bool, timeout: float | None, undo: bool) -> NoReturn:
    """Have a node get no new address and no new block, and give back the blocks that it does not use.

    What its pods have stays theirs: move them away, as `kubectl drain` does, and their blocks go with them, once freed
    addresses have cooled down. It holds until --undo, or until the node is removed. With -o: DrainNodeResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.node import commands
    if undo and (wait or timeout):
        raise click.UsageError("--undo is done at once: leave out --wait and --timeout")
    if timeout and not wait:
        raise click.UsageError("--timeout goes with --wait")
    sys.exit(interrupt.run(commands.drain(run_dir.absolute(), form, name, wait=wait, timeout=timeout, undo=undo)))
