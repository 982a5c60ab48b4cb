"""What `muslin endpoint ...` does."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.cli.client import elsewhere, target_of
from muslin.cli.console import Console
from muslin.cli.endpoint import views
from muslin.cli.ipam.options import Where
from muslin.cli.ipam.output import plains, structured
from muslin.cli.ipam.table import Look
from muslin.errors import InvalidArgument, NotFound
from muslin.rpc import channel, translated

__all__ = ["relabel", "show_list", "show_one"]

TIMEOUT = 15.0
"""Seconds for one request."""
CONNECT = 2.0
"""Seconds for connecting."""
PAGE = 2_000
"""Records asked for at a time."""

Record = endpoint_pb2.WorkloadEndpoint


@asynccontextmanager
async def _connected(where: Where) -> AsyncIterator[endpoint_pb2_grpc.EndpointsAsyncStub]:
    """The endpoint service. Raises Unavailable if a run directory is meant on which nothing runs."""
    async with channel(elsewhere("endpoint") or where.target or target_of("endpoint", where.run)) as connection:
        try:
            await asyncio.wait_for(connection.channel_ready(), CONNECT)
        except TimeoutError:
            pass  # why there is none, the first request says
        stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(connection)
        yield stub


async def _all(stub: endpoint_pb2_grpc.EndpointsAsyncStub, filters: Mapping[str, str]) -> tuple[list[Record], int]:
    """All records that match, page by page, and the revision that they show."""
    records: list[Record] = []
    request = endpoint_pb2.ListRequest(page_size=PAGE, **filters)
    while True:
        with translated("endpoint: list"):
            answer = await stub.List(request, timeout=TIMEOUT)
        records += answer.endpoints
        if not answer.next_page_token:
            return records, answer.revision
        request.page_token = answer.next_page_token


async def show_list(where: Where, form: str, filters: Mapping[str, str]) -> None:
    """The records that match, a line for each."""
    async with _connected(where) as stub:
        records, revision = await _all(stub, filters)
    Console().result(views.listed(records, Look.of_stdout()) if form == "table"
                     else structured({"revision": revision, "endpoints": plains(records)}, form))


async def show_one(where: Where, form: str, what: str) -> None:
    """The records that a name stands for, in full."""
    async with _connected(where) as stub:
        records = await _named(stub, what)
    if not records:
        raise NotFound(f"no endpoint is called {what!r}: say NAMESPACE/POD, an address, a container's id, or "
                       "NETWORK/CONTAINER/INTERFACE; see: muslin endpoint list")
    _show(records, form)


async def relabel(where: Where, form: str, attachment: str, put: Mapping[str, str], remove: Sequence[str]) -> None:
    """Change labels, and show the record."""
    request = endpoint_pb2.UpdateLabelsRequest(attachment=_attachment(attachment), set=put, remove=remove)
    async with _connected(where) as stub:
        with translated("endpoint: labels"):
            record = (await stub.UpdateLabels(request, timeout=TIMEOUT)).endpoint
    _show([record], form)


def _show(records: Sequence[Record], form: str) -> None:
    Console().result("\n\n".join(map(views.described, records)) if form == "table"
                     else structured({"endpoints": plains(records)}, form))


async def _named(stub: endpoint_pb2_grpc.EndpointsAsyncStub, what: str) -> list[Record]:
    if what.count("/") == 2:
        with translated("endpoint: get"):
            answer = await stub.Get(endpoint_pb2.GetRequest(attachment=_attachment(what)), timeout=TIMEOUT)
        return [answer.endpoint]
    namespace, slash, pod = what.rpartition("/")
    records, _ = await _all(stub, {"namespace": namespace})
    if slash:
        return [record for record in records if record.pod == pod]
    try:
        address = str(ipaddress.ip_address(what))
    except ValueError:
        return [record for record in records if record.attachment.container_id.startswith(what)]
    return [record for record in records if address in record.addresses]


def _attachment(text: str) -> cni_pb2.Attachment:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise InvalidArgument(f"{text!r} is no attachment: say NETWORK/CONTAINER/INTERFACE")
    return cni_pb2.Attachment(network=parts[0], container_id=parts[1], ifname=parts[2])
