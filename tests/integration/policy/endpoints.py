"""An endpoint service for one test process: real gRPC, records in memory, and a history that can be cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

PUT, DELETE = endpoint_pb2.Change.KIND_PUT, endpoint_pb2.Change.KIND_DELETE


def record(namespace: str, pod: str, address: str, *, node: str = "n1", container: str = "",
           profile: str = "", **labels: str) -> endpoint_pb2.WorkloadEndpoint:
    """A record such as the endpoint service keeps."""
    return endpoint_pb2.WorkloadEndpoint(
        attachment=cni_pb2.Attachment(network="net", container_id=container or f"c-{namespace}-{pod}", ifname="eth0"),
        node=node, orchestrator="k8s", workload=f"{namespace}.{pod}", namespace=namespace, pod=pod,
        service_account="default", labels=labels, addresses=[address], profiles=[profile or f"k8s_ns.{namespace}"],
        host_interface=f"cali{namespace}{pod}"[:15])


class Endpoints(endpoint_pb2_grpc.EndpointsServicer):
    """The records, and the watches on them."""

    def __init__(self) -> None:
        self.revision = 1
        self.oldest = 1
        """Changes after this revision can still be had."""
        self.watches: list[int] = []
        """Revisions that watches began with."""
        self.complete = asyncio.Event()
        """Cleared, snapshots stay incomplete."""
        self.complete.set()
        self._records: dict[str, endpoint_pb2.WorkloadEndpoint] = {}
        self._history: list[tuple[int, endpoint_pb2.Change]] = []
        self._grown = asyncio.Event()

    def put(self, *records: endpoint_pb2.WorkloadEndpoint) -> None:
        for item in records:
            self.revision += 1
            item.revision = self.revision
            self._records[item.attachment.container_id] = item
            self._note(PUT, item)

    def delete(self, item: endpoint_pb2.WorkloadEndpoint) -> None:
        self.revision += 1
        del self._records[item.attachment.container_id]
        self._note(DELETE, endpoint_pb2.WorkloadEndpoint(attachment=item.attachment, node=item.node))

    def forget_history(self) -> None:
        """As after a compaction: whoever comes with an older revision must start again."""
        self._history.clear()
        self.oldest = self.revision

    def _note(self, kind: Any, item: endpoint_pb2.WorkloadEndpoint) -> None:
        copy = endpoint_pb2.WorkloadEndpoint()
        copy.CopyFrom(item)
        self._history.append((self.revision, endpoint_pb2.Change(kind=kind, endpoint=copy)))
        self._grown.set()

    async def Watch(self, request: endpoint_pb2.WatchRequest,
                    context: Context) -> AsyncIterator[endpoint_pb2.WatchResponse]:
        self.watches.append(request.revision)
        reached = request.revision
        if reached and reached < self.oldest:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "not kept")
        if not reached:
            reached = self.revision
            for item in list(self._records.values()):
                yield endpoint_pb2.WatchResponse(changes=[endpoint_pb2.Change(kind=PUT, endpoint=item)])
            await self.complete.wait()
            yield endpoint_pb2.WatchResponse(revision=reached, snapshot_complete=True)
        else:
            yield endpoint_pb2.WatchResponse(revision=reached)
        while True:
            self._grown.clear()
            news = [(revision, change) for revision, change in self._history if revision > reached]
            if news:
                reached = news[-1][0]
                yield endpoint_pb2.WatchResponse(changes=[change for _, change in news], revision=reached)
            await self._grown.wait()


class EndpointServer:
    """Serves `Endpoints` on a unix socket while entered; `stop` and `start` make it go away and come back."""

    def __init__(self, directory: Path) -> None:
        self.endpoints = Endpoints()  # type: ignore[abstract]  # the policy service only watches
        self.target = f"unix:{directory}/endpoint.sock"
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = grpc.aio.server()
        endpoint_pb2_grpc.add_EndpointsServicer_to_server(self.endpoints, self._server)
        self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
