"""boringtun as a peer: ``python -m tests.live.boring ADDRESS PORT PRIVATE-KEY PEER-KEY``.

It comes with mitmproxy, which ends every TCP connection out of the tunnel itself, whatever its
destination.  Each gets back what it sends.
"""

from __future__ import annotations

import asyncio
import sys

import mitmproxy_rs.wireguard
from mitmproxy_rs import Stream


async def echo(stream: Stream) -> None:
    """Return everything, to the end."""
    while data := await stream.read(65536):
        stream.write(data)
        await stream.drain()
    stream.close()


async def serve(address: str, port: str, private: str, peer: str) -> None:
    """Be there until killed."""
    server = await mitmproxy_rs.wireguard.start_wireguard_server(
        address, int(port), private, [peer], echo, echo
    )
    print("ready", flush=True)  # noqa: T201 - whoever started it waits for this
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
