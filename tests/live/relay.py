"""A TCP relay: ``python -m tests.live.relay LISTEN-PORT TO-ADDRESS TO-PORT [none|v1|v2]``.

With v1 or v2 it tells the server, by the PROXY protocol, whom it speaks for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from ipaddress import ip_address


def header(kind: str, client: tuple[str, int], here: tuple[str, int]) -> bytes:
    """The PROXY protocol header, as haproxy's proxy-protocol.txt has it."""
    (source, source_port), (target, target_port) = client, here
    if kind == "v1":
        family = "TCP4" if "." in source else "TCP6"
        return f"PROXY {family} {source} {target} {source_port} {target_port}\r\n".encode()
    addresses = ip_address(source).packed + ip_address(target).packed
    body = addresses + struct.pack("!HH", source_port, target_port)
    family_byte = 0x11 if len(addresses) == 8 else 0x21
    return (
        b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, family_byte]) + struct.pack("!H", len(body)) + body
    )


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on until the end, and pass that on, too."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def relay(port: int, address: str, its_port: int, kind: str = "none") -> None:
    """Pass connections on for ever."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection(address, its_port)
        if kind != "none":
            client, here = (
                (writer.get_extra_info(name)[0].removeprefix("::ffff:"),
                 writer.get_extra_info(name)[1])
                for name in ("peername", "sockname")
            )  # fmt: skip
            onward.write(header(kind, client, here))
        await asyncio.gather(pump(reader, onward), pump(there, writer))

    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    server = await asyncio.start_server(accepted, sock=listener)
    print("ready", flush=True)  # noqa: T201 - whoever started it waits for this
    await server.serve_forever()


if __name__ == "__main__":
    port, address, its_port, *kind = sys.argv[1:]
    asyncio.run(relay(int(port), address, int(its_port), *kind))
