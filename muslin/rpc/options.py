"""Command-line options that all services share.

A value comes from the option, else from the environment (`MUSLIN_` and the option's name, such as
MUSLIN_LOG_LEVEL), else from the default that `--help` shows. There is no other source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def options(listen: str, *, etcd: bool = True) -> Callable[[Command], Command]:
    """Decorate a service's command with --listen, --metrics, --log-level and, if it has a store, --etcd."""
    shared = [
        click.option("--listen", multiple=True, default=(listen,), show_default=True, envvar="MUSLIN_LISTEN",
                     metavar="ADDRESS", help="unix:/path or host:port to serve on; repeatable."),
        click.option("--metrics", default=None, envvar="MUSLIN_METRICS", metavar="HOST:PORT",
                     help="Serve Prometheus metrics there; off by default."),
        click.option("--log-level", default="info", show_default=True, envvar="MUSLIN_LOG_LEVEL",
                     type=click.Choice(("debug", "info", "warning", "error"))),
    ]
    if etcd:
        shared.append(
            click.option("--etcd", multiple=True, default=("127.0.0.1:2379",), show_default=True,
                         envvar="MUSLIN_ETCD", metavar="HOST:PORT", help="etcd member; repeatable."))

    def decorate(command: Command) -> Command:
        for option in reversed(shared):
            command = option(command)
        return command

    return decorate
