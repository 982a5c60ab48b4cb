"""Datagrams from one pod to another, and when policy stops them or lets them pass."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from muslin import netns
from tests.kubernetes.machine import until

__all__ = ["Flow"]

PERIOD, SILENCE = 0.002, 0.4
"""Seconds between two packets; so long without one means that they are stopped."""
_PORT = 7000


class Flow:
    """Datagrams from one pod to another, all the time; when the last one arrived."""

    def __init__(self, sender: Path, receiver: Path, address: str) -> None:
        self._send = netns.open_socket(sender, socket.AF_INET, socket.SOCK_DGRAM)
        self._receive = netns.open_socket(receiver, socket.AF_INET, socket.SOCK_DGRAM)
        self._receive.bind(("", _PORT))
        self._receive.settimeout(0.1)
        self._send.connect((address, _PORT))
        self._over = threading.Event()
        self._last = 0.0
        self._first = threading.Condition()
        self._threads = [threading.Thread(target=self._sending), threading.Thread(target=self._receiving)]

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._send.close()
        self._receive.close()

    def passes(self, since: float) -> float:
        """Seconds from a moment until the first packet after it arrived."""
        with self._first:
            assert self._first.wait_for(lambda: self._last > since, 60), "no packet passes"
            return self._last - since

    def stops(self, since: float) -> float:
        """Seconds from a moment until the last packet arrived."""
        until(lambda: time.monotonic() - max(self._last, since) > SILENCE, "packets are stopped", 60, 0.02)
        return max(self._last - since, 0.0)

    def _sending(self) -> None:
        while not self._over.wait(PERIOD):
            try:
                self._send.send(b"?")
            except OSError:
                pass  # refused meanwhile; the next may pass

    def _receiving(self) -> None:
        while not self._over.is_set():
            try:
                self._receive.recv(16)
            except TimeoutError:
                continue
            with self._first:
                self._last = time.monotonic()
                self._first.notify_all()
