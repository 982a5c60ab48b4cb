"""Where iptables' FORWARD chain drops what nobody lets through, as Docker has it: it lets pods' packets through.

An accept in our own table does not help: each table decides for itself, and any may drop. So that chain gets a rule for
each direction of each of our prefixes, at its end, where only its policy comes after them; what is before them stays,
and decides as before. Our table judges those packets all the same.

The chain is one of nf_tables (iptables-nft), to which we speak ourselves, or of the older x_tables (iptables-legacy),
whose whole table would have to be replaced at once: there its own program is asked to. Blocks, but for `keep_open`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from muslin.errors import IOFailure, MuslinError
from services.node.nft import expressions as x
from services.node.nft import messages as m
from services.node.nft.connection import FAMILIES, Nftables

__all__ = ["Iptables", "keep_open"]

log = logging.getLogger(__name__)

COMMENT = "muslin: pods; their policy is in table inet muslin"
"""Marks a rule as ours."""

SECONDS = 5.0
"""How often to look: Docker makes its chain anew when it starts."""

_TABLE, _CHAIN = "filter", "FORWARD"
_LEGACY_TABLES = {4: Path("/proc/thread-self/net/ip_tables_names"),
                  6: Path("/proc/thread-self/net/ip6_tables_names")}
_LEGACY_PROGRAMS = {4: ("iptables-legacy", "iptables"), 6: ("ip6tables-legacy", "ip6tables")}
_PROGRAM_SECONDS = 10.0
_WORD = re.compile(r'"[^"]*"|\S+')


class Iptables:
    """The FORWARD chains of this host, of both families and both kinds."""

    def __init__(self, nft: Nftables, prefixes: Sequence[str]) -> None:
        """`prefixes` begin the names of pods' interfaces."""
        self._nft = nft
        self._prefixes = tuple(prefixes)

    def open(self) -> list[str]:
        """Add the rules that are missing where the chain drops; says where any were.

        Raises:
            MuslinError: a chain drops pods' packets, and the rules can not be added.
        """
        return [where for version in FAMILIES for where in (*self._open_nft(version), *self._open_legacy(version))]

    def close(self) -> list[str]:
        """Remove our rules wherever they are; says where they were. Raises MuslinError."""
        found = []
        for version, family in FAMILIES.items():
            ours = [handle for handle, comment in self._nft.rules(family, _TABLE, _CHAIN) if comment == COMMENT]
            self._nft.commit([m.delete_rule(_TABLE, _CHAIN, handle) for handle in ours], family)
            if ours:
                found.append(_where(version))
            # Where its program is gone, nobody can; and most likely there never was a rule.
            if (program := _legacy(version)) and (rules := [r for r in _listed(program) if COMMENT in r]):
                for rule in rules:
                    _run(program, "-D", *rule[1:])
                found.append(_where(version, legacy=True))
        return found

    def _open_nft(self, version: int) -> Iterator[str]:
        family = FAMILIES[version]
        if self._nft.policy(family, _TABLE, _CHAIN) != x.DROP:
            return
        wanted = [x.Rule((x.meta(key), x.compare(prefix.encode()), x.counter(), x.verdict(x.ACCEPT)), COMMENT)
                  for prefix in self._prefixes for key in (x.META_IIFNAME, x.META_OIFNAME)]
        ours = [handle for handle, comment in self._nft.rules(family, _TABLE, _CHAIN) if comment == COMMENT]
        if len(ours) == len(wanted):
            return
        self._nft.commit([*(m.delete_rule(_TABLE, _CHAIN, handle) for handle in ours),
                          *m.add_rules(_TABLE, _CHAIN, wanted, itertools.count(1))], family)
        yield _where(version)

    def _open_legacy(self, version: int) -> Iterator[str]:
        program = _legacy(version)
        if program is None:
            return
        if not program:
            raise IOFailure(f"the kernel has the table of {_LEGACY_PROGRAMS[version][0]}, and that program is not "
                            f"installed: install it, or see to it that its chain {_CHAIN} does not drop pods' packets")
        rules = _listed(program)
        if ["-P", _CHAIN, "DROP"] not in rules:
            return
        missing = [rule for prefix in self._prefixes for option in ("-i", "-o")
                   if (rule := [option, f"{prefix}+", "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"])
                   not in [listed[2:] for listed in rules]]
        for rule in missing:
            _run(program, "-A", _CHAIN, *rule)
        if missing:
            yield _where(version, legacy=True)


async def keep_open(iptables: Iptables) -> None:
    """See to it for ever. What can not be done is logged once, and tried again."""
    said = ""
    while True:
        try:
            for where in await asyncio.to_thread(iptables.open):
                log.warning("%s drops what nobody lets through: it has rules now that let pods' packets through", where)
            said = ""
        except MuslinError as problem:
            if problem.message != said:
                said = problem.message
                log.error("packets of pods may be dropped by iptables: %s", said)  # noqa: TRY400  it says all there is
        await asyncio.sleep(SECONDS)


def _where(version: int, *, legacy: bool = False) -> str:
    return f"chain {_CHAIN} of table {'ip' if version == 4 else 'ip6'} {_TABLE}{' (legacy)' if legacy else ''}"


def _legacy(version: int) -> str | None:
    """The program for the older kind of table, empty if it is not installed.

    None if the kernel does not have that table here; asking the program would make it.
    """
    try:
        if _TABLE not in _LEGACY_TABLES[version].read_text().split():
            return None
    except OSError:
        return None
    for name in _LEGACY_PROGRAMS[version]:
        if (path := shutil.which(name)) and "legacy" in _version(path):
            return path
    return ""


@cache
def _version(program: str) -> str:
    return _run(program, "--version")


def _listed(program: str) -> list[list[str]]:
    """The chain's policy and rules, as words."""
    lines = _run(program, "-S", _CHAIN).splitlines()
    return [[word.strip('"') for word in _WORD.findall(line)] for line in lines]


def _run(program: str, *arguments: str) -> str:
    locked = arguments if arguments[0] == "--version" else ("-w", "5", *arguments)
    try:
        done = subprocess.run([program, *locked], capture_output=True, text=True, timeout=_PROGRAM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IOFailure(f"{program} {' '.join(arguments)}: {error}") from error
    if done.returncode:
        raise IOFailure(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
