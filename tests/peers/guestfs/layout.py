"""What ntfsinfo says of a file's layout, and whether it is what a fixture claims."""

import os
import re
import subprocess

SECTION = re.compile(r"^Dumping attribute \$?(\S+) \((0x[0-9a-f]+)\) from mft record (\d+)", re.M)
FIELD = re.compile(r"^\t([A-Za-z ]+):?\s+(?:.*\((0x[0-9a-f]+)\)|(0x[0-9a-f]+))", re.M)
NAME = re.compile(r"^\tAttribute name:\s+'(.*)'", re.M)
RUN = re.compile(r"^\t\t\t0x([0-9a-f]+)\t\t(?:0x([0-9a-f]+)|<HOLE>)\t\t0x([0-9a-f]+)", re.M)


def ask(image, what):
    place = ["-i", str(what)] if isinstance(what, int) else ["-F", b"/" + what]
    done = subprocess.run(["ntfsinfo", "-f", "-v", *place, image], capture_output=True)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode or not SECTION.search(text):
        raise RuntimeError(f"ntfsinfo {what}: {text[-500:]} {done.stderr.decode(errors='replace')}")
    return text


def attributes(text):
    """[{type, record, name, the fields as numbers, runs}...]"""
    heads = list(SECTION.finditer(text))
    found = []
    for head, end in zip(heads, [head.start() for head in heads[1:]] + [len(text)]):
        body = text[head.end():end]
        numbers = [(label, wide or bare) for label, wide, bare in FIELD.findall(body)]
        fields = {label.strip().lower(): int(number, 16) for label, number in numbers}
        name = NAME.search(body)
        runs = [(int(vcn, 16), int(lcn, 16) if lcn else None, int(count, 16)) for vcn, lcn, count in RUN.findall(body)]
        found.append({"type": head[1], "record": int(head[3]), "name": name[1] if name else "", "fields": fields,
                      "runs": runs, "resident": "Resident: \t\t Yes" in body})
    return found


def facts(image, what, kind="DATA", name=""):
    """What is said of one attribute, its pieces together."""
    found = attributes(ask(image, what))
    pieces = [one for one in found if (one["type"], one["name"]) == (kind, name)]
    if not pieces:
        there = [(one["type"], one["name"]) for one in found]
        raise RuntimeError(f"{what}: no attribute {kind} {name!r} among {there}")
    first = next((one for one in pieces if not one["fields"].get("lowest vcn")), pieces[0])["fields"]
    base = next(one["record"] for one in found if one["type"] == "STANDARD_INFORMATION")
    return {
        "in_base": sum(one["record"] == base for one in pieces),
        "list": any(one["type"] == "ATTRIBUTE_LIST" for one in found),
        "names": sum(one["type"] == "FILE_NAME" for one in found),
        "pieces": len(pieces),
        "runs": sum(len([run for run in one["runs"] if run[1] is not None]) for one in pieces),
        "holes": sum(len([run for run in one["runs"] if run[1] is None]) for one in pieces),
        "resident": pieces[0]["resident"],
        "flags": first.get("attribute flags", 0),
        "size": first.get("data size"),
        "initialized": first.get("initialized size"),
        "allocated": first.get("allocated size"),
    }


def check(image, what, wanted):
    """`wanted`: attribute (its type), stream (its name), min_FACT or FACT. Answers what was found."""
    wanted = dict(wanted)
    kind, name = wanted.pop("attribute", "DATA"), wanted.pop("stream", "")
    found = facts(image, what, kind, name)
    for rule, value in wanted.items():
        fact = rule.removeprefix("min_")
        if found[fact] < value if fact != rule else found[fact] != value:
            raise RuntimeError(f"{what}: {rule} should be {value}, ntfsinfo says {found}")
    label = what if isinstance(what, int) else os.fsdecode(what).encode("utf-8", "replace").decode()
    return {"of": label, "attribute": kind, "stream": name, **found}
