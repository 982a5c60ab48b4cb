"""`python -m services.endpoint`: run the endpoint service."""

from __future__ import annotations

import sys

import click

from muslin import log, rpc
from muslin.errors import MuslinError
from muslin.etcd import Members
from services.endpoint.server import EndpointApp


@click.command()
@rpc.options("unix:/run/muslin/endpoint.sock")
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, etcd: Members) -> None:
    """Keep the records of workload endpoints and pods in etcd, and let others watch them."""
    log.setup("muslin-endpoint", log_level)
    try:
        app = EndpointApp(etcd)
    except MuslinError as problem:
        raise click.UsageError(problem.message) from None
    sys.exit(rpc.serve(app, listen, metrics))


main()
