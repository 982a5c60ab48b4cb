"""`python -m services.endpoint`: run the endpoint service."""

from __future__ import annotations

import sys

import click

from muslin import log, rpc
from muslin.errors import MuslinError
from muslin.etcd import Members
from muslin.kube.options import chosen
from muslin.kube.options import options as kubernetes_options
from services.endpoint.leftovers import GONE_AFTER
from services.endpoint.server import EndpointApp
from services.endpoint.standing import DOWN_AFTER


@click.command()
@rpc.options("unix:/run/muslin/endpoint.sock")
@kubernetes_options
@click.option("--node-down-after", type=click.FloatRange(1, 86_400), default=DOWN_AFTER, show_default=True,
              envvar="MUSLIN_NODE_DOWN_AFTER", metavar="SECONDS",
              help="How long a node's daemon may be away, or unable to serve, before its Node says that it has no "
                   "network.")
@click.option("--node-gone-after", type=click.FloatRange(1, 86_400), default=GONE_AFTER, show_default=True,
              envvar="MUSLIN_NODE_GONE_AFTER", metavar="SECONDS",
              help="How long a Node must have been deleted, and its daemon and pods be gone, before the records that "
                   "are left of it are removed.")
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, etcd: Members, kubernetes: str,
         kubeconfig: str | None, node_down_after: float, node_gone_after: float) -> None:
    """Keep the records of workload endpoints and pods in etcd, and let others watch them."""
    log.setup("muslin-endpoint", log_level)
    try:
        app = EndpointApp(etcd, chosen(kubernetes, kubeconfig), node_down_after=node_down_after,
                          node_gone_after=node_gone_after)
    except MuslinError as problem:
        raise click.UsageError(problem.message) from None
    sys.exit(rpc.serve(app, listen, metrics))


main()
