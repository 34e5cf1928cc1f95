#!/usr/bin/env python3
"""Makes VMDK images of every dialect that can be read, sharing no code with the crate that reads them.

    make.py --list                  the names of the scenarios
    make.py SCENARIO DIR            builds one into the new folder DIR
    make.py custom SPEC.json DIR    builds a chain of one's own: build.py says what a specification has

Prints one JSON object, which lies in DIR/scenario.json too:
    top         the file to open
    capacity    bytes
    model       the file with what the chain reads as
    readers     the foreign readers that can read it: qemu, dissect, libvmdk
    why_not     reader to reason, for the others
    map         [{"start", "length", "depth", "kind"}...] in bytes. depth: the layer that answers, 0 is the top.
                kind: data (stored, were it zeros; a flat extent is data all over), zero (marked as zeros), hole
                (stored in no layer; its depth is that of the bottom layer)
and for disks too large to be walked
    windows     [{"start", "length"}...]: all that is not zeros lies in these
    packed      whether the model has only the windows, one after the other
"""

import json
import pathlib
import sys

sys.dont_write_bytecode = True  # the source tree stays as it is

import build
import scenarios


def main(arguments):
    match arguments:
        case ["--list"]:
            print("\n".join(scenarios.SCENARIOS))
            return
        case ["custom", spec, folder]:
            spec = json.loads(pathlib.Path(spec).read_text(encoding="utf-8"))
        case [name, folder] if name in scenarios.SCENARIOS:
            spec = scenarios.SCENARIOS[name]
        case [name, _]:
            sys.exit(f"{name}: no such scenario; --list names them")
        case _:
            sys.exit(__doc__)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    text = json.dumps(build.build(spec, folder))
    (folder / "scenario.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
