"""Which foreign readers can judge a chain, and why the others cannot. self_check.py holds both to the truth.

Versions: qemu-img 10.0, dissect.hypervisor 3.21, libvmdk 20260714.
"""

import disk


def why_not(layers):
    """Reader to reason, for those that cannot. The layers have their defaults (build.with_defaults)."""
    reasons = {reader: next(filter(None, question(layers)), None) for reader, question in READERS.items()}
    return {reader: reason for reader, reason in reasons.items() if reason}


def extents(layers):
    return [extent for layer in layers for extent in layer["extents"]]


def has_type(layers, *types):
    return any(extent["type"] in types for extent in extents(layers))


def has_offset(layers):
    return any(extent.get("offset") for extent in extents(layers))


def has_run(layers, kind, *dialects):
    return any(run["kind"] == kind for layer in layers if layer["dialect"] in dialects for run in layer["runs"])


def said(layers, part, key, usual):
    """Whether some layer has an unusual value for an argument of its layout or descriptor."""
    return any(layer[part].get(key, usual) != usual for layer in layers)


def grown(layers):
    return any(above["capacity"] > below["capacity"] for below, above in zip(layers, layers[1:]))


def ends_inside_a_grain(layers):
    """Whether a sparse extent with another one behind it is no multiple of the grain."""
    return any(
        extent["type"] in disk.SPARSE_TYPES and extent["len"] % layer["grain"]
        for layer in layers for extent in layer["extents"][:-1]
    )


def beyond_ascii(layers):
    return any("remark" in layer["descriptor"] for layer in layers) and said(layers, "descriptor", "encoding", "UTF-8")


def qemu(layers):
    if any(layer["dialect"] == "custom" for layer in layers):
        yield "does not know the createType custom"
    if any(layer["dialect"] in ("streamOptimized", "monolithicSparse") and not layer["embedded"] for layer in layers):
        yield "takes this createType only from an embedded descriptor"
    if has_type(layers, "ZERO"):
        yield "leaves ZERO extents out"
    if any(extent.get("access", "RW") != "RW" for extent in extents(layers)):
        yield "leaves out extents that are not RW, and aborts when none is left"
    if said(layers, "layout", "damage", None):
        yield "does not use the redundant grain directory; a grain table beyond the end of the file is zeros to it"
    if ends_inside_a_grain(layers):
        yield "reads the last grain of an extent to its end, over the beginning of the next extent"
    if said(layers, "descriptor", "equals", "=") or said(layers, "descriptor", "odd_case", False):
        yield "finds a key only in its usual case with = right behind it"
    if said(layers, "descriptor", "blank", False):
        yield "takes an extent behind a blank line twice"


def dissect(layers):
    if has_type(layers, "ZERO"):
        yield "leaves ZERO extents out"
    if has_offset(layers):
        yield "does not look at the offset of a FLAT extent"
    if said(layers, "layout", "damage", None):
        yield "does not use the redundant grain directory"
    if has_run(layers[1:], "unmapped", "seSparse"):
        yield "reads an unmapped grain from the parent; qemu and VMware read zeros"
    if grown(layers):
        yield "fails beyond the end of a parent that is smaller"
    if beyond_ascii(layers):
        yield "decodes every descriptor as UTF-8"
    if said(layers, "descriptor", "odd_case", False):
        yield "finds a key only in its usual case"
    if any("\t" in layer["descriptor"].get("equals", "=") for layer in layers):
        yield "takes a tab before a value for a part of it"
    if said(layers, "descriptor", "gap", " "):
        yield "knows an extent only by single spaces between its parts"


def libvmdk(layers):
    if has_type(layers, "SESPARSE"):
        yield "does not know SESPARSE extents"
    if any(layer["dialect"] == "custom" for layer in layers):
        yield "does not know the createType custom"
    if any(len({extent["type"] for extent in layer["extents"]}) > 1 for layer in layers):
        yield "takes extents of one type only"
    if has_offset(layers):
        yield "does not look at the offset of a FLAT extent"
    if any(layer["grain"] <= 8 and has_type([layer], "SPARSE") for layer in layers):
        yield "refuses hosted grains of 8 sectors and less"
    if has_run(layers, "zero", "monolithicSparse", "twoGbMaxExtentSparse"):
        yield "does not know zeroed grains"
    if said(layers, "layout", "damage", None):
        yield "does not use the redundant grain directory"
    if any(layer["layout"].get("tail") == "cut" for layer in layers):
        yield "refuses a grain that is cut by the end of the file"
    if ends_inside_a_grain(layers):
        yield "misplaces what follows an extent that ends inside a grain"
    if grown(layers):
        yield "fails beyond the end of a parent that is smaller"
    if beyond_ascii(layers) and any(layer["descriptor"].get("encoding") == "EUC-KR" for layer in layers):
        yield "does not know the encoding EUC-KR"
    if said(layers, "descriptor", "gap", " "):
        yield "knows an extent only by single spaces between its parts"
    if any("extents" in layer["descriptor"].get("comments", ()) for layer in layers):
        yield "takes no comment between extents"


READERS = {"qemu": qemu, "dissect": dissect, "libvmdk": libvmdk}
