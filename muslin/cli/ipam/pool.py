"""The commands `muslin ipam pool ...`: options and help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from muslin.cli.ipam.options import Where, form, name_argument, where

__all__ = ["pool"]

Command = TypeVar("Command", bound=Callable[..., Any])


def _settings(command: Command) -> Command:
    """The options of what may be changed of a pool."""
    for option in reversed((
            click.option("--node-selector", metavar="SELECTOR",
                         help="Serve only nodes whose labels it selects; empty for all."),
            click.option("--namespace-selector", metavar="SELECTOR",
                         help="Serve only namespaces whose labels it selects; empty for all."),
            click.option("--cool-down", "cool_down_seconds", type=click.IntRange(0, 1200), metavar="SECONDS",
                         help="Time for which a freed address is not given again, 0 to 1200.  [default: 30]"),
            click.option("--encapsulation", type=click.Choice(("none", "vxlan", "cross-subnet", "")),
                         help="How packets get from node to node: by the nodes' own link, in VXLAN, or in VXLAN "
                              "to nodes beyond a router only; empty for what each node is set to."),
            click.option("--masquerade/--no-masquerade", default=None,
                         help="Whether what its pods send beyond all pools has the node's address as source.  "
                              "[default: masquerade]"))):
        command = option(command)
    return command


@click.group()
def pool() -> None:
    """Ranges that addresses come from."""


@pool.command()
@click.argument("name")
@click.argument("cidr")
@click.option("--block-size", type=click.IntRange(20, 128), metavar="LENGTH",
              help="Prefix length of its blocks, 20 to 32 (IPv6: 116 to 128).  [default: 26 (122)]")
@_settings
@click.option("--disabled", is_flag=True, help="Serve no address until it is enabled.")
@form
@where
def create(where: Where, form: str, name: str, cidr: str, **fields: Any) -> None:
    """Add a pool.

    NAME is a DNS label, CIDR its range, such as 10.8.0.0/16 or fd00:10::/48. SELECTORs are those of policies: `zone ==
    "a" && !has(edge)`. With -o: Pool.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    given = {key: value for key, value in fields.items() if value is not None}
    interrupt.run(changing.create_pool(where, form, {"name": name, "cidr": cidr, **given}))


@pool.command()
@name_argument("pool")
@_settings
@form
@where
def update(where: Where, form: str, pool: str, **fields: Any) -> None:
    """Change what may change of a pool; what it gave stays valid. With -o: Pool."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    given = {key: value for key, value in fields.items() if value is not None}
    if not given:
        raise click.UsageError("say what to change: --node-selector, --namespace-selector, --cool-down, "
                               "--encapsulation or --masquerade")
    interrupt.run(changing.update_pool(where, form, pool, given))


@pool.command()
@name_argument("pool")
@form
@where
def enable(where: Where, form: str, pool: str) -> None:
    """Let a pool serve new addresses. With -o: Pool."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    interrupt.run(changing.update_pool(where, form, pool, {"disabled": False}))


@pool.command()
@name_argument("pool")
@form
@where
def disable(where: Where, form: str, pool: str) -> None:
    """Let a pool serve no new address; what it gave stays valid. With -o: Pool."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    interrupt.run(changing.update_pool(where, form, pool, {"disabled": True}))


@pool.command()
@name_argument("pool")
@where
def delete(where: Where, pool: str) -> None:
    """Remove a pool. Refused while an address of it is in use."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    interrupt.run(changing.delete_pool(where, pool))


@pool.command("list")
@form
@where
def list_pools(where: Where, form: str) -> None:
    """The pools and their settings. With -o: {"pools": [Pool]}."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import listing
    interrupt.run(listing.pools(where, form))
