"""A line that takes its time: passes connections on to where they were going, and every byte later than it came.

    delay.py PORT MARK SECONDS

Run where nf_tables redirects connections to PORT; its own bear MARK, so that they are let through. Each direction is
late by SECONDS, whatever the other does; how much goes through is not limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys

_ORIGINAL = 80  # SO_ORIGINAL_DST, linux/netfilter_ipv4.h: where a redirected connection was going
_MARK = 36  # SO_MARK, socket(7)
_PIECE = 1 << 16


async def serve(port: int, mark: int, late: float) -> None:
    """Listen until killed; says so once it does."""
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near = writer.get_extra_info("socket")
        far_port, address = struct.unpack("!2xH4s8x", near.getsockopt(socket.SOL_IP, _ORIGINAL, 16))
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, _MARK, mark)
        line.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(line, (socket.inet_ntoa(address), far_port))
            far_reader, far_writer = await asyncio.open_connection(sock=line)
        except OSError:
            line.close()
            writer.transport.abort()
            return
        ways = [asyncio.create_task(_late(reader, far_writer, late)),
                asyncio.create_task(_late(far_reader, writer, late))]
        await asyncio.wait(ways)

    server = await asyncio.start_server(connected, "0.0.0.0", port)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float) -> None:
    """One direction: what was read waits its time in a queue, while more is read."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                return
            writer.write(data)
            await writer.drain()

    writing = asyncio.create_task(write())
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            queue.put_nowait((loop.time() + late, data))
    queue.put_nowait((loop.time() + late, b""))
    with contextlib.suppress(OSError):
        await writing
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
