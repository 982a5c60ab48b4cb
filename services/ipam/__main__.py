"""`python -m services.ipam`: run the address manager."""

from __future__ import annotations

import sys

import click

from muslin import log, rpc
from muslin.errors import MuslinError
from muslin.etcd import Members
from services.ipam.inventory import ENDPOINT
from services.ipam.server import IpamApp
from services.ipam.upkeep.collector import GRACE
from services.ipam.upkeep.service import COLLECT_INTERVAL


@click.command()
@rpc.options("unix:/run/muslin/ipam.sock")
@click.option("--pool", default="192.168.0.0/16", show_default=True, envvar="MUSLIN_POOL", metavar="CIDR",
              help="The pool that is made if there is none.")
@click.option("--endpoint", default=ENDPOINT, show_default=True, envvar="MUSLIN_ENDPOINT",
              metavar="TARGET", help="unix:/path or host:port of the endpoint service.")
@click.option("--collect-interval", type=click.FloatRange(min=0), default=COLLECT_INTERVAL, show_default=True,
              envvar="MUSLIN_COLLECT_INTERVAL", metavar="SECONDS",
              help="Between two looks for addresses that nobody uses; 0: only look when asked to.")
@click.option("--collect-grace", type=click.FloatRange(min=0), default=GRACE, show_default=True,
              envvar="MUSLIN_COLLECT_GRACE", metavar="SECONDS",
              help="How long after it was given an address is left alone, used or not.")
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, etcd: Members, pool: str,
         endpoint: str, collect_interval: float, collect_grace: float) -> None:
    """Give attachments their addresses, and keep account of them in etcd."""
    log.setup("muslin-ipam", log_level)
    try:
        app = IpamApp(etcd, pool, endpoint, collect_grace=collect_grace, collect_interval=collect_interval)
    except MuslinError as problem:
        raise click.UsageError(problem.message.replace("pool.cidr", "--pool")) from None
    sys.exit(rpc.serve(app, listen, metrics))


main()
