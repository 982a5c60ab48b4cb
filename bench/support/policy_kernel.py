"""What changes of policy cost in the kernel of a node, in a network namespace of its own; needs root.

    .venv/bin/python -m bench.support.policy_kernel [--quick]

The code is the node daemon's: from the event to the kernel's answer, computing the transaction included.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from muslin import netns
from services.node import actual
from services.node.attachment import Attachment
from services.node.enforce import table
from services.node.enforce.parts import Owner
from services.node.enforce.program import Action, Endpoint, Group, Kind, Policy, Rule, Update, member
from services.node.enforce.state import Claim, Event, Release, State, applied
from services.node.nft.connection import Nftables

__all__ = ["Figure", "measure"]

PREFIXES = ("mus",)
PODS = 100


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds of some tries, and the limit that the median is held against; 0 if there is none."""

    what: str
    least: float
    median: float
    most: float
    limit: float = 0.0


class Kernel:
    """A table of one namespace, kept as the daemon keeps it."""

    def __init__(self, nft: Nftables) -> None:
        self.nft = nft
        self.state = State()

    def take(self, *events: Event) -> float:
        """Seconds from the events to the kernel's answer."""
        began = time.perf_counter()
        old, changed = self.state, set[Owner]()
        for event in events:
            self.state, owners = applied(self.state, event)
            changed |= owners
        for messages in table.transition((old.parts[o] for o in changed if o in old.parts),
                                         (self.state.parts[o] for o in changed if o in self.state.parts)):
            self.nft.commit(messages)
        return time.perf_counter() - began

    def replace(self) -> float:
        """Seconds to make the table anew."""
        began = time.perf_counter()
        self.nft.commit(table.replacement(self.state.parts.values(), PREFIXES))
        return time.perf_counter() - began

    def resync(self) -> float:
        """Seconds to read the table and put all of it in order, as when the daemon starts."""
        began = time.perf_counter()
        there = actual.read(self.nft)
        assert there is not None
        for messages in table.repair(there, self.state.parts.values(), PREFIXES):
            self.nft.commit(messages)
        return time.perf_counter() - began


@contextmanager
def kernel() -> Iterator[Kernel]:
    """A fresh one."""
    name = f"bench-policy-{os.getpid()}"
    path = netns.create(name)
    try:
        with Nftables(path) as nft:
            made = Kernel(nft)
            made.replace()
            yield made
    finally:
        netns.delete(name)


def program(groups: int, members: int, policies: int, rules: int) -> list[Event]:
    """Pods with five policies each, whose rules refer to one group after the other."""
    listed = tuple(Policy(f"default/p{p}", f"p{p}", ingress=tuple(
        Rule(Action.ALLOW, 6, f"g{(p * rules + r) % groups}", ports=((8000 + r, 8000 + r),),
             path=f"spec.ingress[{r}]") for r in range(rules))) for p in range(policies))
    made = tuple(Group(f"g{g}", Kind.ADDRESS, frozenset((10 << 24 | g << 10 | m).to_bytes(4, "big")
                                                        for m in range(members))) for g in range(groups))
    endpoints = tuple(
        Endpoint(Attachment("net", f"c{n}", "eth0"), f"mus{n}", (ipaddress.IPv4Address("172.16.0.0") + n,),
                 ingress=(tuple(sorted({f"default/p{(n * 5 + i) % policies}" for i in range(5)})),))
        for n in range(PODS))
    return [*(Claim(e.attachment, e.interface) for e in endpoints), Update(1, True, made, (), listed, endpoints)]


def figure(what: str, seconds: list[float], limit: float = 0.0) -> Figure:
    values = [1000 * each for each in seconds]
    return Figure(what, min(values), statistics.median(values), max(values), limit)


def measure(*, quick: bool = False) -> list[Figure]:
    """All figures. Raises KernelError, where nf_tables can not be used."""
    tries = 3 if quick else 15
    return [*_sets(tries), *_resync(tries), *_replacing(3 if quick else 8)]


def _sets(tries: int) -> list[Figure]:
    size = 2000
    with kernel() as made:
        made.take(*program(size, 20, size, 5))

        def one(number: int) -> float:
            address = member(f"192.168.{number // 250}.{number % 250}")
            return made.take(Update(2, members=(("g7", frozenset({address}), frozenset()),)))

        def every(number: int) -> float:
            address = frozenset({member(f"192.169.{number // 250}.{number % 250}")})
            return made.take(Update(2, members=tuple((f"g{g}", address, frozenset()) for g in range(size))))

        gone, back = [], []
        for number in range(tries):
            pod = Attachment("net", f"c{number}", "eth0")
            gone.append(made.take(Release(pod)))
            back.append(made.take(Claim(pod, f"mus{number}")))
        return [
            figure(f"one member into one of {size:,} sets, {size:,} chains beside it", [one(n) for n in range(tries)],
                   5.0),
            figure(f"one member into each of {size:,} sets, {size:,} chains look them up",
                   [every(n) for n in range(tries)]),
            figure(f"one pod gone, beside {size:,} sets and chains", gone),
            figure("the same pod back", back)]


def _resync(tries: int) -> list[Figure]:
    with kernel() as made:
        first = made.take(*program(1000, 20, 1000, 5))
        return [figure("1,000 policies x 5 rules, 1,000 sets: first program", [first]),
                figure("the same: resync, the whole table read and written", [made.resync() for _ in range(tries)],
                       500.0),
                figure("the same: made anew", [made.replace() for _ in range(tries)])]


def _replacing(tries: int) -> list[Figure]:
    """With the program that nft(8) would be given, in a process as Felix has it."""
    with kernel() as made:
        made.take(*program(2000, 20, 2000, 5))
        name = made.nft.namespace
        assert name is not None
        ours, theirs = [], []
        for number in range(tries):  # in turn
            key = f"192.170.0.{number}"
            ours.append(made.take(Update(2, members=(("g9", frozenset({member(key)}), frozenset()),))))
            chosen = next(iter(made.state.parts[next(o for o in made.state.parts if o[1] == "g9")].sets))
            theirs.append(_timed(lambda chosen=chosen, key=key: subprocess.run(  # type: ignore[misc]  # bound now
                ["ip", "netns", "exec", Path(name).name, "nft", "add", "element", "inet", "muslin", chosen,
                 "{", key, "}"], check=True, timeout=60)))
        return [figure("one member, by a message of ours", ours), figure("one member, by a process of nft(8)", theirs)]


def _timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Print the table, or lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few tries")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each figure")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("needs root, for a network namespace and nf_tables")
    missed = False
    print(f"{'milliseconds':<72} {'min':>9} {'median':>9} {'max':>9} {'limit':>8}", file=sys.stderr)
    for each in measure(quick=options.quick):
        missed = missed or bool(each.limit and each.median > each.limit)
        limit = f"{each.limit:.0f}" if each.limit else ""
        print(json.dumps(asdict(each)) if options.json else
              f"{each.what:<72} {each.least:>9.2f} {each.median:>9.2f} {each.most:>9.2f} {limit:>8}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
