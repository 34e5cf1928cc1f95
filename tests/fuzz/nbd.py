"""Conversations of an NBD client with a server, as the target nbd-client takes them: only what the server says."""

import struct

EXTENDED, STRUCTURED, SET_CONTEXT, GO = 11, 8, 10, 7
ACK, INFO, CONTEXT, UNSUP = 1, 3, 4, 0x80000001
SIZE = 1 << 16
# HAS_FLAGS, and every command there is: FLUSH, FUA, TRIM, WRITE_ZEROES, DF, MULTI_CONN.
FLAGS = 1 | 4 | 8 | 32 | 64 | 128 | 256


def said(messages, wish):
    return bytes([wish]) + b"".join(struct.pack("<H", len(message)) + message for message in messages)


def reply(option, kind, data=b""):
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


def handshake(framing, wish):
    messages = [b"NBDMAGICIHAVEOPT\0\3"]
    messages.append(reply(EXTENDED, ACK if framing == "extended" else UNSUP))
    if framing != "extended":
        messages.append(reply(STRUCTURED, ACK if framing == "structured" else UNSUP))
    if framing != "simple" and not wish & 1:
        messages.append(reply(SET_CONTEXT, CONTEXT, struct.pack(">I", 7) + b"base:allocation") + reply(SET_CONTEXT, ACK))
    sizes = reply(GO, INFO, struct.pack(">HIII", 3, 1, 4096, 1 << 25))
    name = reply(GO, INFO, struct.pack(">H", 1) + b"name")
    return messages + [reply(GO, INFO, struct.pack(">HQH", 0, SIZE, FLAGS)) + sizes + name + reply(GO, ACK)]


def chunk(framing, cookie, kind, payload, done=True):
    if framing == "extended":
        return struct.pack(">IHHQQQ", 0x6E8A278C, done, kind, cookie, 0, len(payload)) + payload
    return struct.pack(">IHHQI", 0x668E33EF, done, kind, cookie, len(payload)) + payload


def simple(cookie, data=b"", error=0):
    return struct.pack(">IIQ", 0x67446698, error, cookie) + data


def read(framing, cookie, at, size, kinds=3):
    """The bytes in one piece, or in two with a hole between, or an error: by the cookie."""
    if framing == "simple":
        return simple(cookie, b"x" * size)
    if cookie % kinds == 0:
        return chunk(framing, cookie, 1, struct.pack(">Q", at) + b"x" * size)
    if cookie % kinds == 1 and size > 6:
        last = chunk(framing, cookie, 1, struct.pack(">Q", at + size - 2) + b"zz", False)
        first = chunk(framing, cookie, 1, struct.pack(">Q", at) + b"aa", False)
        return last + first + chunk(framing, cookie, 2, struct.pack(">QI", at + 2, size - 4), False) + chunk(framing, cookie, 0, b"")
    return chunk(framing, cookie, 0x8002, struct.pack(">IH", 5, 4) + b"ouch" + struct.pack(">Q", at))


def status(framing, cookie):
    runs = [(4096, 3), (4096, 0), (SIZE, 2)]
    if framing == "extended":
        return chunk(framing, cookie, 6, struct.pack(">II", 7, 3) + b"".join(struct.pack(">QQ", *run) for run in runs))
    return chunk(framing, cookie, 5, struct.pack(">I", 7) + b"".join(struct.pack(">II", *run) for run in runs))


def conversation(framing, wish):
    messages, cookie = handshake(framing, wish), 0
    if wish & 4:
        replies = [read(framing, n, 512 * n, 512, 2) for n in range(8)]
        messages += [b"".join(reversed(replies[:4]))] + replies[4:]
        cookie = 8
    messages.append(read(framing, cookie + 1, 100, 8) + read(framing, cookie, 0, 512, 2))
    cookie += 2
    if framing != "simple" and not wish & 1:
        messages.append(status(framing, cookie))
        cookie += 1
    for n in range(4):
        messages.append(chunk(framing, cookie + n, 0, b"") if framing == "extended" else simple(cookie + n))
    return said(messages, wish)


def seeds():
    for framing in ("simple", "structured", "extended"):
        for wish in (0, 1, 4, 6, 8):
            yield f"{framing}-{wish}", conversation(framing, wish)
    yield "oldstyle", said([b"NBDMAGIC" + struct.pack(">QQI", 0x420281861253, SIZE, 0) + bytes(124)], 0)
    options = [b"NBDMAGICIHAVEOPT\0\1", reply(EXTENDED, UNSUP), reply(STRUCTURED, UNSUP), reply(GO, UNSUP)]
    yield "export-name", said(options + [struct.pack(">QH", SIZE, FLAGS) + bytes(124)] + [read("simple", 0, 0, 512)], 0)
