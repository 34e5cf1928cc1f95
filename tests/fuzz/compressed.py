"""Compressed data made by hand: what the decompressors' targets begin with. guestfs/src/unpack says what the formats look like."""

import struct


class Bits:
    """Units of 16 bits, the topmost bit of each first."""

    def __init__(self):
        self.text = ""

    def add(self, *fields):
        for count, value in fields:
            self.text += f"{value:0{count}b}" if count else ""
        return self

    def units(self, more=0):
        text = self.text + "0" * (-len(self.text) % 16 + 16 * more)
        return b"".join(struct.pack("<H", int(text[at:at + 16], 2)) for at in range(0, len(text), 16))


def lznt1_chunk(content):
    return struct.pack("<H", 0xB000 | len(content) - 1) + content


def lznt1():
    text = lznt1_chunk(b"\0abcdefgh" b"\x06x\x00\x70\x04\x50")  # repetitions at distances 8 and 6
    yield "bytes", 8192, lznt1_chunk(b"\0abcdefgh\0ijk")
    yield "repetitions", 8192, text
    yield "fills-a-chunk", 4096, lznt1_chunk(b"\x02x\xfc\x0f")
    yield "several", 3 * 4096, text + b"\xff\x3f" + bytes(range(256)) * 16 + text + b"\0\0"
    yield "short-plain", 8192, b"\x02\x30abc" + text


def xpress_lengths(lengths):
    packed = bytearray(256)
    for symbol, length in lengths.items():
        packed[symbol // 2] |= length << symbol % 2 * 4
    return bytes(packed)


def xpress():
    plain = b"bytes only, each with a code of eight bits"
    yield "bytes", len(plain), xpress_lengths({byte: 8 for byte in range(256)}) + Bits().add(*((8, b) for b in plain)).units(1)
    # a, b, c, and 287: a distance of one more bit, and a length in bytes; all with codes of two bits
    codes = xpress_lengths({ord("a"): 2, ord("b"): 2, ord("c"): 2, 287: 2})
    abc = Bits().add((2, 0), (2, 1), (2, 2), (2, 3), (1, 1)).units(1)
    yield "long", 3 + 3 + 15 + 7, codes + abc + b"\7"
    yield "longer", 3 + 3 + 300, codes + abc + b"\xff" + struct.pack("<H", 300)
    yield "longest", 0xFFFF, codes + abc + b"\xff" + struct.pack("<HI", 0, 0xFFFF - 6)


def lzx_lengths(count, ones):
    """Lengths of codes: 0, but 1 for two symbols. The code before has 0 (length 2), 16 (2), 17 (2) and 18 (2)."""
    bits = Bits().add(*((4, 2 if symbol in (0, 16, 17, 18) else 0) for symbol in range(20)))
    at = 0
    for one in ones + [count]:
        while at < one:
            run = min(one - at, 51)
            bits.add((2, 3), (5, run - 20)) if run >= 20 else bits.add((2, 2), (4, min(run, 19) - 4)) if run >= 4 else bits.add((2, 0))
            at += run if run >= 4 else 1
        if one < count:
            bits.add((2, 1))  # 0 - 16 is 1 modulo 17
            at += 1
    return bits.text


def lzx_plain(plain, last=(1, 1, 1)):
    head = Bits().add((3, 3), (1, 0), (16, len(plain))).units()
    return head + struct.pack("<3I", *last) + plain + bytes(len(plain) % 2)


def lzx_packed(kind, symbol, repetitions, tail):
    """A block of the byte x, and repetitions of 257 bytes that the main symbol stands for."""
    bits = Bits().add((3, kind), (1, 0), (16, 1 + 257 * repetitions))
    if kind == 2:
        bits.add(*((3, 3),) * 8)
    bits.text += lzx_lengths(256, [ord("x")]) + lzx_lengths(240, [symbol - 256]) + lzx_lengths(249, [0, 248])
    bits.add((1, 0))
    for _ in range(repetitions):
        bits.add((1, 1), (1, 1), *tail)
    return bits.units()


def lzx():
    text = b"\xe8\x10\0\0\0 a call \xe8\xff\xff\xff\xff and one to before, then more than ten bytes"
    yield "plain", len(text), lzx_plain(text)
    yield "plain-twice", 2 * len(text) - 1, lzx_plain(text[1:]) + lzx_plain(text)
    yield "last-distance", len(text) + 1 + 257 * 9, lzx_plain(text, (30, 2, 3)) + lzx_packed(1, 256 + 7, 9, ())
    # slot 11: distances 46 to 61, of which three bits have codes in an aligned block
    yield "verbatim", len(text) + 1 + 257 * 3, lzx_plain(text) + lzx_packed(1, 256 + 8 * 11 + 7, 3, ((4, 5),))
    yield "aligned", len(text) + 1 + 257 * 3, lzx_plain(text) + lzx_packed(2, 256 + 8 * 11 + 7, 3, ((1, 1), (3, 4)))


def seeds():
    """(target, name, input)"""
    for target, of_target in (("lznt1", lznt1), ("xpress", xpress), ("lzx", lzx)):
        for name, length, packed in of_target():
            yield target, name, length.to_bytes(3, "little") + packed
