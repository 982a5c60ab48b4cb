"""A process' own certificate and whom it trusts: three files, read again when they change.

Files are replaced while we run, one after the other. A set that is not complete yet (a certificate that does not fit
its key) or is damaged is not taken: what was read before stays in use.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

from muslin.errors import FailedPrecondition, InvalidArgument

__all__ = ["Files", "Material", "Certificates", "named"]

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where they are, all PEM: the certificate (with intermediates after it), its key, the authorities trusted."""

    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> Stamp:
        """Changes when a file does. Raises OSError."""
        found = [path.stat() for path in (self.certificate, self.key, self.authority)]
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


@dataclass(frozen=True, slots=True)
class Material:
    """What was in the files."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


class Certificates:
    """The current content of files. Safe for threads: gRPC asks in its own.

    Raises:
        FailedPrecondition: they can not be used, and there are no earlier ones.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._complaint = ""
        try:
            self._stamp: Stamp | None = files.stamp()
            self._material = _read(files)
        except (OSError, ValueError) as problem:
            raise FailedPrecondition(f"TLS: {_said(problem, files)}") from problem

    def load(self) -> Material:
        """What is in the files now, or was when they were last sound. The same object as long as nothing changes."""
        with self._lock:
            try:
                stamp = self.files.stamp()
                if stamp != self._stamp:
                    material = _read(self.files)
                    if stamp == self.files.stamp():  # else they are being replaced right now: next time
                        if material != self._material:
                            self._material = material
                            log.info("TLS: took new files: %s", self.files.certificate)
                        self._stamp, self._complaint = stamp, ""
            except (OSError, ValueError) as problem:
                complaint = _said(problem, self.files)
                if complaint != self._complaint:
                    log.warning("TLS: new files are not taken, those before stay in use: %s", complaint)
                self._complaint = complaint
            return self._material


def named(certificate: Path | None, key: Path | None, authority: Path | None, prefix: str) -> Files | None:
    """The files that three options name; None if none is given.

    Raises:
        InvalidArgument: some of the three are missing.
    """
    if certificate and key and authority:
        return Files(certificate, key, authority)
    if certificate or key or authority:
        raise InvalidArgument(f"--{prefix}-cert, --{prefix}-key and --{prefix}-ca belong together: give all three")
    return None


def _read(files: Files) -> Material:
    """Raises OSError; ValueError if they are no PEM or do not fit."""
    material = Material(*(path.read_bytes() for path in (files.certificate, files.key, files.authority)))
    judge = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        judge.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as problem:
        raise ValueError(f"{files.certificate} and {files.key} are no pair of certificate and key "
                         f"({problem.reason or 'not PEM'})") from None
    try:
        judge.load_verify_locations(cadata=material.authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{files.authority} holds no certificate") from None
    return material


def _said(problem: OSError | ValueError, files: Files) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return f"{problem.filename or files.certificate}: {problem.strerror}"
    return str(problem)
