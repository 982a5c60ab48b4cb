"""Options that commands of different groups share."""

from __future__ import annotations

from pathlib import Path

import click

from muslin.cli.places import DEFAULT_RUN

__all__ = ["run_dir"]

run_dir = click.option("--run-dir", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_RUN,
                       show_default=True, envvar="MUSLIN_RUN_DIR", help="Directory of the sockets.")
