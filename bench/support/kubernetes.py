"""What bench/kubernetes.py measures."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.support.figures import quantiles, row
from muslin.etcd import Etcd, keys
from tests.support.apiserver import ApiServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service

POLICIES, PODS, NAMESPACES = "/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/pods", "/api/v1/namespaces"
SPACES = 200
_WIDTHS = (44, 12, 12)
_IDLE = 10.0


async def filled(api: ApiServer, objects: int) -> None:
    """Namespaces, and so many policies and pods, each of the size that is usual."""
    for number in range(SPACES):
        await api.put(NAMESPACES, f"ns{number}", metadata={"labels": {"team": str(number % 7)}})
    environment = [{"name": "SETTING", "value": "x" * 50}] * 20
    for number in range(objects):
        place, app = f"ns{number % SPACES}", {"app": f"a{number % 50}"}
        await api.put(POLICIES, f"p{number}", place, spec={
            "podSelector": {"matchLabels": app}, "ingress": [{"from": [{"podSelector": {"matchLabels": app}}]}]})
        await api.put(PODS, f"p{number}", place, metadata={"labels": app}, spec={"containers": [
            {"name": "c", "env": environment, "ports": [{"name": "http", "containerPort": 80}]}]})
    api.forget_before(api.version)


async def stored(store: Etcd, prefix: str, count: int, began: float) -> float:
    """Seconds until there are so many records."""
    while len((await store.range(prefix)).items) < count:  # noqa: ASYNC110  looked at like anybody would
        await asyncio.sleep(0.05)
    return time.perf_counter() - began


async def changes(api: ApiServer, store: Etcd, path: str, prefix: str, count: int) -> list[float]:
    """Seconds from each change in the API server to its record in etcd, one after the other."""
    taken = []
    async with store.watch(prefix, (await store.range(prefix)).revision + 1) as watch:
        for number in range(count):
            label = {"n": str(number)}
            spec: dict[str, Any] = {"podSelector": {"matchLabels": label}} if path == POLICIES else {}
            began = time.perf_counter()
            await api.put(path, "changing", "ns0", metadata={"labels": label}, spec=spec)
            async for batch in watch:
                if batch.events:
                    break
            taken.append(time.perf_counter() - began)
    return taken


def memory(service: Service) -> float:
    """MB that a process has."""
    lines = Path(f"/proc/{service.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def cpu(service: Service) -> float:
    """Seconds of CPU that a process has had."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(objects: int, count: int) -> dict[str, float]:
    """All figures."""
    figures: dict[str, float] = {"objects": objects}
    with ExitStack() as stack:
        etcd = stack.enter_context(EtcdServer())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        async with ApiServer() as api, Etcd([etcd.endpoint]) as store:
            await filled(api, objects)
            arguments = ("--etcd", etcd.endpoint, "--kubeconfig", str(api.kubeconfig(folder / "config")))
            endpoint = Service("endpoint", *arguments)
            policy = Service("policy", *arguments, "--endpoint", endpoint.target)
            services = {"policy": policy, "endpoint": endpoint}
            for service in services.values():
                stack.callback(service.stop)
                service.launch()
            for service in services.values():
                await asyncio.to_thread(service.wait)
            began = time.perf_counter()
            figures["policy_stored_s"] = await stored(store, keys.POLICY_OBJECTS, objects + SPACES, began)
            figures["endpoint_stored_s"] = await stored(store, keys.PODS, objects, began)
            for name, path, prefix in (("policy", POLICIES, keys.POLICY_OBJECTS), ("endpoint", PODS, keys.PODS)):
                taken = quantiles(await changes(api, store, path, prefix, count))
                figures |= {f"{name}_change_{key}": value for key, value in taken.items()}
            before = {name: cpu(service) for name, service in services.items()}
            await asyncio.sleep(_IDLE)
            for name, service in services.items():
                figures[f"{name}_idle_percent"] = (cpu(service) - before[name]) / _IDLE * 100
                figures[f"{name}_mb"] = memory(service)
    return figures


def main() -> None:
    """Print the table, and the figures as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--objects", type=int, default=3500)
    given = parser.parse_args()
    objects, count = (500, 50) if given.quick else (given.objects, 200)
    figures = asyncio.run(measure(objects, count))
    print(row((f"{objects} policies and pods, {SPACES} namespaces", "policy", "endpoint"), _WIDTHS))
    for what, key, digits in (
            ("all stored after the services are ready, s", "stored_s", 1), ("a change, to its record, p50 ms",
             "change_p50_ms", 1), ("the same, p99 ms", "change_p99_ms", 1), ("memory, MB", "mb", 0),
            ("CPU when nothing happens, % of a core", "idle_percent", 1)):
        print(row((what, *(f"{figures[f'{name}_{key}']:.{digits}f}" for name in ("policy", "endpoint"))), _WIDTHS))
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
