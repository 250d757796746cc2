"""Textbook layouts of X-rays, sonograms, slides and fundus pictures, and anatomies that no textbook knows.

Positions are (y, x) in the parent, y to the back of the patient or down; the builder moves, turns and stretches what it
is given, so that no two anatomies are the same.
"""

from __future__ import annotations

import numpy as np

from mvg.data.anatomy import Builder


def rib_cage(b: Builder, torso: int) -> None:
    """Adds ribs as they are seen from the front, left and right."""
    count = int(b.rng.integers(6, 9))
    turn = np.linspace(0, 2.3, 9)
    for index in range(count):
        down = -0.66 + 1.05 * index / count + 0.1 * turn**1.4 - 0.05 * np.sin(turn)
        aside = (0.72 + 0.14 * index / count) * np.sin(0.3 + 0.75 * turn) - 0.15
        arc = np.stack([down, aside], 1).tolist()
        b.mirror(b.tube("rib", "thin bone", arc, (0.036, 0.03), parent=torso, organ=False))


def chest(b: Builder) -> None:
    """Adds a chest in frontal projection."""
    torso = b.add(
        "torso", "soft", (0.1, 0), (1.35, b.between(0.88, 1.1)), wobble=0.05, boxy=True, organ=False, loose=0.4
    )
    b.add("neck", "soft", (-0.95, 0), (0.4, 0.26), parent=torso, host=-1, organ=False)
    lungs = b.pair(
        "lung",
        "lung field",
        (-0.08, 0.45),
        b.size((0.58, 0.72), (0.3, 0.38)),
        angle=-7,
        parent=torso,
        wobble=0.07,
        boxy=b.chance(0.4),
        loose=0.5,
    )
    path = [(0.05, -0.95), (0.1, -0.5), (0.3, -0.1), (0.6, 0.2)]
    vessel = b.tube("hilum", "vascular", path, (0.05, 0.015), parent=lungs[0], branches=4, organ=False)
    b.mirror(vessel, lungs[1])
    b.add("spine", "column", (0, 0), (1.4, 0.11), parent=torso, organ=b.chance(0.5), loose=0.3)
    rib_cage(b, torso)
    b.add("mediastinum", "dense", (-0.2, 0.0), (0.6, 0.15), parent=torso, wobble=0.12, organ=False)
    b.add(
        "heart",
        "dense",
        (0.22, 0.12),
        b.size((0.26, 0.36), (0.28, 0.4)),
        angle=25,
        parent=torso,
        wobble=0.08,
        loose=0.5,
    )
    if b.chance(0.7):
        b.add("aortic arch", "dense", (-0.28, 0.1), (0.12, 0.11), parent=torso)
    b.pair("diaphragm", "dense", (0.66, 0.42), (0.3, 0.46), parent=torso, wobble=0.04, loose=0.4)
    b.mirror(b.tube("clavicle", "thin bone", [(-0.52, 0.08), (-0.6, 0.4), (-0.68, 0.9)], (0.045, 0.05), parent=torso))
    if b.chance(0.3):
        line = [(-0.7, -0.5), (-0.5, -0.2), (-0.1, -0.1), (0.05, -0.08)]
        b.tube("catheter", "metal", line, (0.014, 0.014), parent=torso)
    b.add("lesion", "dense", (0, 0), (0.08, 0.075), parent=lungs[int(b.chance(0.5))], copies=(1, 3))


def joint(b: Builder) -> None:
    """Adds the long bones of a joint in projection."""
    soft = b.add("soft", "soft", (0, 0), (1.7, b.between(0.5, 0.75)), wobble=0.08, organ=False)
    gap = b.between(0.02, 0.04)
    for name, side in (("upper bone", -1), ("lower bone", 1)):
        shaft = [(side * 0.85, 0.0), (side * 0.4, b.between(-0.05, 0.05)), (side * (gap + 0.12), 0)]
        b.tube(name, "long bone", shaft, (b.between(0.13, 0.17), 0.2), parent=soft)
        size = (0.17, b.between(0.34, 0.42))
        condyle = b.add(name, "long bone", shaft[-1], size, parent=soft, boxy=True, loose=0.3, jitter=0.4)
    b.tube("fibula", "long bone", [(0.12, 0.72), (0.45, 0.68), (0.9, 0.6)], (0.09, 0.055), parent=soft)
    b.add("patella", "dense", (-0.16, b.between(-0.2, 0.2)), (0.12, 0.11), parent=soft)
    if b.chance(0.3):
        b.tube("implant", "metal", [(-0.75, 0), (-0.4, 0)], (0.05, 0.04), parent=soft)
    b.add("lesion", "metal", (0, 0), (0.065, 0.06), parent=condyle, copies=(1, 3))


def sonogram(b: Builder) -> None:
    """Adds the layers and organs under an ultrasound probe; y is depth."""
    field = b.add("field", "echo", (0, 0), (1.8, 1.8), depth=2, organ=False)
    b.add("skin", "bright echo", (-0.62, 0), (0.18, 1.8), depth=2, parent=field, organ=False)
    b.add("muscle", "dim echo", (-0.42, 0), (0.12, 1.8), depth=2, parent=field, wobble=0.05)
    b.tube("fascia", "bright echo", [(-0.34, -1), (-0.33, 0), (-0.35, 1)], (0.015, 0.015), parent=field, organ=False)
    organ = b.add(
        "organ", "echo organ", (0.1, b.between(-0.15, 0.15)), b.size((0.4, 0.55), (0.5, 0.75)), parent=field, wobble=0.1
    )
    inner = b.add(
        "inner",
        "dim echo" if b.chance(0.5) else "bright echo",
        (0.05, b.between(-0.3, 0.3)),
        (0.2, 0.28),
        parent=organ,
        wobble=0.12,
    )
    if b.chance(0.7):
        b.add("cyst", "anechoic", b.size((-0.5, 0.4), (-0.6, 0.6)), (0.12, 0.14), parent=organ)
    if b.chance(0.7):
        b.pair("vessel", "anechoic", (b.between(-0.15, 0.35), 0.34), (0.07, 0.09), parent=field)
    if b.chance(0.6):
        b.add("nerve", "bright echo", (-0.2, b.between(-0.3, 0.3)), (0.06, 0.12), parent=field)
    if b.chance(0.4):
        b.add("bone", "bone echo", (0.4, b.between(-0.3, 0.3)), (0.06, 0.25), parent=field, depth=0.3)
    b.tube("duct", "anechoic", [(0.3, -0.8), (0.1, -0.2), (0.2, 0.3), (0.0, 0.8)], (0.035, 0.025), parent=organ)
    b.add(
        "lesion",
        "dim echo" if b.chance(0.6) else "bright echo",
        (0, 0),
        (0.07, 0.065),
        parent=inner if b.chance(0.3) else organ,
        copies=(1, 3),
    )


def cells(b: Builder) -> None:
    """Adds glands, stroma and nuclei of a tissue slide."""
    field = b.add("field", "stroma", (0, 0), (1.9, 1.9), depth=1.9, organ=False)
    for _ in range(int(b.rng.integers(1, 4))):
        gland = b.add("gland", "cytoplasm", b.size((-0.4, 0.4), (-0.4, 0.4)), (0.35, 0.3), parent=field, wobble=0.15)
        b.layer("lumen", "lumen", 0.16, gland, organ=True)
    b.add("fibre", "fibre", (b.between(-0.4, 0.4), 0), (0.07, 0.9), angle=b.between(-60, 60), parent=field, wobble=0.2)
    small = b.between(0.045, 0.075)
    b.add("nucleus", "nucleus", (0, 0), (small, small * 1.3), parent=field, copies=(26, 44), wobble=0.06)
    b.add("pale nucleus", "pale nucleus", (0, 0), (small * 1.4, small * 1.6), parent=field, copies=(8, 16), wobble=0.06)
    b.add("lesion", "dark nucleus", (0, 0), (small * 1.1, small * 1.1), parent=field, copies=(2, 5), wobble=0.25)


def retina(b: Builder) -> None:
    """Adds a fundus: disc and cup, vessel tree, macula."""
    field = b.add("fundus", "fundus", (0, 0), (0.97, 0.97), wobble=0.0, organ=False, loose=0.0, jitter=0.2)
    side = b.between(0.3, 0.5) * (1 if b.chance(0.5) else -1)
    b.add("macula", "macula", (0, -side * 0.6), (0.2, 0.2), parent=field)
    for up in (-1, 1):
        for way, reach in ((-1, 1.4), (1, 0.5)):
            out = way * np.sign(side)
            rows, columns = (
                (0, 0.3, 0.55, 0.65),
                (side, side + 0.1 * out, side + 0.35 * reach * out, side + 0.8 * reach * out),
            )
            for name, shift in (("artery", 0.0), ("vein", 0.07)):
                arc = [
                    (up * (y + shift * i / 3), x - shift * i)
                    for i, (y, x) in enumerate(zip(rows, columns, strict=True))
                ]
                b.tube(name, name, arc, (0.04, 0.018), parent=field, branches=2)
    disc = b.add("disc", "optic disc", (0, side), (0.17, 0.15), parent=field, wobble=0.03, loose=0.4)
    b.layer("cup", "cup", b.between(0.05, 0.08), disc, organ=True)
    b.add("lesion", "exudate" if b.chance(0.5) else "haemorrhage", (0, 0), (0.06, 0.055), parent=field, copies=(2, 4))


def fill(b: Builder, inside: int) -> int:
    """Adds organs of any kind wherever there is room, and returns the last one."""
    tissues = ("organ", "organ", "muscle", "fluid", "blood", "fat", "marrow", "lung", "grey", "white", "bowel")
    taken: list[tuple[float, float, float]] = []
    organ = inside
    for index in range(int(b.rng.integers(5, 11))):
        radius, spots = b.between(0.08, 0.3), b.rng.uniform(-0.75, 0.75, (12, 2))
        room = [min([np.hypot(y - ty, x - tx) - tr for ty, tx, tr in taken], default=1.0) for y, x in spots]
        y, x = map(float, spots[int(np.argmax(room))])
        taken.append((y, x, radius))
        size = (radius * b.between(0.6, 1.3), radius * b.between(0.6, 1.3))
        tissue, angle, wobble = str(b.rng.choice(tissues)), b.between(-90, 90), b.between(0.03, 0.25)
        name, boxy = f"organ {index}", b.chance(0.2)
        organ = b.add(name, tissue, (y, x), size, angle=angle, parent=inside, wobble=wobble, boxy=boxy)
        if b.chance(0.2):
            b.mirror(organ)
        if b.chance(0.35):
            b.layer(f"core {index}", str(b.rng.choice(tissues)), b.between(0.2, 0.5) * radius, organ, organ=True)
    return organ


def free(b: Builder) -> None:
    """Adds an invented anatomy: layers, organs wherever there is room, vessels and inclusions."""
    inside = b.add(
        "skin",
        "skin",
        (0, 0),
        b.size((0.6, 1.0), (0.6, 1.0)),
        depth=b.between(0.7, 1.6),
        wobble=0.14,
        boxy=b.chance(0.3),
        organ=False,
    )
    for index in range(int(b.rng.integers(1, 5))):
        tissue = str(b.rng.choice(["fat", "muscle", "bone", "organ", "fluid"]))
        inside = b.layer(
            f"layer {index}", tissue, b.between(0.02, 0.12), inside, folds=(b.between(4, 14), 0.04), organ=index > 1
        )
    organ = fill(b, inside)
    for index in range(int(b.rng.integers(0, 3))):
        path = np.cumsum(np.concatenate([b.rng.uniform(-0.8, 0, (1, 2)), b.rng.uniform(-0.1, 0.5, (4, 2))]), 0)
        width, branches = (b.between(0.04, 0.07), 0.03), int(b.rng.integers(0, 3))
        b.tube(f"vessel {index}", "blood", path.tolist(), width, parent=inside, branches=branches)
    b.add("lesion", "lesion", (0, 0), (0.07, 0.065), parent=organ if b.chance(0.6) else inside, copies=(1, 4))
