"""From a specification to the files of a chain, the model of what it reads as, and its map.

A specification is {"layers": [LAYER...]}, the bottom layer first. A LAYER has
    dialect      monolithicSparse, twoGbMaxExtentSparse, monolithicFlat, twoGbMaxExtentFlat, vmfs, vmfsSparse, seSparse,
                 streamOptimized or custom: the createType of its descriptor
    capacity     sectors
    grain        sectors of a grain in its sparse extents; 8 (seSparse) or 128 unless given
    runs         [{"start", "len", "kind", "seed"}...] in sectors, later ones over earlier ones. kind: data, zero or
                 unmapped. Data may begin and end anywhere: the rest of a grain is copied from below, as a host does.
                 zero: a zeroed grain or seSparse's type 2; unmapped: its type 1, which reads as zeros too.
and may have
    name         the descriptor is NAME.vmdk; "disk", "disk-000001"... unless given
    split        sectors of an extent, to have several
    extents      [{"type", "len", "file", "offset", "access"}...] to say them one by one
    embedded     false: the descriptor of monolithicSparse or streamOptimized is a file of its own
    layout       arguments of the dialect's writer: hosted.py, stream.py, cowd.py, sesparse.py
    descriptor   arguments of descriptor.write: encoding, newline, ...
    parent_hint  what the descriptor calls its parent
"""

import zlib

import cowd
import descriptor
import disk
import hosted
import judges
import sesparse
import stream
from disk import SECTOR

# Dialect: the type of its extents, and what ends their names: {} is the number of an extent, from 1.
EXTENTS = {
    "monolithicSparse": ("SPARSE", "-s{:03}.vmdk"),
    "twoGbMaxExtentSparse": ("SPARSE", "-s{:03}.vmdk"),
    "streamOptimized": ("SPARSE", "-s{:03}.vmdk"),
    "monolithicFlat": ("FLAT", "-flat.vmdk"),
    "twoGbMaxExtentFlat": ("FLAT", "-f{:03}.vmdk"),
    "vmfs": ("VMFS", "-flat.vmdk"),
    "vmfsSparse": ("VMFSSPARSE", "-delta.vmdk"),
    "seSparse": ("SESPARSE", "-sesparse.vmdk"),
    "custom": ("SPARSE", "-s{:03}.vmdk"),
}
# A file system ends far below the largest disk (ext4 at 16 TiB): from here on the model is packed.
LARGEST_MODEL = 15 << 40
# From here on whoever compares must not walk the whole disk: 3 TiB have 800 million grains of seSparse.
WALKABLE = 1 << 40
# Bytes beside the stored parts that a window shows: holes must be compared too.
MARGIN = 1 << 20


def with_defaults(layer, index):
    dialect = layer["dialect"]
    kind, ending = EXTENTS[dialect]
    layer = {
        "name": f"disk-{index:06}" if index else "disk", "grain": 8 if dialect == "seSparse" else 128, "runs": [],
        "layout": {}, "descriptor": {}, "embedded": dialect in ("monolithicSparse", "streamOptimized"),
    } | layer
    if "extents" not in layer:
        step = layer.get("split", layer["capacity"])
        lengths = [min(step, layer["capacity"] - at) for at in range(0, layer["capacity"], step)]
        layer["extents"] = [{"type": kind, "len": length} for length in lengths]
    layer["extents"] = [dict(extent) for extent in layer["extents"]]
    for number, extent in enumerate(layer["extents"], 1):
        name = layer["name"] + (".vmdk" if layer["embedded"] else ending.format(number))
        extent.setdefault("file", name)
    return layer


def write_layer(folder, layer, view, all_states, cid, parent):
    arguments = (layer["dialect"], layer["capacity"], layer["extents"], cid, parent)
    text = descriptor.write(*arguments, **layer["descriptor"])
    start = 0
    for extent, states in zip(layer["extents"], all_states):
        part = disk.Extent(view, start, extent["len"], layer["grain"], states)
        path = folder / extent.get("file", "")
        embedded = text if layer["embedded"] else None
        if extent["type"] in disk.FLAT_TYPES:
            offset = extent.get("offset", 0)
            path.touch()
            with open(path, "r+b") as file:
                disk.write_sparse(file, part, offset)
                file.truncate(max(path.stat().st_size, (offset + extent["len"]) * SECTOR))
        elif extent["type"] == "VMFSSPARSE":
            cowd.write(path, part, parent[1] if parent else "", **layer["layout"])
        elif extent["type"] == "SESPARSE":
            sesparse.write(path, part, **layer["layout"])
        elif layer["dialect"] == "streamOptimized":
            stream.write(path, part, embedded, **layer["layout"])
        elif extent["type"] == "SPARSE":
            hosted.write(path, part, embedded, **layer["layout"])
        start += extent["len"]
    if not layer["embedded"]:
        (folder / f"{layer['name']}.vmdk").write_bytes(text)


def content_id(layer):
    """Any number but the two that mean "no parent"."""
    return zlib.crc32(repr(sorted(layer.items())).encode()) & 0x7FFFFFFF


def windows_of(view, block_map):
    """Byte ranges that show every stored part of a disk too large to be walked; all else is zeros."""
    whole = view.owners.end * SECTOR
    ranges = [(0, SECTOR)] + [(e["start"], e["start"] + e["length"]) for e in block_map if e["kind"] != "hole"]
    windows = []
    for start, end in ranges + [(whole - SECTOR, whole)]:
        start, end = max(0, start - MARGIN), min(whole, end + MARGIN)
        if windows and start <= windows[-1][1]:
            windows[-1][1] = max(end, windows[-1][1])
        else:
            windows.append([start, end])
    return [{"start": start, "length": end - start} for start, end in windows]


def write_model(path, view, windows):
    """With windows: only these, one after the other."""
    whole = view.owners.end
    windows = windows or [{"start": 0, "length": whole * SECTOR}]
    at = 0
    with open(path, "wb") as file:
        for window in windows:
            start, count = window["start"] // SECTOR, window["length"] // SECTOR
            disk.write_sparse(file, disk.Extent(view, start, count, 1, {}), at)
            at += count
        file.truncate(at * SECTOR)


def build(spec, folder):
    """Writes a chain and its model.raw into a folder. Returns what scenario.json says."""
    layers = [with_defaults(layer, index) for index, layer in enumerate(spec["layers"])]
    view, parent = None, None
    for index, layer in enumerate(layers):
        below = view or disk.empty(layer["capacity"])
        view, states = disk.overlay(below, index, layer["capacity"], layer["grain"], layer["extents"], layer["runs"])
        cid = content_id(layer)
        if parent and "parent_hint" in layer:
            parent = (parent[0], layer["parent_hint"])
        write_layer(folder, layer, view, states, cid, parent)
        parent = (cid, f"{layer['name']}.vmdk")
    capacity = layers[-1]["capacity"] * SECTOR
    block_map = disk.map_of(view, len(layers))
    windows = windows_of(view, block_map) if capacity > WALKABLE else None
    packed = capacity > LARGEST_MODEL
    write_model(folder / "model.raw", view, windows if packed else None)
    why_not = judges.why_not(layers)
    result = {
        "top": parent[1],
        "capacity": capacity,
        "model": "model.raw",
        "readers": [reader for reader in judges.READERS if reader not in why_not],
        "why_not": why_not,
        "map": block_map,
    }
    return result | ({"windows": windows, "packed": packed} if windows else {})
