"""The health check of containers, as a process of its own, against a real service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muslin.rpc import probe
from tests.integration.rpc.served import Service, service, start
from tests.support.chain import listening

__all__ = ["service"]


async def run(*arguments: str) -> tuple[int, str]:
    """What a container runtime does: no site-packages, so nothing that is not Python's own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-IS", probe.__file__, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode().strip()


def path_of(running: Service) -> str:
    return running.target.removeprefix("unix:")


async def test_a_service_that_serves_is_healthy(service: Service) -> None:
    await service.list()
    assert await run(path_of(service)) == (0, "SERVING")


async def test_one_that_is_not_ready_is_not(tmp_path: Path) -> None:
    running = await start(tmp_path, "not ready")
    try:
        await running.list()
        assert await run(path_of(running)) == (1, "NOT_SERVING")
        assert await run("--alive", path_of(running)) == (0, "NOT_SERVING"), "it waits, and is not ill"
    finally:
        await running.channel.close()
        running.process.kill()
        await running.process.communicate()


async def test_whoever_does_not_answer_is_not_healthy_and_does_not_hold_the_check_up(tmp_path: Path) -> None:
    code, said = await run(str(tmp_path / "absent.sock"))
    assert (code, "No such file" in said) == (1, True)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as frozen:  # connections queue, nobody accepts them
        frozen.bind(str(tmp_path / "frozen.sock"))
        frozen.listen()
        for options in ((), ("--alive",)):
            code, said = await run(*options, str(tmp_path / "frozen.sock"))
            assert (code, "timed out" in said) == (1, True)


@pytest.mark.parametrize(("answer", "words"), [
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed", id="another protocol"),
    pytest.param(b"\0\0\0\x01\x05\0\0\0\x01", "without a status", id="trailers and nothing before them"),
    pytest.param(b"\0\0\x08\0\0\0\0\0\x01\0\0\0\0\x03abc", "without a status", id="another message"),
    pytest.param(b"", "closed", id="nothing"),
])
async def test_what_is_no_health_service_is_not_healthy(tmp_path: Path, answer: bytes, words: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()

    async with listening(tmp_path / "other.sock", talk):
        code, said = await run(str(tmp_path / "other.sock"))
    assert (code, words in said) == (1, True), said


async def test_wrong_use_is_told_apart() -> None:
    assert await run() == await run("--alive") == (2, "usage: probe.py [--alive] SOCKET")
