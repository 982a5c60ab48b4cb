"""What this node knows of the attachments that are wired on it, in files that a restart of the daemon leaves.

They lie in the run directory, which is in memory: pods do not outlive a reboot either. With them the daemon can give
back what the endpoint service has lost, put wiring in order, and say of a pod whose veth is gone where it was.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.cni.invocation import Invocation
from services.node.attachment import Attachment
from services.node.netlink.shaping import Bucket
from services.node.wiring_plan import Wiring

__all__ = ["Record", "Records", "boot_id", "from_endpoint", "of_add"]

log = logging.getLogger(__name__)

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SUFFIX, _UNFINISHED = ".json", ".new"


class Port(msgspec.Struct, frozen=True):
    """A named port of a pod."""

    name: str
    protocol: str
    port: int


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attachment; the fields are those of the endpoint service's record.

    Of labels, ports and service account the node knows what the endpoint service has told it last.
    """

    network: str
    container_id: str
    ifname: str
    boot: str
    """Of the machine, when it was made: after another boot nothing of it is there."""
    host_interface: str
    mac: str
    addresses: tuple[str, ...]
    netns: str = ""
    netns_inode: int = 0
    """Of the namespace: a path may be used again; 0 if it is not known."""
    mtu: int = 0
    ingress: tuple[int, int] | None = None
    """Bytes a second, and bytes at once; None if there is no limit, or none is known."""
    egress: tuple[int, int] | None = None
    orchestrator: str = "cni"
    workload: str = ""
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    service_account: str = ""
    profiles: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    ports: tuple[Port, ...] = ()

    @property
    def attachment(self) -> Attachment:
        """Whose it is."""
        return Attachment(self.network, self.container_id, self.ifname)

    @property
    def wiring(self) -> Wiring:
        """How it is wired.

        Raises:
            ValueError: an address is none.
        """
        return _wiring(self.attachment, self.netns, self.host_interface, self.mac, self.addresses, self.mtu,
                       self.ingress, self.egress)

    @property
    def args(self) -> str:
        """CNI_ARGS that say which pod it is; empty outside Kubernetes."""
        return f"K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.pod}" if self.pod else ""

    def endpoint(self, node: str) -> endpoint_pb2.WorkloadEndpoint:
        """As the endpoint service has it."""
        return endpoint_pb2.WorkloadEndpoint(
            attachment=self.attachment.to_message(), node=node, orchestrator=self.orchestrator,
            workload=self.workload, namespace=self.namespace, pod=self.pod, pod_uid=self.pod_uid,
            service_account=self.service_account,
            labels=self.labels, addresses=self.addresses, profiles=self.profiles, host_interface=self.host_interface,
            mac=self.mac, netns=self.netns,
            ports=[endpoint_pb2.NamedPort(name=p.name, protocol=p.protocol, port=p.port) for p in self.ports])

    @property
    def sandbox_gone(self) -> bool:
        """Whether the pod's namespace is no more. Looks at the file system."""
        if not self.netns:
            return False
        try:
            found = Path(self.netns).stat().st_ino
        except FileNotFoundError:
            return True
        except OSError:
            return False  # can not be told
        return self.netns_inode not in (0, found)


@functools.lru_cache(maxsize=1024)  # every look at the node asks for all of them, and they do not change
def _wiring(attachment: Attachment, netns: str, host_interface: str, mac: str, addresses: tuple[str, ...], mtu: int,
            ingress: tuple[int, int] | None, egress: tuple[int, int] | None) -> Wiring:
    return Wiring(attachment, netns, host_interface, mac, tuple(map(ipaddress.ip_address, addresses)), mtu,
                  *(Bucket(*limit) if limit else None for limit in (ingress, egress)))


def boot_id() -> str:
    """Names this boot of the machine. Empty if the kernel does not say."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def of_add(invocation: Invocation, wiring: Wiring, boot: str) -> Record:
    """The record of an attachment that was just wired."""
    try:
        inode = Path(wiring.netns).stat().st_ino
    except OSError:
        inode = 0
    return Record(
        network=invocation.network, container_id=invocation.container_id, ifname=invocation.ifname, boot=boot,
        host_interface=wiring.host_interface, mac=wiring.mac, addresses=tuple(map(str, wiring.addresses)),
        netns=wiring.netns, netns_inode=inode, mtu=wiring.mtu,
        ingress=(wiring.ingress.rate, wiring.ingress.burst) if wiring.ingress else None,
        egress=(wiring.egress.rate, wiring.egress.burst) if wiring.egress else None,
        orchestrator=invocation.orchestrator,
        workload=invocation.workload, namespace=invocation.namespace, pod=invocation.pod,
        pod_uid=invocation.args.get("K8S_POD_UID", "") if invocation.kubernetes else "",
        profiles=invocation.context.profiles, labels=invocation.conf.labels)


def from_endpoint(endpoint: endpoint_pb2.WorkloadEndpoint, boot: str, known: Record | None) -> Record:
    """The record of an attachment that is wired here, with what the endpoint service says of it."""
    told = Record(
        network=endpoint.attachment.network, container_id=endpoint.attachment.container_id,
        ifname=endpoint.attachment.ifname, boot=boot, host_interface=endpoint.host_interface, mac=endpoint.mac,
        addresses=tuple(endpoint.addresses), netns=endpoint.netns, orchestrator=endpoint.orchestrator,
        workload=endpoint.workload, namespace=endpoint.namespace, pod=endpoint.pod, pod_uid=endpoint.pod_uid,
        service_account=endpoint.service_account, profiles=tuple(endpoint.profiles), labels=dict(endpoint.labels),
        ports=tuple(Port(p.name, p.protocol, p.port) for p in endpoint.ports))
    if known is None:
        return told
    # What was wired is what was wired, whatever the record says now.
    return msgspec.structs.replace(known, service_account=told.service_account, profiles=told.profiles,
                                   labels=told.labels, ports=told.ports)


class Records:
    """The records and their files, the same at any time. Small files in memory: written where they are needed."""

    def __init__(self, directory: Path, boot: str) -> None:
        self._directory = directory
        self._boot = boot
        self._records: dict[Attachment, Record] = {}

    @property
    def boot(self) -> str:
        """Name of the boot that records are made in."""
        return self._boot

    def load(self) -> None:
        """Read what an earlier run left; what is unfinished, damaged or of another boot goes.

        Raises:
            OSError: the directory can not be made or read.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.iterdir()):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                _ = record.wiring
            except (ValueError, msgspec.MsgspecError) as error:
                if path.suffix == _SUFFIX:
                    log.warning("%s is no record, and goes: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            if path.suffix != _SUFFIX or record.boot != self._boot or path != self._path(record.attachment):
                path.unlink(missing_ok=True)
                continue
            self._records[record.attachment] = record

    def get(self, attachment: Attachment) -> Record | None:
        """One, if it is there."""
        return self._records.get(attachment)

    def all(self) -> Mapping[Attachment, Record]:
        """All, as of now."""
        return dict(self._records)

    def put(self, record: Record) -> None:
        """Keep one.

        A file that can not be written costs no pod its network: that is logged, and the record lasts until a restart.
        """
        attachment = record.attachment
        if self._records.get(attachment) == record:
            return
        self._records[attachment] = record
        path = self._path(attachment)
        try:
            new = path.with_suffix(_UNFINISHED)
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, msgspec.json.encode(record))
            finally:
                os.close(handle)
            new.rename(path)
        except OSError as error:
            log.warning("%s: %s; a restart of this daemon will not know %s", path, error.strerror, attachment)

    def remove(self, attachments: Iterable[Attachment]) -> None:
        """Forget some."""
        for attachment in attachments:
            self._records.pop(attachment, None)
            try:
                self._path(attachment).unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s: %s", self._path(attachment), error.strerror)

    def _path(self, attachment: Attachment) -> Path:
        # None of the three can hold a slash (CNI specification), and all together fit into an alias of 255 bytes.
        return self._directory / ("@".join(attachment) + _SUFFIX)
