"""`python -m services.policy`: run the policy service."""

from __future__ import annotations

import sys

import click

from muslin import log, rpc
from muslin.errors import MuslinError
from muslin.etcd import Members
from muslin.kube.options import chosen
from muslin.kube.options import options as kubernetes_options
from services.policy.server import PolicyApp


@click.command()
@rpc.options("unix:/run/muslin/policy.sock")
@click.option("--endpoint", default="unix:/run/muslin/endpoint.sock", show_default=True, envvar="MUSLIN_ENDPOINT",
              metavar="TARGET", help="unix:/path or host:port of the endpoint service.")
@kubernetes_options
def main(listen: tuple[str, ...], metrics: str | None, log_level: str, etcd: Members, endpoint: str, kubernetes: str,
         kubeconfig: str | None) -> None:
    """Translate Kubernetes' policies, compile them for each node, and explain what they decide."""
    log.setup("muslin-policy", log_level)
    try:
        app = PolicyApp(etcd, endpoint, chosen(kubernetes, kubeconfig))
    except MuslinError as problem:
        raise click.UsageError(problem.message) from None
    sys.exit(rpc.serve(app, listen, metrics))


main()
