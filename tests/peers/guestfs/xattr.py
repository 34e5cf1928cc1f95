"""Extended attributes of what a path names, links not followed.

os.getxattr asks with a buffer of 128 bytes first, which ntfs-3g answers with EIO for longer security descriptors. This
asks with as much as the kernel takes.
"""

import ctypes
import os

MOST = 64 * 1024

libc = ctypes.CDLL(None, use_errno=True)


def answer(size, buffer, path):
    if size < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return buffer.raw[:size]


def get(path, name):
    buffer = ctypes.create_string_buffer(MOST)
    return answer(libc.lgetxattr(path, name, buffer, MOST), buffer, path)


def names(path):
    buffer = ctypes.create_string_buffer(MOST)
    return sorted(name for name in answer(libc.llistxattr(path, buffer, MOST), buffer, path).split(b"\0") if name)
