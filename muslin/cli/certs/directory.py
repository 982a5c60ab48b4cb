"""The certificates as files: keeps what is valid, renews what soon ends, and never shows half of a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from muslin.cli.certs.authority import Authority, Pair
from muslin.cli.certs.subjects import Subject
from muslin.errors import Conflict, IOFailure

__all__ = ["put", "write", "Owner"]

Owner = tuple[int, int]
"""User and group of what is written."""

_AUTHORITY_DAYS = 3650
_AUTHORITY_RENEW = 365
"""Days before its end at which an authority is followed by a new one; what it signed stays good meanwhile."""
_BEGIN = b"-----BEGIN CERTIFICATE-----"


def write(folder: Path, subjects: Sequence[Subject], *, days: int, renew: float,
          owner: Owner | None = None) -> Iterator[str]:
    """Have all certificates in a folder; says what was done with each.

    `days` are those that a new certificate is valid for; one that ends within `renew` days is replaced. In
    `folder` are ca.crt, what everybody trusts, and ca.key, which only this command needs; in a folder for each
    subject tls.crt, tls.key and ca.crt.

    Raises:
        Conflict: another process is at it.
        IOFailure: a file can not be read or written, or the authority's are damaged.
    """
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(folder):
            yield from _write(folder, subjects, days, renew, owner)
    except OSError as problem:
        raise IOFailure(f"{problem.filename or folder}: {problem.strerror}") from problem


def _write(folder: Path, subjects: Sequence[Subject], days: int, renew: float, owner: Owner | None) -> Iterator[str]:
    authority, trusted, said = _authority(folder)
    yield f"ca: {said}"
    for subject in subjects:  # first: who reads them must trust what comes next
        place = folder / subject.name
        place.mkdir(mode=0o755, exist_ok=True)
        put(place / "ca.crt", trusted, 0o644)
    for subject in subjects:
        certificate, key = folder / subject.name / "tls.crt", folder / subject.name / "tls.key"
        pair = _read(certificate, key)
        complaint = authority.complaint(pair, subject, renew) if pair else "it is new"
        if complaint or pair is None:
            pair = authority.issue(subject, days)
        # Whoever reads between the two finds a pair that does not fit, and keeps what it has.
        put(key, pair.key, 0o600, owner)
        put(certificate, pair.certificate, 0o644, owner)
        yield f"{subject.name}: {f'made: {complaint}' if complaint else 'kept'}"


def _authority(folder: Path) -> tuple[Authority, bytes, str]:
    """The authority that signs, all that are trusted, and what was done."""
    certificate, key = folder / "ca.crt", folder / "ca.key"
    found = _read(certificate, key)
    if found is None and (certificate.exists() or key.exists()):
        raise IOFailure(f"{folder}: of ca.crt and ca.key one is missing; put it back, or remove both for an authority "
                        "that nobody knows yet")
    before = [_BEGIN + each for each in found.certificate.split(_BEGIN)[1:]] if found else []
    if found and not before:
        raise IOFailure(f"{certificate} holds no certificate; remove it and ca.key for a new authority")
    for each in before:
        try:
            authority = Authority(Pair(each, found.key if found else b""))
        except ValueError:
            continue  # not the one of this key: an earlier one, or the file of a run that was cut short
        if authority.pair.days > _AUTHORITY_RENEW:
            put(key, authority.pair.key, 0o600)
            return authority, b"".join(before), "kept"
    authority = Authority.make(_AUTHORITY_DAYS)
    trusted = b"".join([authority.pair.certificate, *before])
    put(key, authority.pair.key, 0o600)
    put(certificate, trusted, 0o644)
    return authority, trusted, "made" + ("; those before it stay trusted" if before else "")


def _read(certificate: Path, key: Path) -> Pair | None:
    try:
        return Pair(certificate.read_bytes(), key.read_bytes())
    except FileNotFoundError:
        return None


def put(path: Path, content: bytes, mode: int, owner: Owner | None = None) -> None:
    """Have a file with this content; at any moment it is the old one or the new. Its owner stays, if nobody says."""
    try:
        there = path.stat()
        owner = owner or (there.st_uid, there.st_gid)
        if (path.read_bytes(), there.st_mode & 0o777, (there.st_uid, there.st_gid)) == (content, mode, owner):
            return
    except FileNotFoundError:
        pass
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # of a run that was cut short: we hold the lock
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            if owner:
                os.fchown(descriptor, *owner)
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process makes certificates in {folder} at this moment; try again") from None
        yield
    finally:
        os.close(descriptor)
