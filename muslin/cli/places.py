"""Where a running Muslin keeps its sockets and its state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Places", "DEFAULT_RUN", "DEFAULT_STATE", "SERVICES"]

DEFAULT_RUN = Path("/run/muslin")
DEFAULT_STATE = Path("/var/lib/muslin")

SERVICES = ("ipam", "endpoint", "policy", "node")
"""The services, in the order they are named everywhere."""


@dataclass(frozen=True, slots=True)
class Places:
    """Paths under the run directory (gone with the machine's uptime) and the state directory (kept)."""

    run: Path
    state: Path

    def socket(self, service: str) -> Path:
        """The unix socket of a service. The node's is the one that the shim calls."""
        return self.run / ("muslin.sock" if service == "node" else f"{service}.sock")

    def target(self, service: str) -> str:
        """The same as an address to dial or listen on."""
        return f"unix:{self.socket(service)}"

    @property
    def run_lock(self) -> Path:
        """Held, and describing itself, while `muslin up` runs on the run directory."""
        return self.run / "up.json"

    @property
    def state_lock(self) -> Path:
        """Held while `muslin up` runs on the state directory."""
        return self.state / "up.lock"

    @property
    def etcd(self) -> Path:
        """The data of etcd."""
        return self.state / "etcd"

    @property
    def etcd_ports(self) -> Path:
        """The ports that etcd had last, to be had again."""
        return self.state / "etcd.json"

    @property
    def plays(self) -> Path:
        """One record for each play that is under way or kept."""
        return self.state / "plays"

    @property
    def deletions(self) -> Path:
        """Deletions that the plugin could not do, and the node does."""
        return self.state / "deletions"

    def log(self, name: str) -> Path:
        """The log file of a service, of `etcd`, or of `up` itself when detached."""
        return self.state / "logs" / f"{name}.log"
