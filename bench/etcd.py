"""What the ways to reach etcd cost: python-etcd3 in threads, the stubs on grpc.aio, and muslin.etcd, in turn.

    .venv/bin/python bench/etcd.py [--quick]

It starts an etcd of its own; where that can (3.5 and later) it does not wait for the disk, which would hide the
clients' share. A transaction is what an allocation is: one comparison and one put of 200 bytes. Event loop: uvloop, as
in the services.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from socket import socket
from tempfile import TemporaryDirectory

import grpc
import uvloop

from muslin.etcd import Etcd, Put, absent
from muslin.etcd.binary import etcd_version, find_etcd
from muslin.etcd.compat import etcd3
from muslin.etcd.stubs import rpc_pb2 as pb
from muslin.etcd.stubs import rpc_pb2_grpc as rpc

VALUE = b"x" * 200
RECORDS = 10_000
names = (f"/bench/{number}" for number in count())


@contextmanager
def serving() -> Iterator[str]:
    """An etcd with an empty store; its endpoint."""
    program = find_etcd()
    with socket() as one, socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        client, peer = (f"http://127.0.0.1:{free.getsockname()[1]}" for free in (one, other))
    flags = ["--unsafe-no-fsync"] if etcd_version(program) >= (3, 5, 0) else []
    with TemporaryDirectory() as data:
        process = subprocess.Popen(
            [program, "--data-dir", data, "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
             *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield client.removeprefix("http://")
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Row:
    """One measurement; times in microseconds, CPU that of this process alone."""

    what: str
    at_once: int
    p50: float
    p99: float
    per_second: float
    cpu: float


def cpu() -> float:
    """Seconds of CPU that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(what: str, operation: Callable[[], Awaitable[object]], at_once: int, total: int) -> Row:
    """Run an operation `total` times, `at_once` of them at any time."""
    taken: list[float] = []
    left = iter(range(total))

    async def worker() -> None:
        for _ in left:
            begun = time.perf_counter()
            await operation()
            taken.append(time.perf_counter() - begun)

    begun, used = time.perf_counter(), cpu()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    wall, used = time.perf_counter() - begun, cpu() - used
    taken.sort()
    return Row(what, at_once, taken[total // 2] * 1e6, taken[total * 99 // 100] * 1e6, total / wall, used / total * 1e6)


async def transactions(endpoint: str, quick: bool) -> list[Row]:
    """Compare and put."""
    host, _, port = endpoint.partition(":")
    blocking = etcd3.client(host=host, port=int(port), timeout=5)
    threads = ThreadPoolExecutor(64)
    channel = grpc.aio.insecure_channel(f"ipv4:{endpoint}")
    kv = rpc.KVStub(channel)

    def block() -> None:
        name = next(names)
        done, _ = blocking.transaction(compare=[blocking.transactions.mod(name) == 0],
                                       success=[blocking.transactions.put(name, VALUE)], failure=[])
        assert done

    async def in_threads() -> None:
        await asyncio.get_running_loop().run_in_executor(threads, block)

    async def on_stubs() -> None:
        name = next(names).encode()
        compare = pb.Compare(key=name, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=0)
        put = pb.RequestOp(request_put=pb.PutRequest(key=name, value=VALUE))
        assert (await kv.Txn(pb.TxnRequest(compare=[compare], success=[put]), timeout=5)).succeeded

    rows = []
    async with Etcd([endpoint]) as etcd:
        await etcd.put("/bench/ready", b"", timeout=20)

        async def ours() -> None:
            name = next(names)
            assert (await etcd.txn([absent(name)], [Put(name, VALUE)])).succeeded

        for _ in range(1 if quick else 2):
            for at_once, total in ((1, 200), (64, 1000)) if quick else ((1, 1000), (64, 4000)):
                rows.append(await measure("txn python-etcd3, 64 threads", in_threads, at_once, total))
                rows.append(await measure("txn grpc.aio stubs", on_stubs, at_once, total))
                rows.append(await measure("txn muslin.etcd", ours, at_once, total))
    await channel.close()
    blocking.close()
    threads.shutdown()
    return rows


async def reading(endpoint: str, quick: bool) -> list[Row]:
    """All records under a prefix, and the time from a write to its event."""
    async with Etcd([endpoint]) as etcd:
        await asyncio.gather(*(etcd.put(f"/list/{number:05}", VALUE, timeout=60) for number in range(RECORDS)))

        async def listing() -> None:
            assert len((await etcd.range("/list/")).items) == RECORDS

        watch = etcd.watch("/event/", await etcd.put("/event/first", b""))
        await anext(watch)

        async def event() -> None:
            _, batch = await asyncio.gather(etcd.put("/event/one", VALUE), anext(watch))
            assert len(batch.events) == 1

        rows = [await measure(f"range of {RECORDS} records", listing, 1, 3 if quick else 10),
                await measure("put until its event is here", event, 1, 200 if quick else 1000)]
        await watch.aclose()
        return rows


def best(rows: list[Row]) -> list[Row]:
    """Of several rounds the one with the most throughput: the least disturbed by the rest of the machine."""
    chosen: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row.what, row.at_once
        if key not in chosen or row.per_second > chosen[key].per_second:
            chosen[key] = row
    return list(chosen.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the ways to reach etcd cost.")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for trying it out")
    quick = parser.parse_args().quick
    with serving() as endpoint:
        rows = best(uvloop.run(transactions(endpoint, quick))) + uvloop.run(reading(endpoint, quick))
    print(f"{'':38}{'at once':>8}{'p50 us':>10}{'p99 us':>10}{'per s':>9}{'CPU us':>9}")
    for row in rows:
        print(f"{row.what:38}{row.at_once:8}{row.p50:10.0f}{row.p99:10.0f}{row.per_second:9.0f}{row.cpu:9.0f}")
    print(json.dumps({"bench": "etcd", "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
