"""What clients send to an NBD server, for the target nbd-server: a byte that says how far they have come, then their bytes."""

import struct

OPEN = {"simple": 1, "structured": 2, "extended": 3}
READ_ONLY = 4


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def named(name, rest):
    return struct.pack(">I", len(name)) + name + rest


def request(style, command, at=0, length=0, flags=0, data=b""):
    """A request, with data behind it if it is a write."""
    if style == "extended":
        return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, 9, at, length) + data
    return struct.pack(">IHHQQI", 0x25609513, flags, command, 9, at, length) + data


def seeds():
    """Names and inputs."""
    contexts = named(b"w", struct.pack(">I", 1) + named(b"base:allocation", b""))
    infos = named(b"w", struct.pack(">HHHHH", 4, 0, 1, 2, 3))
    handshake = [struct.pack(">I", 3), option(3), option(5), option(8), option(9, contexts), option(10, contexts), option(6, infos)]
    go = option(7, infos) + request("structured", 7, 0, 65536) + request("structured", 2)
    yield "handshake", b"\0" + b"".join(handshake) + go
    yield "export-name", b"\0" + struct.pack(">I", 1) + option(1, b"w") + request("simple", 0, 5, 6)
    yield "abort", b"\0" + struct.pack(">I", 3) + option(11) + option(2)
    for style, number in OPEN.items():
        write = 0x20 if style == "extended" else 0
        said = [
            request(style, 0, 0, 60000), request(style, 0, 100, 200, 4), request(style, 1, 7, 12, write | 1, b"twelve bytes"),
            request(style, 3), request(style, 4, 0, 9000), request(style, 5, 0, 1 << 20), request(style, 6, 4096, 8192, 0b10010),
            request(style, 7, 0, 1 << 20), request(style, 7, 7000, 9000, 8), request(style, 8), request(style, 0, 1 << 20, 1),
            request(style, 2),
        ]
        yield style, bytes([number]) + b"".join(said)
        yield f"{style}-read-only", bytes([number | READ_ONLY]) + b"".join(said)
