"""The commands `muslin ipam ...`: options and help. What they do is imported when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from muslin.cli.ipam.options import Where, form, name_argument, where
from muslin.cli.ipam.pool import pool
from muslin.cli.ipam.reserve import reserve

__all__ = ["ipam"]


@click.group()
def ipam() -> None:
    """Addresses: how many are used, by whom; pools, reservations, settings; finding and repairing what is wrong.

    \b
    muslin ipam show --blocks                how full pools and blocks are
    muslin ipam show --ip 192.168.0.7        whose an address is
    muslin ipam pool create v6 fd00:10::/48  a second pool
    muslin ipam check --output report.json   is every address accounted for? exit code 1 if not
    muslin ipam release --from-report report.json

    Every listing is a table, or JSON or YAML with -o, with the field names of protos/muslin/ipam/v1/ipam.proto.
    """  # noqa: D301 - click wants the character \b, which keeps the lines as they are


ipam.add_command(pool)
ipam.add_command(reserve)


@ipam.command()
@click.option("--ip", "address", metavar="ADDRESS", help="All that is known of this address.")
@click.option("--blocks", is_flag=True, help="Each block: whose it is, and how full.")
@click.option("--nodes", is_flag=True, help="Each node: how full its blocks are together.")
@click.option("--handles", is_flag=True, help="Who holds which address.")
@click.option("--node", default="", metavar="NAME", help="Only this node: its blocks, unless others of these are said.")
@form
@where
def show(where: Where, form: str, address: str | None, blocks: bool, nodes: bool, handles: bool, node: str) -> None:
    """Show how full the pools are.

    USED addresses are held by attachments, those kept for a pod's return included. COOLING ones are freed and not
    given again yet. RESERVED ones are not handed out. BORROWED ones are held by attachments of another node than the
    block's. FREE ones can be assigned.

    With -o: {"pools": [Pool + borrowed, free], "nodes": [node, blocks and the counts], "blocks": [Block + reserved,
    free], "handles": [Handle]}, each if asked for; with --ip LookupResponse and address.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import listing
    if address is not None:
        if blocks or nodes or handles or node:
            raise click.UsageError("--ip shows one address; leave out the other options")
        interrupt.run(listing.show_address(where, form, address))
        return
    shown = listing.Shown(blocks or bool(node and not nodes and not handles), nodes, handles, node)
    interrupt.run(listing.show(where, form, shown))


@ipam.command()
@click.option("--strict-affinity/--no-strict-affinity", default=None,
              help="Nodes assign from their own blocks only, and never borrow.")
@click.option("--max-blocks", type=click.IntRange(0, 2**32 - 1), metavar="N",
              help="Blocks that a node may have at most; 0 for the default of 20.")
@click.option("--automatic-blocks/--no-automatic-blocks", default=None, help="Nodes claim new blocks by themselves.")
@form
@where
def configure(where: Where, form: str, strict_affinity: bool | None, max_blocks: int | None,
              automatic_blocks: bool | None) -> None:
    """Show or change what holds for all pools.

    Without options the settings are only shown. With -o: Config.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import listing
    changes: dict[str, Any] = {
        "strict_affinity": strict_affinity, "max_blocks_per_node": max_blocks,
        "no_automatic_blocks": None if automatic_blocks is None else not automatic_blocks}
    interrupt.run(listing.settings(where, form, {key: value for key, value in changes.items() if value is not None}))


@ipam.command()
@click.option("--output", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write the report there too, as JSON, for `muslin ipam release --from-report`.")
@form
@where
def check(where: Where, form: str, file: Path | None) -> NoReturn:
    """Say whether every address is accounted for.

    The records are compared with each other and with what endpoints use; nothing is changed. Each problem is a line:
    its kind, what it is about, and the details. Exit code 1 if there are any.
    With -o: Report.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import upkeep
    sys.exit(interrupt.run(upkeep.check(where, form, file)))


@ipam.command()
@click.argument("targets", nargs=-1, metavar="[ADDRESS | NETWORK/CONTAINER/INTERFACE]...")
@click.option("--from-report", "file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="Free what this report of `muslin ipam check` says is not in use. A stale report is refused.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@form
@where
def release(where: Where, form: str, targets: tuple[str, ...], file: Path | None, yes: bool) -> None:
    """Free addresses that are not in use.

    Either those that a report names, each only if it is still exactly what the report says; or all that an attachment
    holds, named by one of its addresses or by itself: that asks first, and says whether an endpoint uses them.

    With -o: ReleaseReportedResponse, or ReleaseResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import upkeep
    if (file is None) == (not targets):
        raise click.UsageError("name addresses or attachments, or a report with --from-report")
    if file is not None:
        interrupt.run(upkeep.release_reported(where, form, file))
        return

    def confirm(text: str) -> None:
        click.echo(text, err=True)
        if not yes:
            click.confirm("Free them?", abort=True, err=True)

    interrupt.run(upkeep.release(where, form, targets, confirm))


@ipam.command("release-affinity")
@name_argument("node", "NODE")
@click.argument("cidr", required=False, default="")
@form
@where
def release_affinity(where: Where, form: str, node: str, cidr: str) -> None:
    """Take blocks from a node.

    All of NODE's, or those of CIDR, a block or a pool. Empty blocks are deleted; others serve the addresses that are
    held, and give no new one.
    With -o: ReleaseAffinityResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import upkeep
    interrupt.run(upkeep.release_affinity(where, form, node, cidr))


@ipam.command("remove-node")
@name_argument("node", "NODE")
@form
@where
def remove_node(where: Where, form: str, node: str) -> None:
    """Free all that a node held.

    NODE is gone for good; it is refused while there are endpoints on it. With -o: RemoveNodeResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import upkeep
    interrupt.run(upkeep.remove_node(where, form, node))


@ipam.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@form
@where
def collect(where: Where, form: str, dry_run: bool) -> None:
    """Free what nobody claims.

    Addresses and empty blocks that nobody claims are found; those that were found so before, long enough ago, are
    freed.
    The address manager does this by itself from time to time. With -o: CollectResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import upkeep
    interrupt.run(upkeep.collect(where, form, dry_run=dry_run))


@ipam.command()
@click.option("--apply/--dry-run", default=False, show_default=True, help="Do it, or only say what would be done.")
@form
@where
def rebuild(where: Where, form: str, apply: bool) -> None:
    """Repair the records from what endpoints use.

    Blocks, handles and affinities are made anew wherever they differ from it or are damaged. With -o: RebuildResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import upkeep
    interrupt.run(upkeep.rebuild(where, form, dry_run=not apply))
