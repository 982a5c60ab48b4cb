"""What policy costs in the core of the service: records in, messages to nodes out, in a process of its own.

    .venv/bin/python -m bench.support.policy_core '{"nodes": 10, "namespaces": 1000, ...}' TRIES

Prints a JSON object: seconds of the load, MB of the process, milliseconds of single changes by the clock and of CPU.
Reading records and manifests is part of it, and so are the bytes of the messages; etcd and gRPC are not.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import msgspec

from bench.support import policy_shapes as shapes
from bench.support.figures import quantiles
from bench.support.policy_shapes import Shape
from bench.support.processes import peak
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2
from services.policy import wire
from services.policy.encoding import Encoder
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone, ResourcePut
from services.policy.hub import Hub
from services.policy.records import Object

__all__ = ["main"]

Change = Callable[[], Event]
"""Reads a record or a manifest."""


class Core:
    """What the service has inside, with a subscription for each node."""

    def __init__(self, shape: Shape) -> None:
        self.hub, self.encoder = Hub(("bench",)), Encoder()
        self.nodes = [self.hub.subscribe(f"node-{number}") for number in range(shape.nodes)]

    async def load(self, shape: Shape) -> tuple[float, float]:
        """Seconds to take everything in, as a service that starts, and those of CPU; making it up is not timed."""
        records = [record.SerializeToString() for record in shape.endpoints()]
        objects = list(shape.objects())
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(records), 500):  # as the endpoint service sends them
            self.hub.put([put(endpoint_pb2.WorkloadEndpoint.FromString(each)) for each in records[start:start + 500]])
        self.hub.put(map(applied, objects))
        self.hub.complete("bench")
        await self.hub.ready.wait()
        return time.perf_counter() - began, time.process_time() - cpu

    def send(self) -> tuple[float, int, int]:
        """Seconds to make the bytes of all messages that there are to send; how many messages, and bytes."""
        began, count, size = time.perf_counter(), 0, 0
        for node in self.nodes:
            if node.changed.is_set():
                update, kind = self.hub.take(node)
                message = self.encoder.response(update, 2, snapshot=kind == "snapshot", resume="bench")
                count, size = count + 1, size + len(message)
        return time.perf_counter() - began, count, size

    def change(self, make: Change) -> tuple[float, float, int]:
        """Seconds from a record to bytes, those of CPU of it, and to how many nodes."""
        began, cpu = time.perf_counter(), time.process_time()
        self.hub.put([make()])
        self.hub.flush()
        _, count, _ = self.send()
        return time.perf_counter() - began, time.process_time() - cpu, count


def put(record: endpoint_pb2.WorkloadEndpoint) -> EndpointPut:
    """The event of an endpoint's record."""
    return EndpointPut(wire.endpoint(record))


def applied(item: policy_pb2.Object) -> ResourcePut:
    """The event of an object."""
    made = Object(item.kind, item.namespace, item.name, item.origin, msgspec.Raw(item.manifest))
    return ResourcePut(made.translate().resource)


def changes(shape: Shape) -> dict[str, Callable[[int], tuple[Change, Change]]]:
    """Kinds of changes: each is made of a number, with another that takes it back."""
    def pod(number: int) -> tuple[Change, Change]:
        return there_and_back(shapes.endpoint(shape, shape.pods + number))

    def dns(number: int) -> tuple[Change, Change]:
        return there_and_back(shapes.dns(shape, 100 + number))

    def label(number: int) -> tuple[Change, Change]:
        where = number * 1009 % shape.pods
        after, before = shapes.endpoint(shape, where, app="app-none"), shapes.endpoint(shape, where)
        return lambda: put(after), lambda: put(before)

    def rule(number: int) -> tuple[Change, Change]:
        where = shape.namespaces * (4 + number % 4) + number % shape.namespaces
        after, before = shapes.policy(shape, where, 9999), shapes.policy(shape, where)
        return lambda: applied(after), lambda: applied(before)

    def policy(number: int) -> tuple[Change, Change]:
        new = shapes.network_policy(f"ns-{number % shape.namespaces}", "more", {
            "podSelector": {"matchLabels": {"app": "app-0"}}, "ingress": [{"from": [{"podSelector": {}}]}]})
        return lambda: applied(new), lambda: ResourceGone(applied(new).resource.id)

    def namespace(number: int) -> tuple[Change, Change]:
        name = f"ns-{number % shape.namespaces}"
        after, before = (shapes.namespace(name, {"team": f"team-{(number + by) % 50}"}) for by in (1, 0))
        return lambda: applied(after), lambda: applied(before)

    return {"pod": pod, "label": label, "rule": rule, "policy": policy, "namespace": namespace, "dns": dns}


def there_and_back(record: endpoint_pb2.WorkloadEndpoint) -> tuple[Change, Change]:
    """A new endpoint, which goes again."""
    return lambda: put(record), lambda: EndpointGone(wire.attachment(record.attachment))


async def measured(shape: Shape, tries: int) -> dict[str, object]:
    """The figures of one shape."""
    core = Core(shape)
    seconds, cpu = await core.load(shape)
    result: dict[str, object] = {"load_s": seconds, "load_cpu_s": cpu}
    taken, count, size = core.send()
    result["snapshots"] = {"seconds": taken, "messages": count, "mb": size / 1e6}
    gc.collect()  # as the service does it, once all is compiled
    gc.freeze()
    for kind, make in changes(shape).items():
        done = [core.change(change) for number in range(tries) for change in make(number)]
        clock, used, nodes = zip(*done, strict=True)
        result[kind] = {**quantiles(clock), "cpu": quantiles(used), "nodes": max(nodes)}
    return result


def main() -> None:
    """Measure one shape."""
    shape = Shape(**json.loads(sys.argv[1]))
    found = asyncio.run(measured(shape, int(sys.argv[2])))
    print(json.dumps({"shape": asdict(shape), **found, "memory_mb": peak(os.getpid())}))


if __name__ == "__main__":
    main()
