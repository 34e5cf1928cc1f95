#!/usr/bin/env python3
"""Holds the scenarios to the foreign readers, and what is said of the readers to the truth.

    self_check.py VENV [SCENARIO...]

VENV is the folder of the readers' venv. Builds every scenario, reads it with every reader and prints a table:
    ok        reads as the model says
    (why)     cannot be read, as scenario.json says: refuses, differs or size
and in the last column whether the map is what qemu-img sees. Anything else is a failure, and so is a reader that can
read what scenario.json says it cannot.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
SECTOR = 512
PIECE = 1 << 20


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=60)


def first_difference(model, other, windows, packed):
    """The first sector of the disk that differs. `other` has the windows one after the other, a packed model too."""
    with open(model, "rb") as ours, open(other, "rb") as theirs:
        for start, length in windows:
            if not packed:
                ours.seek(start)
            for at in range(start, start + length, PIECE):
                size = min(PIECE, start + length - at)
                one, two = ours.read(size), theirs.read(size)
                if one != two:
                    places = range(0, size, SECTOR)
                    return next(at + i for i in places if one[i:i + SECTOR] != two[i:i + SECTOR]) // SECTOR
    return None


def outcome(folder, facts, reader, python):
    out = folder / f"{reader}.raw"
    windows = [(w["start"], w["length"]) for w in facts.get("windows", [])]
    try:
        ran = run(python, HERE / "read.py", reader, folder / facts["top"], out, *(f"{s}:{n}" for s, n in windows))
    except subprocess.TimeoutExpired:
        return "hangs", ""
    if ran.returncode:
        return "refuses", ran.stderr.strip().splitlines()[-1]
    size = sum(length for _, length in windows) or facts["capacity"]
    if out.stat().st_size != size:
        return "size", f"{out.stat().st_size} bytes instead of {size}"
    model = folder / facts["model"]
    sector = first_difference(model, out, windows or [(0, size)], facts.get("packed", False))
    if sector is not None:
        return "differs", f"first at sector {sector}"
    return "ok", ""


def map_difference(top, facts):
    """The first byte where qemu-img sees another layer or kind than the map, or None."""
    windows = facts.get("windows") or [{"start": 0, "length": facts["capacity"]}]
    ours = iter(facts["map"])
    mine = next(ours)
    for window in windows:
        limits = (f"--start-offset={window['start']}", f"--max-length={window['length']}")
        ran = run("qemu-img", "map", "--output=json", "-f", "vmdk", *limits, top)
        for theirs in json.loads(ran.stdout):
            at, end = theirs["start"], theirs["start"] + theirs["length"]
            while at < end:
                while mine["start"] + mine["length"] <= at:
                    mine = next(ours)
                # Where a parent ends before its child, qemu gives the rest to the child: no depth of holes is compared.
                seen = ("data" if theirs["data"] else "zero", theirs["depth"]) if theirs["present"] else ("hole", None)
                if seen != (mine["kind"], None if mine["kind"] == "hole" else mine["depth"]):
                    return at
                at = mine["start"] + mine["length"]
    return None


def check(name, python):
    """The row of a scenario, and what is wrong with it."""
    wrong = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / name
        began = time.monotonic()
        made = run(sys.executable, HERE / "make.py", name, folder)
        seconds = time.monotonic() - began
        if made.returncode:
            return [name, "-"], [f"{name}: not built: {made.stderr.strip()}"]
        facts = json.loads(made.stdout)
        row = [name, f"{seconds:.2f}"]
        for reader in ("qemu", "dissect", "libvmdk"):
            what, detail = outcome(folder, facts, reader, python)
            reason = facts["why_not"].get(reader)
            row.append(what if reason is None else f"({what})")
            if reason is None and what != "ok":
                wrong.append(f"{name}: {reader} {what}: {detail}")
            if reason is not None and what == "ok":
                wrong.append(f"{name}: {reader} can read it after all; it was said: {reason}")
        if "qemu" in facts["readers"]:
            byte = map_difference(folder / facts["top"], facts)
            row.append("ok" if byte is None else "differs")
            if byte is not None:
                wrong.append(f"{name}: qemu's map differs at byte {byte}")
        else:
            row.append("-")
    return row, wrong


def main(venv, *names):
    python = pathlib.Path(venv) / "bin" / "python"
    names = names or run(sys.executable, HERE / "make.py", "--list").stdout.split()
    wrong = []
    widths = (38, 9, 11, 11, 11, 10)
    heads = ("scenario", "seconds", "qemu", "dissect", "libvmdk", "qemu's map")
    print("".join(text.ljust(width) for text, width in zip(heads, widths)))
    for name in names:
        row, problems = check(name, python)
        print("".join(text.ljust(width) for text, width in zip(row, widths)).rstrip(), flush=True)
        wrong += problems
    for problem in wrong:
        print(problem)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
