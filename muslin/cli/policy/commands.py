"""What `muslin policy ...` does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from muslin.cli.client import services
from muslin.cli.console import Console, fancy
from muslin.cli.ipam.output import plain, structured
from muslin.cli.ipam.table import Look
from muslin.cli.play.matrix import Style
from muslin.cli.policy import cases, checks, explaining, live, matrix, png, svg, testing
from muslin.cli.policy import lint as linting
from muslin.cli.policy import status as standing
from muslin.cli.policy.engine import Judge
from muslin.cli.policy.space import Space
from muslin.cli.policy.world import DEFAULT_POOL, World, of_manifest
from muslin.kube.manifest import load

__all__ = ["Where", "explain", "lint", "show_matrix", "show_status", "test"]


@dataclass(frozen=True, slots=True)
class Where:
    """Whom to ask: what runs on a run directory, or manifests if files are named."""

    run: Path
    files: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()


@asynccontextmanager
async def _asked(where: Where) -> AsyncIterator[tuple[World, explaining.Explain]]:
    """The world that is asked about, and what answers: for what runs, the policy service itself."""
    if where.files:
        world = of_manifest(load(where.files), where.pools or (DEFAULT_POOL,))
        yield world, Judge(world).explain
        return
    async with live.running(where.run) as (up, world):
        yield world, up.explain


async def explain(where: Where, asked: explaining.Asked, form: str) -> None:
    """What decides between two sides."""
    async with _asked(where) as (world, answer):
        found = await explaining.answers(asked, Space(world), answer)
    Console().result(explaining.shown(found, world, Look.of_stdout()) if form == "table"
                     else structured({"flows": explaining.plain(found, world)}, form))


async def show_matrix(where: Where, selection: matrix.Selection, form: str) -> None:
    """Who reaches whom."""
    console = Console()
    async with _asked(where) as (world, answer):
        found = await matrix.matrix(world, selection, answer)
    if form == "png":
        console.binary(png.picture(found))
    elif form == "svg":
        console.result(svg.picture(found).rstrip("\n"))
    else:
        console.result(matrix.text(found, Style(*fancy())) if form == "table"
                       else structured(matrix.plain(found), form))
    if found.silent:
        console.warn(f"no port is known of {', '.join(found.silent)}; name some with --port")


async def test(file: str, form: str) -> bool:
    """Whether all that a file expects is so."""
    suite = cases.read(file)
    outcomes = await testing.run(suite)
    Console().result(testing.shown(outcomes, suite, Look.of_stdout()) if form == "table"
                     else structured(testing.plain(outcomes, suite), form))
    return testing.passed(outcomes)


async def lint(where: Where, form: str) -> bool:
    """Whether nothing but information was found."""
    if where.files:
        world = of_manifest(load(where.files), strict=False)
    else:
        async with live.running(where.run) as (_, world):
            pass
    read, found = linting.read(world)
    more, notes = checks.check(read)
    found += more
    Console().result(linting.shown(found, notes, Look.of_stdout()) if form == "table"
                     else structured(linting.plain(found, notes), form))
    return all(finding.severity is linting.Severity.INFO for finding in found)


async def show_status(run: Path, form: str) -> None:
    """What is in force where."""
    async with services(run) as up:
        found = await up.policy_status()
    Console().result(standing.shown(found, Look.of_stdout()) if form == "table" else structured(plain(found), form))
