"""What a listener says, so that a probe knows who answered."""

from __future__ import annotations

from muslin.cli.play.flows import PlayedPort

__all__ = ["greeting", "MOST"]

MOST = 512
"""Bytes; no greeting is longer (two names of at most 253, and a port)."""


def greeting(pod: str, port: PlayedPort) -> bytes:
    """The line that the listener of a pod's port answers with. A UDP listener adds what it was sent."""
    return f"{pod} {port.protocol}/{port.port}\n".encode()
