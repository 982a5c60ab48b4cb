"""`python -m services.node.cleanup`: take everything of ours out of the kernel; for `muslin down`.

Removes the tables, the veths that carry our alias and the ways to other nodes, whoever made them and whether or not a
daemon runs: stop it first.
"""

from __future__ import annotations

import errno
import sys

import click

from muslin.errors import MuslinError
from services.node.across import ground, guard
from services.node.attachment import ALIAS_PREFIX
from services.node.enforce import names
from services.node.errors import KernelError
from services.node.iptables import Iptables
from services.node.netlink import links
from services.node.netlink.connection import Connection
from services.node.nft.connection import Nftables
from services.node.nft.messages import delete_table
from services.node.wiring import DELETION_GROUP, remove_unfinished


def clean(prefix: str = "") -> list[str]:
    """Remove it; says what was there. With a prefix, of the links only those whose name begins with it.

    Raises:
        MuslinError: something could not be removed.
    """
    removed: list[str] = []
    with Connection() as connection:
        ours = [link for link in links.listing(connection, "veth")
                if link.alias.startswith(ALIAS_PREFIX) and link.name.startswith(prefix)]
        if ours:
            connection.request([links.set_link(link.index, group=DELETION_GROUP) for link in ours])
            connection.request([links.delete_group(DELETION_GROUP)])
        removed += [f"link {link.name} ({link.alias})" for link in ours]
        removed += [f"link {name} (unfinished)" for name in remove_unfinished(connection)]
        if not prefix:
            with Nftables() as nft:
                forwarded = guard.remembered(nft)
            removed += ground.clear(connection, forwarded)
    with Nftables() as nft:
        for table in (names.TABLE, guard.TABLE):
            try:
                nft.commit([delete_table(table)])
                removed.append(f"table inet {table}")
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
        # Last, for it may need a program that is not there.
        removed += [f"rules of ours in {where}" for where in Iptables(nft, ()).close()]
    return removed


@click.command()
@click.option("--prefix", default="", metavar="PREFIX", help="Only links whose name begins so; default all of ours.")
def main(prefix: str) -> None:
    """Remove the table inet muslin and all veths of Muslin's from this host."""
    try:
        for line in clean(prefix):
            click.echo(f"removed {line}")
    except MuslinError as problem:
        click.echo(f"cleanup: {problem}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
