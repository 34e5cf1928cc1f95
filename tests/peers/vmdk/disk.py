"""What is on a disk: seeded content, and chains of layers merged without any image file. The truth of a scenario.

All numbers are sectors of 512 bytes unless a name says bytes.
"""

import bisect
import functools
import hashlib

SECTOR = 512
# Content is made in blocks of this many sectors, each of one kind, so that a grain has easy and hard parts.
BLOCK = 16

SPARSE_TYPES = ("SPARSE", "VMFSSPARSE", "SESPARSE")
FLAT_TYPES = ("FLAT", "VMFS")


@functools.lru_cache(4096)
def block(seed, number):
    """8 KiB of content. Text and noise name their place, so that a misplaced sector shows."""
    size = BLOCK * SECTOR
    name = f"seed {seed} block {number}".encode()
    noise = hashlib.shake_128(name)
    kind = noise.digest(1)[0] % 8
    if kind < 3:
        return noise.digest(size)
    if kind < 5:
        lines = (f"seed {seed} sector {number * BLOCK + i}\n".encode() for i in range(BLOCK))
        return b"".join((line * (SECTOR // len(line) + 1))[:SECTOR] for line in lines)
    if kind == 5:
        return b"".join(noise.digest(SECTOR) if i % 3 else bytes(SECTOR) for i in range(BLOCK))
    if kind == 6:
        return noise.digest(2)[1:] * size
    return bytes(size)  # zeros that are stored: they are data, not a hole


def content(seed, start, count):
    first, last = start // BLOCK, (start + count - 1) // BLOCK
    data = b"".join(block(seed, number) for number in range(first, last + 1))
    skip = (start - first * BLOCK) * SECTOR
    return data[skip:skip + count * SECTOR]


class Spans:
    """A disk cut into spans of one value each, without gaps."""

    def __init__(self, end, value):
        self.end, self.starts, self.values = end, [0], [value]

    def paint(self, start, end, value):
        """Gives [start, end) one value."""
        end = min(end, self.end)
        if start >= end:
            return
        last = bisect.bisect_right(self.starts, end - 1) - 1
        rest = self.values[last]
        first = bisect.bisect_left(self.starts, start)
        last_end = self.starts[last + 1] if last + 1 < len(self.starts) else self.end
        starts, values = [start], [value]
        if end < last_end:
            starts.append(end)
            values.append(rest)
        self.starts[first:last + 1] = starts
        self.values[first:last + 1] = values

    def items(self, start=0, end=None):
        """(start, end, value) of the spans in [start, end)."""
        end = self.end if end is None else end
        at = bisect.bisect_right(self.starts, start) - 1
        while start < end:
            stop = self.starts[at + 1] if at + 1 < len(self.starts) else self.end
            yield start, min(stop, end), self.values[at]
            start, at = stop, at + 1

    def joined(self):
        """The spans, adjacent equal ones as one."""
        whole = []
        for start, end, value in self.items():
            if whole and whole[-1][2] == value:
                whole[-1] = (whole[-1][0], end, value)
            else:
                whole.append((start, end, value))
        return whole

    def resized(self, end, value):
        """A copy that ends elsewhere; what is new has the value."""
        copy = Spans(end, value)
        for start, stop, old in self.items(0, min(end, self.end)):
            copy.paint(start, stop, old)
        return copy


class View:
    """A disk as seen through a chain: which seed fills a span (None: zeros), and which layer stores it."""

    def __init__(self, seeds, owners):
        self.seeds, self.owners = seeds, owners

    def read(self, start, count):
        parts = []
        for first, end, seed in self.seeds.items(start, start + count):
            parts.append(bytes((end - first) * SECTOR) if seed is None else content(seed, first, end - first))
        return b"".join(parts)


class Extent:
    """A part of one layer: where it lies on the disk, and which of its grains are stored how."""

    def __init__(self, view, start, length, grain, states):
        self.view, self.start, self.length, self.grain, self.states = view, start, length, grain, states

    def read(self, start, count):
        return self.view.read(self.start + start, count)

    def spans(self):
        """(start, end) within the extent of what may be other than zeros."""
        for first, end, seed in self.view.seeds.items(self.start, self.start + self.length):
            if seed is not None:
                yield first - self.start, end - self.start

    def data(self, number):
        """The bytes of a grain; the last one ends where the extent ends."""
        start = number * self.grain
        return self.read(start, min(self.grain, self.length - start))


def empty(capacity):
    return View(Spans(capacity, None), Spans(capacity, (0, "hole")))


def overlay(below, index, capacity, grain, extents, runs):
    """Puts layer `index` (0 is the bottom) on a view. Returns the new view, and for each extent its grains' states."""
    view = View(below.seeds.resized(capacity, None), below.owners.resized(capacity, (0, "hole")))
    all_states = []
    start = 0
    for extent in extents:
        end = start + extent["len"]
        if extent["type"] in SPARSE_TYPES:
            all_states.append(sparse(view, index, grain, start, end, runs))
        else:
            all_states.append({})
            plain(view, index, extent["type"], start, end, runs)
        start = end
    if start != capacity:
        raise ValueError(f"the extents of layer {index} have {start} sectors, the disk {capacity}")
    return view, all_states


def plain(view, index, kind, start, end, runs):
    """A flat extent stores all of itself, a ZERO extent nothing."""
    view.seeds.paint(start, end, None)
    view.owners.paint(start, end, (index, "zero" if kind == "ZERO" else "data"))
    for run in runs:
        first, stop = max(run["start"], start), min(run["start"] + run["len"], end)
        if first < stop and run["kind"] == "data":
            if kind == "ZERO":
                raise ValueError(f"run at {run['start']}: a ZERO extent stores nothing")
            view.seeds.paint(first, stop, run["seed"])


def sparse(view, index, grain, start, end, runs):
    """Whole grains are stored. Where a run of data fills only a part of one, the rest is what was seen there before."""
    states = {}
    for run in runs:
        first, stop = max(run["start"], start) - start, min(run["start"] + run["len"], end) - start
        if first >= stop:
            continue
        if run["kind"] != "data" and (first % grain or (stop % grain and start + stop != end)):
            raise ValueError(f"run at {run['start']}: only whole grains can be {run['kind']}")
        numbers = range(first // grain, -(-stop // grain))
        for number in numbers:
            states[number] = run["kind"]
        data = run["kind"] == "data"
        view.seeds.paint(start + first, start + stop, run["seed"] if data else None)
        whole_end = min(start + numbers.stop * grain, end)
        view.owners.paint(start + numbers.start * grain, whole_end, (index, "data" if data else "zero"))
    return states


def map_of(view, layers):
    """The block map in bytes; depth 0 is the top layer, holes belong to the bottom one."""
    return [
        {"start": start * SECTOR, "length": (end - start) * SECTOR, "depth": layers - 1 - index, "kind": kind}
        for start, end, (index, kind) in view.owners.joined()
    ]


def write_sparse(file, extent, offset=0):
    """Writes what is not a hole of the model into a file, sectors `offset` on; the rest stays a hole."""
    piece = 2048
    for first, end in extent.spans():
        for start in range(first, end, piece):
            file.seek((offset + start) * SECTOR)
            file.write(extent.read(start, min(piece, end - start)))
