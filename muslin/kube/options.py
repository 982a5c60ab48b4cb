"""Command-line options of services that follow an API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from muslin.kube import kubeconfig
from muslin.kube.access import Load, in_cluster

__all__ = ["chosen", "options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def options(command: Command) -> Command:
    """Decorate a service's command with --kubeconfig and --kubernetes."""
    for option in (
        click.option("--kubernetes", type=click.Choice(("off", "in-cluster")), default="off", show_default=True,
                     envvar="MUSLIN_KUBERNETES",
                     help="Follow the API server of the cluster that this runs in, as its service account."),
        click.option("--kubeconfig", default=None, envvar="MUSLIN_KUBECONFIG", metavar="PATH",
                     help="Follow the API server of this file's current context."),
    ):
        command = option(command)
    return command


def chosen(kubernetes: str, path: str | None) -> Load | None:
    """Where the credentials are, None if no API server is to be followed.

    Whether they are right shows when they are used: a file that is not there yet keeps no service from starting.
    """
    if path and kubernetes == "in-cluster":
        raise click.UsageError("--kubeconfig and --kubernetes in-cluster exclude each other: give one of them")
    if path:
        return kubeconfig.loader(Path(path))
    return in_cluster() if kubernetes == "in-cluster" else None
