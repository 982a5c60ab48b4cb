"""Run it, and say what came of it."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

from muslin import rpc
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import MuslinError
from tests.soak.history import History
from tests.soak.runtime import Runtime
from tests.soak.world import COOL_DOWN, World, world
from tests.support import ipam_invariants

_PODS = 24
_FINISH = 120.0


class Soak:
    """One run."""

    def __init__(self, made: World, history: History) -> None:
        self.world, self.history, self.checks = made, history, 0

    async def run(self, seconds: float, seed: int) -> None:
        """Live, disturb, heal, and look at what is left."""
        rng, over = random.Random(seed), asyncio.Event()
        runtimes = [Runtime(self.world, self.history, number, seed) for number in range(_PODS)]
        lives = [asyncio.create_task(runtime.run(over)) for runtime in runtimes]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.history.violations:
            await asyncio.sleep(rng.uniform(0.1, 1.2))
            await self.world.disturb(rng)
            await self.check()
            if done := next((life for life in lives if life.done()), None):
                await done
        over.set()
        await self.world.heal()
        async with asyncio.timeout(_FINISH):
            await asyncio.gather(*lives)
        await self.at_rest()
        for runtime in runtimes:
            await runtime.end()
        await self.at_rest()
        if self.history.live:
            self.history.violation(f"all was deleted, and {self.history.live} is left")

    async def check(self) -> None:
        """What must hold at any moment, read from etcd itself."""
        try:
            records = await ipam_invariants.read(self.world.etcd)
        except MuslinError:
            return  # the store is away
        self.checks += 1
        self.history.violations += ipam_invariants.violations(records)

    async def at_rest(self) -> None:
        """Nothing is under way: addresses, endpoint records and the service's own check agree."""
        self.checks += 1
        live = {attachment.identity: address for attachment, address in self.history.live.items()}
        try:
            await ipam_invariants.check(self.world.etcd, live)
        except AssertionError as problem:
            self.history.violations += str(problem).splitlines()
        with rpc.translated("list endpoints"):
            listed = await self.world.endpoints[0].api.List(endpoint_pb2.ListRequest(), timeout=20)
        recorded = {f"{each.attachment.network}/{each.attachment.container_id}/{each.attachment.ifname}":
                    each.addresses[0].partition("/")[0] for each in listed.endpoints}
        if recorded != live:
            self.history.violation(f"endpoint records {recorded} are not the attachments {live}")
        for replica in self.world.ipams:
            with rpc.translated("check"):
                report = (await replica.api.Check(ipam_pb2.CheckRequest(), timeout=30)).report
            self.history.violations += [f"muslin ipam check: {line.subject}: {line.detail}" for line in report.problems]


async def soak(seconds: float, seed: int, members: int, file: Path | None) -> int:
    """The number of violations, after telling all about it."""
    history = History(COOL_DOWN)
    print(f"soaking for {seconds:.0f} s, seed {seed}", flush=True)
    async with world(members) as made:
        run = Soak(made, history)
        try:
            await run.run(seconds, seed)
        except (MuslinError, AssertionError, TimeoutError, RuntimeError) as problem:
            history.violation(f"it did not heal: {type(problem).__name__}: {problem}")
        if history.violations:
            for service in made.services:
                print(f"--- {service.name} ---\n{service.tail()}", file=sys.stderr)
    if file:
        history.write(file)
    for violation in history.violations[:50]:
        print(f"violated: {violation}")
    outcomes, faults = history.counts(), made.faults
    print(f"attachments made   {history.made}")
    print(f"requests           {len(history.operations)} "
          f"({', '.join(f'{number} {outcome}' for outcome, number in sorted(outcomes.items()))})")
    print(f"faults injected    {faults.total()} "
          f"({', '.join(f'{name} {number}' for name, number in sorted(faults.items()))})")
    print(f"store inspected    {run.checks} times")
    print(f"violations         {len(history.violations)}")
    return len(history.violations)


def main() -> int:
    """The exit code: 0 if nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the choices; timing stays chance")
    parser.add_argument("--members", type=int, default=3, help="of the etcd cluster")
    parser.add_argument("--history", type=Path, metavar="FILE", help="write all operations there, as JSON lines")
    options = parser.parse_args()
    return 1 if asyncio.run(soak(options.seconds, options.seed, options.members, options.history)) else 0


if __name__ == "__main__":
    sys.exit(main())
