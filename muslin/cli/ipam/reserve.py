"""The commands `muslin ipam reserve ...`: options and help."""

from __future__ import annotations

import click

from muslin.cli.ipam.options import Where, form, name_argument, where

__all__ = ["reserve"]


@click.group()
def reserve() -> None:
    """Addresses that are never handed out."""


@reserve.command()
@click.argument("name")
@click.argument("cidrs", nargs=-1, required=True, metavar="CIDR...")
@form
@where
def create(where: Where, form: str, name: str, cidrs: tuple[str, ...]) -> None:
    """Reserve addresses or ranges.

    NAME is a DNS label, CIDRs are such as 192.168.0.1 or 192.168.0.0/28. What is held already stays so, and is named.
    With -o: CreateReservationResponse.
    """
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    interrupt.run(changing.create_reservation(where, form, name, cidrs))


@reserve.command()
@name_argument("reservation")
@where
def delete(where: Where, reservation: str) -> None:
    """Let the addresses be handed out again."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import changing
    interrupt.run(changing.delete_reservation(where, reservation))


@reserve.command("list")
@form
@where
def list_reservations(where: Where, form: str) -> None:
    """The reservations. With -o: {"reservations": [Reservation]}."""
    from muslin.cli import interrupt
    from muslin.cli.ipam import listing
    interrupt.run(listing.reservations(where, form))
