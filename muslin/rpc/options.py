"""Command-line options that all services share.

A value comes from the option, else from the environment (`MUSLIN_` and the option's name, such as
MUSLIN_LOG_LEVEL), else from the default that `--help` shows. There is no other source.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from muslin import tracing
from muslin.errors import MuslinError
from muslin.etcd import Members
from muslin.options import etcd_members, tls_files
from muslin.rpc import tls
from muslin.tls import named

__all__ = ["options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def options(listen: str, *, etcd: bool = True) -> Callable[[Command], Command]:
    """Decorate a service's command with the options of serving, of TLS and, if it has a store, of etcd.

    The command is called with `listen`, `metrics`, `log_level` and perhaps `etcd`, the Members; TLS is set up before.
    """
    shared = [
        click.option("--listen", multiple=True, default=(listen,), show_default=True, envvar="MUSLIN_LISTEN",
                     metavar="ADDRESS", help="unix:/path, or host:port for TCP with TLS, to serve on; repeatable."),
        click.option("--metrics", default=None, envvar="MUSLIN_METRICS", metavar="HOST:PORT",
                     help="Serve Prometheus metrics there by HTTP, and /livez and /readyz for probes; off by default."),
        click.option("--log-level", default="info", show_default=True, envvar="MUSLIN_LOG_LEVEL",
                     type=click.Choice(("debug", "info", "warning", "error"))),
        tls_files("tls", "Certificate of this process on TCP, shown to whom it calls and who calls it.",
                  "Authorities that are trusted on TCP."),
        _with_tls,
        click.option("--traces", default="", envvar=("MUSLIN_TRACES", "OTEL_EXPORTER_OTLP_ENDPOINT"), metavar="URL",
                     show_default="none are sent",
                     help="Send traces to an OTLP collector by gRPC: http://host:port, https://host:port, unix:/path."),
        _with_traces,
        *((etcd_members, _with_members) if etcd else ()),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(shared):
            command = option(command)
        return command

    return decorate


def _with_tls(command: Command) -> Command:
    """Put the options about TLS in force before the command is called."""
    @functools.wraps(command)
    def called(*args: Any, tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None, **more: Any) -> Any:
        try:
            tls.use(named(tls_cert, tls_key, tls_ca, "tls"))
        except MuslinError as problem:
            raise click.UsageError(problem.message) from None
        return command(*args, **more)

    return called  # type: ignore[return-value]  # the same command with other parameters


def _with_traces(command: Command) -> Command:
    """Name the collector before the command is called."""
    @functools.wraps(command)
    def called(*args: Any, traces: str, **more: Any) -> Any:
        tracing.use(traces)
        return command(*args, **more)

    return called  # type: ignore[return-value]  # as above


def _with_members(command: Command) -> Command:
    """Make one value of the options about etcd."""
    @functools.wraps(command)
    def called(*args: Any, etcd: tuple[str, ...], etcd_cert: Path | None, etcd_key: Path | None, etcd_ca: Path | None,
               **more: Any) -> Any:
        try:
            members = Members.of(etcd, named(etcd_cert, etcd_key, etcd_ca, "etcd"))
        except MuslinError as problem:
            raise click.UsageError(problem.message) from None
        return command(*args, etcd=members, **more)

    return called  # type: ignore[return-value]  # as above
