"""`python -m services.endpoint`: run the endpoint service."""

from __future__ import annotations

import sys

import click

from muslin import log, rpc
from muslin.errors import MuslinError
from muslin.etcd import Members
from muslin.kube.options import chosen
from muslin.kube.options import options as kubernetes_options
from services.endpoint.server import EndpointApp


@click.command()
@rpc.options("unix:/run/muslin/endpoint.sock")
@kubernetes_options
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, etcd: Members, kubernetes: str,
         kubeconfig: str | None) -> None:
    """Keep the records of workload endpoints and pods in etcd, and let others watch them."""
    log.setup("muslin-endpoint", log_level)
    try:
        app = EndpointApp(etcd, chosen(kubernetes, kubeconfig))
    except MuslinError as problem:
        raise click.UsageError(problem.message) from None
    sys.exit(rpc.serve(app, listen, metrics))


main()
