"""Compresses files as CompactOS does, by a foreign hand: wimlib puts them into a WIM, and we take them out compressed.

A compressed resource of a WIM and the stream WofCompressedData have one form: a table of the chunks' ends but for the
last (4 bytes each below 4 GiB), then the chunks; a chunk as long as its content is stored plain.
"""

import hashlib
import pathlib
import struct
import subprocess
import tempfile

COMPRESSED = 4


def resource(header):
    """Size in the file, flags, offset, size of the content: a resource header of 24 bytes."""
    size_and_flags, offset, content = struct.unpack("<3Q", header)
    return size_and_flags & (1 << 56) - 1, size_and_flags >> 56, offset, content


def resources(wim):
    """SHA-1 of the content to the compressed bytes, for all that is stored compressed."""
    if wim[:8] != b"MSWIM\0\0\0":
        raise ValueError("wimlib wrote no WIM")
    size, flags, offset, _ = resource(wim[48:72])
    if flags & COMPRESSED:
        raise ValueError("the table of the WIM is compressed")
    found = {}
    for entry in struct.iter_unpack("<24sHI20s", wim[offset:offset + size]):
        size, flags, start, _ = resource(entry[0])
        if flags & COMPRESSED:
            found[entry[3]] = wim[start:start + size]
    return found


def compress(contents, method, chunk):
    """The compressed form of each content, `None` for those that would not become smaller."""
    with tempfile.TemporaryDirectory() as folder:
        source, wim = pathlib.Path(folder, "files"), pathlib.Path(folder, "files.wim")
        source.mkdir()
        for number, content in enumerate(contents):
            (source / str(number)).write_bytes(content)
        command = ["wimlib-imagex", "capture", source, wim, f"--compress={method}", f"--chunk-size={chunk}",
                   "--no-acls", "--threads=2", "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = resources(wim.read_bytes())
    return [found.get(hashlib.sha1(content).digest()) for content in contents]
