"""The shim's gRPC client against peers that misbehave, one at a time, on real sockets."""

from __future__ import annotations

import asyncio
import itertools
import socket as sockets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.rpc.v1 import tunnel_pb2, tunnel_pb2_grpc
from shim import frames, hpack
from shim.client import Client
from shim.deadline import Deadline
from shim.errors import RpcError
from shim.frames import frame
from tests.support import huffman
from tests.support.chain import Chain, Relay, listening, serving

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUEST = cni_pb2.AddRequest(call=cni_pb2.Call(container_id="c1", config=b"{}")).SerializeToString()
RESPONSE = cni_pb2.AddResponse(result=b"{}").SerializeToString()

Peer = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One accepted connection, as a script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        """0 for the first connection."""

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def request(self) -> tuple[int, list[int]]:
        """Read until a message is there: its stream and the ids of its calls."""
        if not hasattr(self, "_bodies"):
            await self.reader.readexactly(len(frames.PREFACE))
            self._bodies: dict[int, bytes] = {}
        while True:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            stream = int.from_bytes(head[5:], "big")
            if head[3] == frames.DATA:
                body = self._bodies[stream] = self._bodies.get(stream, b"") + payload
                if len(body) == 5 + int.from_bytes(body[1:5], "big"):
                    self._bodies[stream] = b""
                    return stream, [call.id for call in tunnel_pb2.CallsRequest.FromString(body[5:]).calls]

    def answer(self, stream: int, *numbers: int, first: bool = True) -> None:
        """Answer calls; their stream goes on."""
        if first:
            self.send(frames.settings(), headers(stream, [(b":status", b"200")]))
        self.send(frame(frames.DATA, 0, stream, answers(*numbers)))


def answers(*numbers: int) -> bytes:
    message = tunnel_pb2.CallsResponse(answers=[
        tunnel_pb2.Answer(id=number, response=RESPONSE) for number in numbers]).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def headers(stream: int, fields: list[tuple[bytes, bytes]], flags: int = 0) -> bytes:
    return frame(frames.HEADERS, flags | frames.END_HEADERS, stream, hpack.encode(fields))


def peer(path: Path, script: Peer) -> AbstractAsyncContextManager[None]:
    """Listen, and let the script talk on each connection."""
    numbers = itertools.count()
    return listening(path, lambda reader, writer: script(Connection(reader, writer, next(numbers))))


@contextmanager
def client(path: Path) -> Iterator[Client]:
    made = Client({"ipam": str(path), "node": str(path)}, PARENT)
    yield made
    made.close()


async def together(made: Client, *services: str, seconds: float = 5,
                   request: bytes = REQUEST) -> list[bytes | RpcError]:
    """Add of some services at once."""
    calls = [(service, "Plugin/Add", request) for service in services]
    return await asyncio.to_thread(made, calls, Deadline(time.monotonic() + seconds))


async def call(made: Client, service: str = "ipam", seconds: float = 5) -> bytes | RpcError:
    return (await together(made, service, seconds=seconds))[0]


async def failure(path: Path, seconds: float = 5, request: bytes = REQUEST) -> RpcError:
    """The error of one call over a new connection."""
    with client(path) as made:
        outcome, = await together(made, "ipam", seconds=seconds, request=request)
    assert isinstance(outcome, RpcError)
    return outcome


async def success(path: Path) -> bytes | RpcError:
    """The response to one call over a new connection."""
    with client(path) as made:
        return await call(made)


def of_size(size: int) -> bytes:
    return cni_pb2.AddRequest(call=cni_pb2.Call(config=bytes(size))).SerializeToString()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


async def test_a_refused_stream_is_tried_again_on_a_new_connection(path: Path) -> None:
    """It was not carried out, for sure (RFC 9113, 8.7)."""
    async def script(connection: Connection) -> None:
        stream, calls = await connection.request()
        if connection.number == 0:
            connection.send(frames.settings(), frames.reset(stream, frames.REFUSED_STREAM))
            await connection.request()
        connection.answer(stream, *calls)
        await connection.reader.read()

    async with peer(path, script):
        assert await success(path) == RESPONSE


async def test_a_daemon_that_is_replaced_between_two_calls_is_found_again(path: Path) -> None:
    """It says goodbye after the first call, and the second comes too late for the old one."""
    async def script(connection: Connection) -> None:
        stream, calls = await connection.request()
        connection.answer(stream, *calls)
        connection.send(frame(frames.GOAWAY, 0, 0, stream.to_bytes(4, "big") + bytes(4)),
                        headers(stream, [(b"grpc-status", b"0")], frames.END_STREAM))

    async with peer(path, script):
        with client(path) as made:
            assert [await call(made), await call(made), await call(made)] == [RESPONSE] * 3


async def test_goodbye_in_the_middle_of_a_call_that_will_not_be_done(path: Path) -> None:
    async def script(connection: Connection) -> None:
        stream, calls = await connection.request()
        if connection.number == 0:
            connection.send(frame(frames.GOAWAY, 0, 0, bytes(8) + b"restart"))
            await connection.reader.read()
        connection.answer(stream, *calls)
        await connection.reader.read()

    async with peer(path, script):
        assert await success(path) == RESPONSE


async def test_goodbye_in_the_middle_of_a_call_that_will_be_done(path: Path) -> None:
    async def script(connection: Connection) -> None:
        stream, calls = await connection.request()
        connection.send(frame(frames.GOAWAY, 0, 0, frames.LARGEST_WINDOW.to_bytes(4, "big") + bytes(4)),
                        frame(frames.PING, 0, 0, bytes(8)),
                        frame(frames.GOAWAY, 0, 0, stream.to_bytes(4, "big") + bytes(4)))
        connection.answer(stream, *calls)
        await connection.reader.read()

    async with peer(path, script):
        assert await success(path) == RESPONSE


async def test_always_refused_is_unavailable(path: Path) -> None:
    async def script(connection: Connection) -> None:
        connection.send(frames.reset((await connection.request())[0], frames.REFUSED_STREAM))
        await connection.reader.read()

    async with peer(path, script):
        error = await failure(path)
    assert (error.status, error.message) == (14, f"no answer from unix:{path}: the service refused the stream")


async def test_a_lost_connection_is_not_tried_again(path: Path) -> None:
    """Whether the request was carried out is not known."""
    connections = []

    async def script(connection: Connection) -> None:
        connections.append(connection.number)
        await connection.request()

    async with peer(path, script):
        error = await failure(path)
    assert (error.status, error.answered) == (14, False)
    assert f"no answer from unix:{path}: connection lost" in error.message
    assert connections == [0]


async def test_an_answer_that_is_there_counts_even_if_the_connection_is_not(path: Path) -> None:
    """The peer answers before it has read all, and closes, which makes our writing fail."""
    async def script(connection: Connection) -> None:
        await connection.reader.readexactly(len(frames.PREFACE))
        connection.send(headers(1, [(b":status", b"200"), (b"grpc-status", b"8"), (b"grpc-message", b"too large")],
                                frames.END_STREAM))
        await connection.writer.drain()

    async with peer(path, script):
        error = await failure(path, request=of_size(1 << 20))
    assert (error.status, error.message, error.answered) == (8, "too large", True)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n" + bytes(20)])
async def test_something_else_listens_there(path: Path, greeting: bytes) -> None:
    async def script(connection: Connection) -> None:
        connection.send(greeting)
        await connection.reader.read()

    async with peer(path, script):
        error = await failure(path)
    assert error.status == 14
    assert "the peer broke the HTTP/2 protocol" in error.message


@pytest.mark.parametrize("talks", [False, True])
async def test_a_peer_that_never_answers_is_given_up_in_time(path: Path, talks: bool) -> None:
    """Even one that keeps the connection busy."""
    async def script(connection: Connection) -> None:
        await connection.request()
        while True:
            if talks:
                connection.send(frame(frames.PING, 0, 0, bytes(8)))
            await asyncio.sleep(0.01)

    async with peer(path, script):
        began = time.monotonic()
        error = await failure(path, seconds=0.5)
    assert 0.4 < time.monotonic() - began < 2
    assert (error.status, error.message) == (4, f"no answer from unix:{path} within 0.5 s")


async def test_a_peer_that_reads_nothing_is_given_up_in_time(path: Path) -> None:
    async def script(connection: Connection) -> None:
        connection.send(frames.window_update(0, 1 << 30), frames.settings((4, 1 << 30)))
        await asyncio.sleep(30)

    async with peer(path, script):
        error = await failure(path, seconds=0.5, request=of_size(32 << 20))
    assert (error.status, error.message) == (4, f"no answer from unix:{path} within 0.5 s")


async def test_a_call_after_one_that_was_given_up_uses_the_same_connection(path: Path) -> None:
    """On a stream of its own, and is not confused by the late answer to the first."""
    second: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(connection: Connection) -> None:
        first, _ = await connection.request()
        stream, calls = await connection.request()
        second.set_result(stream)
        connection.send(frames.settings(), headers(first, [(b":status", b"200"), (b"grpc-status", b"13")], 1))
        connection.answer(stream, *calls)
        await connection.reader.read()

    async with peer(path, script):
        with client(path) as made:
            late = await call(made, seconds=0.3)
            assert isinstance(late, RpcError)
            assert late.status == 4
            assert await call(made) == RESPONSE
    assert second.result() == 3


async def test_calls_one_after_the_other_share_a_stream(path: Path) -> None:
    streams: list[int] = []

    async def script(connection: Connection) -> None:
        while True:
            stream, calls = await connection.request()
            connection.answer(stream, *calls, first=not streams)
            streams.append(stream)

    async with peer(path, script):
        with client(path) as made:
            assert [await call(made), await call(made, "node")] == [RESPONSE, RESPONSE]
    assert streams == [1, 1]


async def test_a_server_that_ends_the_stream_without_an_answer_has_not_begun(path: Path) -> None:
    """So a server shuts down; the call is made again on a new connection."""
    async def script(connection: Connection) -> None:
        stream, calls = await connection.request()
        if connection.number == 0:
            connection.send(frames.settings(), headers(
                stream, [(b":status", b"200"), (b"grpc-status", b"0")], frames.END_STREAM))
            await connection.reader.read()
        connection.answer(stream, *calls)
        await connection.reader.read()

    async with peer(path, script):
        assert await success(path) == RESPONSE


@pytest.mark.parametrize(("message", "why"), [
    (b"\1\0\0\0\1a", "a compressed answer, which was not asked for"),
    (b"\0\0\0\0\1\x0a", "an answer that does not decode: a number that does not end"),
])
async def test_what_is_no_answer_is_an_error(path: Path, message: bytes, why: str) -> None:
    async def script(connection: Connection) -> None:
        stream, _ = await connection.request()
        connection.send(frames.settings(), headers(stream, [(b":status", b"200")]),
                        frame(frames.DATA, 0, stream, message))
        await connection.reader.read()

    async with peer(path, script):
        error = await failure(path)
    assert (error.status, error.message) == (13, why)


async def test_a_listener_whose_queue_is_full_is_waited_for(path: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as listener, sockets.socket(sockets.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        listener.settimeout(5)
        first.connect(str(path))
        error = await failure(path, seconds=0.3)
        assert (error.status, error.message) == (4, f"no answer from unix:{path} within 0.3 s")
        waiting = asyncio.create_task(failure(path))
        for _ in ("the first", "ours"):  # taking the first makes room for ours, which gets through, to be hung up on
            accepted, _ = await asyncio.to_thread(listener.accept)
            accepted.close()
        assert "connection lost" in (await waiting).message


@pytest.mark.parametrize("kind", ["missing", "file", "stale"])
async def test_nobody_listens(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("")  # noqa: ASYNC240 - a test's own small file
    elif kind == "stale":
        with sockets.socket(sockets.AF_UNIX) as gone:
            gone.bind(str(path))
    error = await failure(path)
    why = "No such file or directory" if kind == "missing" else "Connection refused"
    assert (error.status, error.message) == (14, f"can not connect to unix:{path}: {why}")


async def test_huffman_coded_answers(path: Path) -> None:
    """Coded names and values, in trailers that are split over frames."""
    message = "no address left: “a%b”"
    fields = b"\x40" + coded(b"grpc-status") + coded(b"8") + b"\0" + coded(b"grpc-message") + coded(
        b"no address left: %E2%80%9Ca%25b%E2%80%9D")

    async def script(connection: Connection) -> None:
        stream, _ = await connection.request()
        connection.send(headers(stream, [(b":status", b"200")]),
                        frame(frames.HEADERS, frames.END_STREAM, stream, fields[:9]),
                        frame(frames.CONTINUATION, frames.END_HEADERS, stream, fields[9:]))
        await connection.reader.read()

    async with peer(path, script):
        error = await failure(path)
    assert (error.status, error.message) == (8, message)


def coded(text: bytes) -> bytes:
    bits = huffman.encode(text)
    return hpack._integer(len(bits), 7, 0x80) + bits


async def test_our_huffman_table_is_that_of_grpc(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character that a header may have, coded by our table, as gRPC's own server reads it."""
    printable = bytes(range(0x20, 0x7F)).replace(b" ", b"") + b" ."
    encode, seen = hpack.encode, {}

    def with_coded_header(fields: list[tuple[bytes, bytes]]) -> bytes:
        return encode(fields) + b"\0" + coded(b"x-coded") + coded(printable)

    class Tunnel(tunnel_pb2_grpc.TunnelServicer):
        async def Calls(self, request_iterator: Any, context: Any) -> AsyncIterator[tunnel_pb2.CallsResponse]:
            seen.update(context.invocation_metadata())
            await context.abort(grpc.StatusCode.NOT_FOUND, "seen")
            yield tunnel_pb2.CallsResponse()

    monkeypatch.setattr("shim.http2.hpack.encode", with_coded_header)
    server = grpc.aio.server()
    tunnel_pb2_grpc.add_TunnelServicer_to_server(Tunnel(), server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    assert (await failure(path)).message == "seen"
    await server.stop(None)
    assert seen["x-coded"] == printable.decode()


async def test_calls_made_at_once_are_on_their_way_together(path: Path) -> None:
    """In one message; the peer answers the last first."""
    async def script(connection: Connection) -> None:
        stream, (first, second) = await connection.request()
        connection.answer(stream, second)
        connection.answer(stream, first, first=False)
        await connection.reader.read()

    async with peer(path, script):
        with client(path) as made:
            assert await together(made, "ipam", "node") == [RESPONSE, RESPONSE]


async def test_one_of_two_calls_is_not_begun_and_made_again_alone(path: Path) -> None:
    """On a new connection, when the other has its answer."""
    requests = []

    async def script(connection: Connection) -> None:
        stream, calls = await connection.request()
        requests.append((connection.number, stream, len(calls)))
        connection.answer(stream, calls[0])
        if connection.number == 0:
            connection.send(headers(stream, [(b"grpc-status", b"0")], frames.END_STREAM))
        await connection.reader.read()

    async with peer(path, script):
        with client(path) as made:
            assert await together(made, "ipam", "node") == [RESPONSE, RESPONSE]
    assert requests == [(0, 1, 2), (1, 1, 1)]


async def test_one_of_two_calls_never_ends_and_the_other_has_its_answer(path: Path) -> None:
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: Connection) -> None:
        stream, (_, second) = await connection.request()
        connection.answer(stream, second)
        rest.set_result(await connection.reader.read())

    async with peer(path, script):
        with client(path) as made:
            late, answered = await together(made, "ipam", "node", seconds=0.3)
        cancelled = await asyncio.wait_for(rest, 30)
    assert isinstance(late, RpcError)
    assert (late.status, answered) == (4, RESPONSE)
    assert frames.reset(1, frames.CANCEL) in cancelled


async def test_the_connection_is_lost_after_one_of_two_answers(path: Path) -> None:
    async def script(connection: Connection) -> None:
        stream, (_, second) = await connection.request()
        connection.answer(stream, second)
        await connection.writer.drain()

    async with peer(path, script):
        with client(path) as made:
            lost, answered = await together(made, "ipam", "node")
    assert isinstance(lost, RpcError)
    assert (lost.status, answered) == (14, RESPONSE)
    assert "connection lost" in lost.message


async def test_calls_at_once_to_several_sockets_are_on_their_way_together(path: Path, tmp_path: Path) -> None:
    """Neither service answers before both were asked."""
    asked = {"ipam": asyncio.Event(), "node": asyncio.Event()}

    def script(service: str, other: str) -> Peer:
        async def talk(connection: Connection) -> None:
            stream, calls = await connection.request()
            asked[service].set()
            await asked[other].wait()
            connection.answer(stream, *calls)
            await connection.reader.read()
        return talk

    async with peer(path, script("ipam", "node")), peer(tmp_path / "t", script("node", "ipam")):
        made = Client({"ipam": str(path), "node": str(tmp_path / "t")}, PARENT)
        assert await together(made, "ipam", "node") == [RESPONSE, RESPONSE]
        made.close()


async def test_services_at_one_socket_share_a_connection_and_others_have_their_own(path: Path, tmp_path: Path) -> None:
    chain, relay = Chain(), Relay()
    async with serving(chain, path), relay.between(tmp_path / "a", path), relay.between(tmp_path / "b", path):
        made = Client({"ipam": str(tmp_path / "a"), "policy": str(tmp_path / "b"), "node": str(tmp_path / "a")}, PARENT)
        for service in ("ipam", "policy", "node", "ipam"):
            await call(made, service)
        made.close()
    assert chain.steps == ["ipam.Add", "policy.Add", "node.Add", "ipam.Add"]
    assert relay.connections == 2


async def test_an_error_of_a_service_behind_the_socket_names_the_socket(path: Path) -> None:
    chain = Chain()
    chain.fails("ipam.Add", grpc.StatusCode.UNAVAILABLE, "etcd does not answer")
    async with serving(chain, path):
        error = await failure(path)
    assert (error.status, error.message, error.answered) == (14, f"etcd does not answer (from unix:{path})", True)
