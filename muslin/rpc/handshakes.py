"""Connections that gRPC refuses before there is a call: seen in what its core writes to stderr, the only place.

grpcio has no hook for a handshake that failed, but its core writes a line with BoringSSL's reason to the process'
standard error. So that goes through a pipe: these lines become a count and a line of ours, as few as of any other
refusal, and all others pass unchanged. Our own log, and the traceback of a crash, go past the pipe.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from muslin.rpc.refusals import refused

__all__ = ["watched", "judged"]

_MARK = "Handshake failed with error "
_REASONS = (
    # In the order in which they are looked for.
    ("certificate has expired", "expired", "a certificate that has expired"),
    ("certificate is not yet valid", "expired", "a certificate that is not valid yet; compare the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "untrusted", "a certificate of an authority that is not trusted"),
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "no certificate", "a caller without a certificate"),
    ("HTTP_REQUEST", "plaintext", "plaintext HTTP"),
    ("WRONG_VERSION_NUMBER", "plaintext", "plaintext, or no TLS at all"),
)


def judged(line: str) -> tuple[str, str] | None:
    """Reason and what to say of a line of the core's; None if it is about something else."""
    _, mark, said = line.partition(_MARK)
    if not mark:
        return None
    for text, reason, what in _REASONS:
        if text in said:
            return reason, f"{what} ({said.strip()})"
    return "handshake", said.strip()


@contextmanager
def watched() -> Iterator[None]:
    """While inside, failed handshakes are counted. For a process as a whole: it moves its standard error."""
    sys.stderr.flush()
    direct = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    before, sys.stderr = sys.stderr, os.fdopen(direct, "w", buffering=1, errors="backslashreplace", closefd=False)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)
    faulthandler.enable(sys.stderr)
    thread = threading.Thread(target=_pass, args=(reading, direct), name="stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # Nothing else writes to the pipe then, so the thread comes to its end.
        os.dup2(direct, 2)
        thread.join(1)


def _pass(reading: int, direct: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        rest = b""
        while piece := pipe.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > 65536:  # no line of the core's
                lines, rest = [*lines, rest], b""
            other = b"".join(line + b"\n" for line in lines if not _counted(line))
            if other:
                _write(direct, other)
        if rest:
            _write(direct, rest)


def _counted(line: bytes) -> bool:
    if _MARK.encode() not in line or (found := judged(line.decode(errors="replace"))) is None:
        return False
    reason, what = found
    refused(reason, "a peer, in its TLS handshake", what)
    return True


def _write(descriptor: int, content: bytes) -> None:
    try:
        while content:
            content = content[os.write(descriptor, content):]
    except OSError:
        pass  # nobody reads the log: the process goes on, as it does without us
