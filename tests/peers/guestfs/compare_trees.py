#!/usr/bin/env python3
"""Compares two mounted trees, and one of them with the truth of how the volume was made.

    compare_trees.py A B [--xattrs] [--truth FILE]      ours and ntfs-3g's
    compare_trees.py A --truth FILE [--xattrs]          ours alone; with --foreign ntfs-3g's alone
    compare_trees.py A B --restored                     a source and what a backup product restored

Compares names, types, sizes, contents, times of change and of access, numbers of links, which names are one file, where
links lead; with --xattrs also streams (user.*), security, attributes, times and reparse points as ntfs-3g shows them
(system.ntfs_*). Owners and modes are not compared: ntfs-3g invents them too. --restored: neither are times of access,
which no product restores.

Known differences are counted and their reasons printed. Exits with 1 and the first 20 differences if there are others.
"""

import argparse
import collections
import concurrent.futures
import os
import pathlib
import stat
import sys

sys.dont_write_bytecode = True  # the source tree stays as it is

import known
import sides
import truth

SHOWN = 20
WORKERS = 4
SYSTEM = ("acl", "attrib", "times", "crtime", "reparse_data", "dos_name")


class Report:
    """What one folder gave."""

    def __init__(self):
        self.counts, self.known = collections.Counter(), collections.Counter()
        self.different, self.folders, self.groups = [], [], []

    def add(self, path, what, a, b):
        self.different.append((path, what, a, b))


class Pair:
    """One name on both sides; `b` is None where there is only the truth."""

    def __init__(self, path, a, b, fact, options):
        self.path, self.a, self.b, self.fact, self.options = path, a, b, fact, options

    def differences(self, report, facts):
        """(what, a, b) of all that is not equal."""
        if self.b:
            yield from self.of_sides(report)
        if self.fact:
            yield from truth.differences(self.a, self.fact, self.options.xattrs, facts)

    def of_sides(self, report):
        a, b = self.a, self.b
        fields = [("type", a.type, b.type), ("mtime", a.stat.st_mtime_ns, b.stat.st_mtime_ns)]
        if not self.options.restored:
            fields.append(("atime", a.stat.st_atime_ns, b.stat.st_atime_ns))
        if a.type != stat.S_IFDIR:
            fields.append(("links", a.stat.st_nlink, b.stat.st_nlink))
        if a.type == b.type == stat.S_IFREG:
            fields.append(("size", a.stat.st_size, b.stat.st_size))
        if a.type == b.type == stat.S_IFLNK:
            fields.append(("target", a.target(), b.target()))
        yield from ((what, one, other) for what, one, other in fields if one != other)
        if a.type == b.type == stat.S_IFREG:
            report.counts["bytes"] += b.stat.st_size
            yield from sides.content_difference(a, b)
        if self.options.xattrs:
            yield from self.of_xattrs()

    def of_xattrs(self):
        wanted = [] if self.options.restored else [b"system.ntfs_" + name.encode() for name in SYSTEM]
        lists = [side.streams() for side in (self.a, self.b)]
        if lists[0] != lists[1]:
            yield "streams", *lists
        elif isinstance(lists[0], list):
            wanted += lists[0]
        for name in wanted:
            one, other = self.a.xattr(name), self.b.xattr(name)
            if one != other:
                yield "xattr " + os.fsdecode(name), one, other


def folder(path, options, facts):
    """Compares what is in one folder. Folders below are answered, not entered."""
    report = Report()
    try:
        trees = [sides.listing(top, path) for top in (options.a, options.b) if top]
    except OSError as error:
        report.add(path, "listing", str(error), "")
        return report
    named = facts.children(path)
    if len(trees) == 1:
        trees.append(named)
    for name in sorted(trees[0].keys() ^ trees[1].keys()):
        pair = Pair(sides.join(path, name), trees[0].get(name), trees[1].get(name), None, options)
        tell(pair, report, "only in", "A" if pair.a else "B", "")
    for name in sorted(trees[0].keys() & trees[1].keys()):
        here = sides.join(path, name)
        other = trees[1][name] if options.b else None
        pair = Pair(here, trees[0][name], other, named.get(name), options)
        compare(pair, report, facts)
    return report


def tell(pair, report, what, one, other):
    reason = known.reason(pair, what, one, other)
    if reason:
        report.known[reason] += 1
    else:
        report.add(pair.path, what, one, other)


def compare(pair, report, facts):
    kind = {stat.S_IFDIR: "folders", stat.S_IFREG: "files", stat.S_IFLNK: "links"}.get(pair.a.type, "others")
    report.counts[kind] += 1
    for what, one, other in pair.differences(report, facts):
        tell(pair, report, what, one, other)
    if pair.a.type == stat.S_IFDIR and (pair.b is None or pair.b.type == stat.S_IFDIR):
        report.folders.append(pair.path)
    elif pair.a.stat.st_nlink > 1:
        other, same = pair.b and pair.b.stat.st_ino, pair.fact and pair.fact["same"]
        report.groups.append((pair.path, pair.a.stat.st_ino, other, same))


def walk(options, facts):
    """All folders, several at once; workers inherit the truth."""
    whole = Report()
    with concurrent.futures.ProcessPoolExecutor(WORKERS, initializer=inherit, initargs=(options, facts)) as pool:
        waiting = {pool.submit(in_worker, b"")}
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for report in (future.result() for future in done):
                whole.counts += report.counts
                whole.known += report.known
                whole.different += report.different
                whole.groups += report.groups
                waiting |= {pool.submit(in_worker, path) for path in report.folders}
    one_file(whole)
    return whole


def inherit(options, facts):
    inherit.given = options, facts


def in_worker(path):
    return folder(path, *inherit.given)


def one_file(report):
    """Which names are one file: whoever is told apart by one side must be by the others."""
    for index, label in ((2, "B"), (3, "the truth")):
        pairs = {(entry[1], entry[index]) for entry in report.groups if entry[index] is not None}
        for side in (0, 1):
            doubled = [key for key, count in collections.Counter(pair[side] for pair in pairs).items() if count > 1]
            for path, ino, *others in report.groups:
                if (ino, others[index - 2])[side] in doubled:
                    report.add(path, "which names are one file", ino, f"{label}: {others[index - 2]}")


def show(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=os.fsencode)
    parser.add_argument("b", type=os.fsencode, nargs="?")
    parser.add_argument("--xattrs", action="store_true")
    parser.add_argument("--restored", action="store_true")
    parser.add_argument("--foreign", action="store_true")
    parser.add_argument("--truth", type=pathlib.Path)
    options = parser.parse_args()
    if not options.b and not options.truth:
        parser.error("a second tree or a truth is needed")
    report = walk(options, truth.Truth(options.truth))
    print(", ".join(f"{count} {what}" for what, count in sorted(report.counts.items())))
    for reason, count in sorted(report.known.items()):
        print(f"known: {count} times: {reason}")
    for path, what, one, other in sorted(report.different, key=lambda entry: entry[:2])[:SHOWN]:
        print(f"DIFFERENT {os.fsdecode(path)!r}: {what}: A {show(one)}, B {show(other)}")
    print(f"{len(report.different)} differences")
    sys.exit(1 if report.different else 0)


if __name__ == "__main__":
    main()
