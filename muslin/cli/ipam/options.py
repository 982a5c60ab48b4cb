"""Options and arguments that the commands of `muslin ipam` share. Light: imported for --help and completion."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from muslin.cli.options import run_dir

__all__ = ["Where", "form", "name_argument", "where"]

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Where:
    """How the address manager is found: `target` (`unix:/path` or `host:port`), or that of a run directory."""

    run: Path
    target: str = ""


form = click.option("-o", "--format", "form", type=click.Choice(("table", "json", "yaml")), default="table",
                    help="Format of the result: for people, or with the API's field names for programs.")


def where(command: Command) -> Command:
    """Add --run-dir and --ipam, which the command gets as `where`."""
    @functools.wraps(command)
    def found(*args: Any, run_dir: Path, target: str, **kwargs: Any) -> Any:
        return command(*args, where=Where(run_dir.absolute(), target), **kwargs)
    target = click.option("--ipam", "target", default="", envvar="MUSLIN_IPAM", metavar="TARGET",
                          help="unix:/path or host:port of the address manager, or of a node daemon.  [default: that "
                               "of `muslin up`]")
    return run_dir(target(found))  # type: ignore[return-value]  # click's decorators keep the type of what they wrap


def name_argument(kind: str, metavar: str = "NAME") -> Callable[[Command], Command]:
    """The name of a `pool`, `reservation` or `node`, completed from what there is."""
    def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from muslin.cli.ipam import complete
        place = Where(Path(ctx.params.get("run_dir") or run_dir_default()).absolute(), ctx.params.get("target") or "")
        return [name for name in complete.names(place, kind) if name.startswith(incomplete)]
    return click.argument(kind, metavar=metavar, shell_complete=names)


def run_dir_default() -> Path:
    """The run directory if a command line names none."""
    from muslin.cli.places import DEFAULT_RUN
    return DEFAULT_RUN
