"""Options about TLS and etcd that services and the command line share. Imports nothing heavy: help must be quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["tls_files", "etcd_members"]

Command = TypeVar("Command", bound=Callable[..., Any])


def tls_files(prefix: str, certificate: str, authority: str) -> Callable[[Command], Command]:
    """Options --PREFIX-cert, --PREFIX-key and --PREFIX-ca, with help for the first and the last."""
    shared = (_file(f"{prefix}-cert", certificate), _file(f"{prefix}-key", "Its private key."),
              _file(f"{prefix}-ca", authority))

    def decorate(command: Command) -> Command:
        for option in reversed(shared):
            command = option(command)
        return command

    return decorate


def etcd_members(command: Command) -> Command:
    """Options --etcd, --etcd-cert, --etcd-key and --etcd-ca."""
    command = tls_files("etcd", "Certificate for etcd; its common name is the user there.",
                        "Authority of etcd's certificates.")(command)
    return click.option("--etcd", multiple=True, default=("127.0.0.1:2379",), show_default=True, envvar="MUSLIN_ETCD",
                        metavar="HOST:PORT", help="etcd member; repeatable, or several with commas between.")(command)


def _file(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", default=None, envvar=f"MUSLIN_{name.replace('-', '_').upper()}", metavar="FILE",
                        type=click.Path(path_type=Path), help=text)
