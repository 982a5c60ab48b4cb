"""What operators do when something is wrong: look for leaks, check, release, rebuild, remove nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.console import Console
from muslin.cli.ipam import address, report, views
from muslin.cli.ipam.client import LONG, QUICK, Client, connected
from muslin.cli.ipam.options import Where
from muslin.cli.ipam.output import plain, structured
from muslin.cli.ipam.table import Look
from muslin.errors import FailedPrecondition, InvalidArgument, MuslinError, NotFound
from muslin.rpc import translated

__all__ = ["check", "collect", "rebuild", "release", "release_affinity", "release_reported", "remove_node"]


async def check(where: Where, form: str, file: Path | None) -> int:
    """Compare the records with each other and with what endpoints use; returns the exit code, 1 for problems."""
    console = Console()
    async with connected(where) as client:
        with translated("ipam: check"):
            found = (await client.stub.Check(ipam_pb2.CheckRequest(), timeout=LONG)).report
    if file is not None:
        report.write(file, found)
    console.result(views.problems(found) if form == "table" else structured(plain(found), form))
    if file is not None:
        console.say(f"report written to {file}")
    return 1 if found.problems else 0


async def collect(where: Where, form: str, *, dry_run: bool) -> None:
    """Look for what nobody claims, and free what was found before."""
    async with connected(where) as client:
        with translated("ipam: collect"):
            answer = await client.stub.Collect(ipam_pb2.CollectRequest(dry_run=dry_run), timeout=LONG)
    Console().result(views.findings(answer.findings, Look.of_stdout(), dry_run=dry_run) if form == "table"
                     else structured(plain(answer), form))


async def rebuild(where: Where, form: str, *, dry_run: bool) -> None:
    """Make the records anew from what endpoints use, or say what would be done."""
    async with connected(where) as client:
        with translated("ipam: rebuild"):
            answer = await client.stub.Rebuild(ipam_pb2.RebuildRequest(dry_run=dry_run), timeout=LONG)
    if form != "table":
        Console().result(structured(plain(answer), form))
        return
    number = len(answer.actions)
    if not number:
        last = "there is nothing to rebuild"
    else:
        last = f"{number} action{'' if number == 1 else 's'}"
        last += ": nothing is changed yet; do it with --apply" if dry_run else " done"
    Console().result("\n".join([*map(views.printable, answer.actions), last]))


async def release_reported(where: Where, form: str, file: Path) -> None:
    """Free what a report says is not in use."""
    found = report.read(file)
    async with connected(where) as client:
        with translated("ipam: release reported"):
            request = ipam_pb2.ReleaseReportedRequest(report=found)
            answer = await client.stub.ReleaseReported(request, timeout=LONG)
    if form != "table":
        Console().result(structured(plain(answer), form))
        return
    console = Console()
    for line in [f"freed {freed}" for freed in answer.addresses] or ["nothing was freed"]:
        console.result(line)
    for line in views.problem_lines(answer.skipped):
        console.warn(f"left alone, it has changed or is too young to be sure: {line}")


async def release(where: Where, form: str, targets: Sequence[str], confirm: Callable[[str], None]) -> None:
    """Free what attachments hold, each named by itself or by one of its addresses.

    `confirm` is asked once, with all that will be freed, and raises if it shall not be.

    Raises:
        NotFound: an address that nobody holds.
        FailedPrecondition: one that is kept for its pod's return, or has no handle.
    """
    async with connected(where) as client:
        attachments = [await _attachment(client, target) for target in targets]
        lines = [await _at_stake(client, attachment) for attachment in attachments]
        confirm("\n".join(lines))
        freed: list[str] = []
        for attachment in attachments:
            with translated(f"ipam: release {_identity(attachment)}"):
                request = ipam_pb2.ReleaseRequest(attachment=attachment)
                freed += (await client.stub.Release(request, timeout=QUICK)).addresses
    if form != "table":
        Console().result(structured({"addresses": freed}, form))
    elif freed:
        Console().result("\n".join(f"freed {item}" for item in freed))
    else:
        Console().result("nothing was freed: nothing was held, or it is kept for the pod's return")


async def release_affinity(where: Where, form: str, node: str, cidr: str) -> None:
    """Take blocks from a node."""
    async with connected(where) as client:
        with translated("ipam: release affinity"):
            request = ipam_pb2.ReleaseAffinityRequest(node=node, cidr=cidr)
            answer = await client.stub.ReleaseAffinity(request, timeout=LONG)
    if form != "table":
        Console().result(structured(plain(answer), form))
        return
    lines = [f"{block} was empty and is deleted" for block in answer.deleted]
    lines += [f"{block} is nobody's now" for block in answer.orphaned]
    Console().result("\n".join(lines) or f"node {node} has no such block")


async def remove_node(where: Where, form: str, node: str) -> None:
    """Free all that a node that is gone held."""
    async with connected(where) as client:
        with translated("ipam: remove node"):
            answer = await client.stub.RemoveNode(ipam_pb2.RemoveNodeRequest(node=node), timeout=LONG)
    if form != "table":
        Console().result(structured(plain(answer), form))
        return
    lines = [f"freed {freed}" for freed in answer.addresses] + [f"block {block} is gone" for block in answer.blocks]
    Console().result("\n".join(lines) or f"node {node} held nothing")


async def _attachment(client: Client, target: str) -> cni_pb2.Attachment:
    """Whom an address, or `network/container/interface`, stands for."""
    if "/" in target:
        parts = target.split("/")
        if len(parts) != 3 or not all(parts):
            raise InvalidArgument(f"{target!r} is neither an address nor NETWORK/CONTAINER/INTERFACE")
        return cni_pb2.Attachment(network=parts[0], container_id=parts[1], ifname=parts[2])
    found = await client.lookup(target)
    if found.HasField("handle"):
        if until := found.handle.kept_until_ms:
            raise FailedPrecondition(f"{target} is kept for the return of pod {views.pod(found.handle)} until "
                                     f"{views.when(until)}, and freed then")
        return found.handle.attachment
    if found.HasField("slot") and not found.slot.released_ms:
        raise FailedPrecondition(f"{target} is held by {found.slot.handle}, whose handle is not there; repair that "
                                 "with: muslin ipam rebuild")
    raise NotFound(f"{target} is not held by anybody: it is {address.state(found)}")


async def _at_stake(client: Client, attachment: cni_pb2.Attachment) -> str:
    """What releasing an attachment means, in a line."""
    line = f"all addresses of {_identity(attachment)} will be freed"
    try:
        record = await client.endpoint(attachment)
    except MuslinError:
        return f"{line}; whether it is in use is not known, the endpoint service does not answer"
    if record is None:
        return f"{line}; no endpoint uses them"
    who = f"pod {record.namespace}/{record.pod}" if record.pod else f"container {attachment.container_id}"
    return f"{line}, ALTHOUGH {who} on node {record.node} USES {' '.join(record.addresses)}"


def _identity(attachment: cni_pb2.Attachment) -> str:
    return f"{attachment.network}/{attachment.container_id}/{attachment.ifname}"
