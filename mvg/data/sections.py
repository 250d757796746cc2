"""Textbook layouts of body regions in section, as MR, CT and PET show them.

Positions are (y, x) in the parent, y to the back of the patient or down; the builder moves, turns and stretches what it
is given, so that no two anatomies are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mvg.data.anatomy import Builder


def trunk(b: Builder, size: tuple[float, float], fat: float, muscle: float) -> tuple[int, int]:
    """Adds skin, fat, muscle wall and cavity; returns the muscle and the cavity."""
    if b.chance(0.4):
        b.add("air", "air", (0, 0), (1.6, 1.6), depth=2, organ=False, wobble=0, jitter=0)
        b.pack("couch", "couch", (0.58, 0), (0.025, 0.55), depth=2, wobble=0.02, jitter=0.3)
    skin = b.pack("skin", "skin", (0, 0), size, depth=1.6, wobble=0.05, boxy=b.chance(0.3))
    layer = b.layer("fat", "fat", 0.025, skin)
    wall = b.layer("muscle", "muscle", fat, layer, folds=(6, 0.02))
    return wall, b.layer("cavity", "fat", muscle, wall)


def vertebra(b: Builder, parent: int, at: tuple[float, float], size: float) -> None:
    """Adds a vertebra seen from above: body, processes, canal and cord."""
    y, x = at
    b.pack("process", "bone", (y + 0.3, x), (size * 1.1, size * 0.25), depth=2, parent=parent, host=-1)
    number = b.pack(
        "process", "bone", (y + 0.16, x + 0.17), (size * 0.2, size * 0.75), angle=25, depth=2, parent=parent, host=-1
    )
    b.mirror(number)
    body = b.add("vertebra", "bone", at, (size * 0.85, size), parent=parent, host=-1, depth=2, loose=0.4)
    b.layer("marrow", "marrow", 0.025, body)
    canal = b.add("canal", "fluid", (1.3, 0), (size * 0.45, size * 0.5), depth=2, parent=body, host=-1, loose=0.3)
    b.layer("cord", "grey", size * 0.18, canal, organ=True)


def ribs(b: Builder, wall: int) -> None:
    """Adds the cut ribs around a chest."""
    count = int(b.rng.integers(9, 14))
    for level in (0.0,) if b.dims == 2 else (-0.4, -0.13, 0.13, 0.4):
        for angle in np.linspace(0.35, 2 * np.pi - 0.35, count) + b.between(-0.1, 0.1):
            place = (0.89 * np.cos(angle), 0.91 * np.sin(angle))
            turn = -np.degrees(np.arctan2(np.cos(angle) * 0.9, np.sin(angle) * 0.6))
            b.pack("rib", "bone", place, (0.1, 0.028), z=level, depth=0.07, angle=turn, parent=wall, host=-1)


def head(b: Builder) -> None:
    """Adds a brain inside of its skull."""
    skin = b.pack("skin", "skin", (0, 0), b.size((0.8, 0.92), (0.66, 0.78)), depth=0.85, wobble=0.05)
    fat = b.layer("fat", "fat", 0.03, skin)
    skull = b.layer("skull", "bone", b.between(0.02, 0.05), fat, organ=True)
    if b.chance(0.5):
        b.layer("diploe", "marrow", 0.025, skull)
    csf = b.layer("fluid", "fluid", b.between(0.06, 0.09), skull, organ=True)
    grey = b.layer("cortex", "grey", b.between(0.015, 0.04), csf, folds=(17, 0.05), organ=True)
    white = b.layer("white matter", "white", b.between(0.08, 0.12), grey, folds=(20, 0.09), organ=True)
    for y in (-0.75, 0.8):
        b.pack("fissure", "fluid", (y, 0), (0.2, 0.015), parent=grey, depth=0.5)
    if b.chance(0.8):
        b.pair("putamen", "grey", (-0.02, 0.46), (0.17, 0.055), angle=-12, parent=white)
    b.pair("thalamus", "grey", (0.16, 0.2), (0.12, 0.075), angle=25, parent=white)
    if b.chance(0.8):
        b.pair("caudate", "grey", (-0.3, 0.2), (0.1, 0.05), angle=-20, parent=white)
    b.pair("ventricle", "fluid", (-0.18, 0.12), b.size((0.13, 0.24), (0.03, 0.06)), angle=-18, parent=white)
    b.pair("horn", "fluid", (0.5, 0.3), (0.13, 0.035), angle=25, parent=white, organ=False)
    b.pack("third ventricle", "fluid", (0.14, 0), (0.1, 0.016), parent=white)
    b.add("lesion", "lesion", (0, 0), (0.065, 0.06), parent=white, copies=(2, 4))
    if b.chance(0.3):
        mass = b.add("tumour", "lesion", b.size((-0.4, 0.4), (-0.5, 0.5)), (0.18, 0.16), parent=white, wobble=0.2)
        b.layer("necrosis", "fluid", 0.07, mass, organ=True)


def thorax(b: Builder) -> None:
    """Adds lungs, heart and great vessels in a rib cage."""
    wall, cavity = trunk(b, b.size((0.6, 0.72), (0.84, 0.95)), b.between(0.04, 0.1), b.between(0.08, 0.12))
    ribs(b, wall)
    lungs = b.pair(
        "lung", "lung", (0.02, 0.52), b.size((0.4, 0.48), (0.27, 0.34)), depth=0.9, parent=cavity, wobble=0.1, loose=0.6
    )
    path = [(0.05, -0.95), (0, -0.5), (b.between(-0.3, 0.3), 0.1), (b.between(-0.5, 0.5), 0.5)]
    vessel = b.tube("lung vessel", "blood", path, (0.035, 0.012), parent=lungs[0], branches=3, organ=False)
    b.mirror(vessel, lungs[1])
    heart = b.add(
        "heart", "muscle", (-0.22, 0.16), b.size((0.22, 0.3), (0.22, 0.3)), parent=cavity, angle=30, loose=0.6
    )
    b.add("left ventricle", "blood", (0.15, 0.35), (0.13, 0.09), parent=heart, angle=30)
    b.add("right ventricle", "blood", (-0.25, -0.35), (0.13, 0.09), parent=heart, angle=10)
    vertebra(b, cavity, (0.9, 0), b.between(0.12, 0.15))
    b.add("aorta", "blood", (0.62, 0.2), (0.07, 0.07), depth=2, parent=cavity, loose=0.5)
    b.add("oesophagus", "muscle", (0.42, 0.05), (0.04, 0.05), depth=2, parent=cavity, loose=0.5)
    if b.chance(0.6):
        b.pair("bronchus", "gas", (0.28, 0.13), (0.04, 0.045), depth=0.6, parent=cavity, loose=0.5)
    b.add("lesion", "lesion", (0, 0), (0.07, 0.065), parent=lungs[int(b.chance(0.5))], copies=(2, 4))


def abdomen(b: Builder) -> None:
    """Adds liver, spleen, kidneys, stomach, pancreas, bowel and great vessels."""
    _, cavity = trunk(b, b.size((0.58, 0.74), (0.82, 0.95)), b.between(0.03, 0.13), b.between(0.05, 0.1))
    for _ in range(int(b.rng.integers(3, 7))):
        loop = b.add(
            "bowel", "bowel", b.size((-0.6, 0.1), (-0.3, 0.7)), (0.1, 0.12), parent=cavity, organ=False, wobble=0.15
        )
        b.layer("content", "gas" if b.chance(0.4) else "bowel fluid", 0.035, loop)
    vertebra(b, cavity, (0.85, 0), b.between(0.12, 0.15))
    liver = b.add(
        "liver", "organ", (-0.05, -0.5), b.size((0.36, 0.46), (0.3, 0.38)), parent=cavity, wobble=0.16, depth=0.5
    )
    for turn in (-0.5, 0.4):
        path = [(0.1, 0.8), (0.1 * turn, 0.3), (0.4 * turn, -0.1), (0.8 * turn, -0.5)]
        b.tube("liver vessel", "blood", path, (0.03, 0.012), parent=liver, branches=2, organ=b.chance(0.5))
    if b.chance(0.6):
        b.add("gallbladder", "fluid", (-0.3, -0.15), (0.1, 0.06), parent=cavity, angle=30)
    stomach = b.add("stomach", "bowel", (-0.4, 0.4), (0.19, 0.26), parent=cavity, angle=-25, wobble=0.12)
    b.layer("stomach content", "bowel fluid" if b.chance(0.6) else "gas", 0.04, stomach)
    b.add("spleen", "organ", (0.15, 0.74), (0.27, 0.13), parent=cavity, angle=12, wobble=0.12, depth=0.3)
    kidneys = b.pair(
        "kidney",
        "organ",
        (0.5, 0.5),
        b.size((0.15, 0.2), (0.1, 0.13)),
        angle=-18,
        parent=cavity,
        depth=0.3,
        wobble=0.06,
    )
    for kidney, side in zip(kidneys, (-1, 1), strict=True):
        b.add("renal pelvis", "fluid", (0, 0.4 * side), (0.07, 0.05), parent=kidney, organ=False)
    if b.chance(0.8):
        b.add("pancreas", "organ", (0.05, 0.12), (0.06, 0.27), angle=-12, parent=cavity, wobble=0.15, depth=0.12)
    b.add("aorta", "blood", (0.52, 0.1), (0.06, 0.06), depth=2, parent=cavity, loose=0.5)
    b.add("vena cava", "blood", (0.5, -0.14), (0.05, 0.075), depth=2, parent=cavity, loose=0.5)
    b.add("lesion", "lesion", (0, 0), (0.07, 0.065), parent=liver if b.chance(0.7) else kidneys[0], copies=(1, 3))


def pelvis(b: Builder) -> None:
    """Adds bladder, prostate or uterus, rectum, hips and sacrum."""
    wall, cavity = trunk(b, b.size((0.55, 0.66), (0.84, 0.95)), b.between(0.05, 0.13), b.between(0.06, 0.1))
    b.pair("gluteus", "muscle", (0.55, 0.5), (0.2, 0.34), angle=-15, parent=wall)
    b.pair("obturator", "muscle", (-0.05, 0.36), (0.24, 0.06), angle=10, parent=wall, organ=False)
    b.pair("ilium", "bone", (0.08, 0.46), (0.2, 0.07), angle=18, parent=wall, depth=0.3, loose=0.5)
    femora = b.pair(
        "femur",
        "bone",
        (-0.06, 0.66),
        b.size((0.13, 0.17), (0.13, 0.17)),
        parent=wall,
        depth=0.25,
        wobble=0.05,
        loose=0.5,
    )
    for femur in femora:
        b.layer("marrow", "marrow", 0.03, femur)
    sacrum = b.add("sacrum", "bone", (0.72, 0), (0.1, 0.22), parent=wall, wobble=0.15, depth=0.3)
    b.layer("marrow", "marrow", 0.03, sacrum)
    bladder = b.add("bladder", "muscle", (-0.38, 0), b.size((0.15, 0.24), (0.2, 0.28)), parent=cavity, wobble=0.06)
    b.layer("urine", "fluid", 0.03, bladder, organ=True)
    gland = b.add("prostate", "organ", (0.06, 0), b.size((0.1, 0.15), (0.13, 0.2)), parent=cavity, wobble=0.08)
    b.layer("transition zone", "organ", 0.06, gland, organ=True)
    rectum = b.add("rectum", "bowel", (0.45, 0), (0.11, 0.1), parent=cavity, depth=0.6)
    b.layer("content", "gas" if b.chance(0.5) else "bowel fluid", 0.045, rectum)
    b.pair("femoral vessel", "blood", (-0.62, 0.45), (0.05, 0.05), depth=2, parent=wall)
    b.add("lesion", "lesion", (0, 0), (0.06, 0.055), parent=gland, copies=(1, 2))


def limb(b: Builder) -> None:
    """Adds bones, muscles and vessels of an arm or leg in cross-section."""
    skin = b.add(
        "skin", "skin", (0, 0), b.size((0.65, 0.88), (0.65, 0.88)), depth=1.8, wobble=0.08, organ=False, loose=0.4
    )
    fat = b.layer("fat", "fat", 0.025, skin)
    fascia = b.layer("septum", "fat", b.between(0.06, 0.2), fat)
    count, start = int(b.rng.integers(5, 9)), b.between(0, 6)
    for index in range(count):
        angle = start + 2 * np.pi * index / count
        place, turn = (0.55 * np.sin(angle), 0.55 * np.cos(angle)), 90 - np.degrees(angle)
        b.add(f"muscle {index % 4}", "muscle", place, (0.3, 1.5 / count), angle=turn, parent=fascia, depth=1.4)
    for index in range(int(b.rng.integers(1, 3))):
        place = b.size((-0.15, 0.15), (-0.15, 0.15)) if index == 0 else (0.38, 0.35)
        radius = 0.16 / (index + 1) + 0.03
        bone = b.add(f"bone {index}", "bone", place, (radius, radius), parent=fascia, depth=1.8)
        b.layer("marrow", "marrow", 0.045, bone, organ=index == 0)
    for place in ((0.35, -0.3), (-0.35, 0.25)):
        b.add("vessel", "blood", place, (0.05, 0.05), depth=1.8, parent=fascia)
        b.add("vein", "blood", (place[0] + 0.13, place[1] + 0.06), (0.06, 0.045), depth=1.8, parent=fascia, organ=False)
    b.add("lesion", "lesion", (0, 0), (0.07, 0.06), parent=fascia, copies=(1, 3))


def heart(b: Builder) -> None:
    """Adds a heart in short axis, close up."""
    chest = b.add("chest", "fat", (0, 0), (1.7, 1.7), depth=2, wobble=0.05, organ=False)
    b.add("wall", "muscle", (-0.62, 0), (0.16, 1.7), depth=2, parent=chest, organ=False)
    b.add("lung", "lung", (0.1, 0.62), (0.7, 0.5), depth=1.5, parent=chest, wobble=0.1)
    b.add("liver", "organ", (0.5, -0.5), (0.5, 0.7), depth=0.8, parent=chest, angle=-20)
    sac = b.add("pericardium", "fat", (0, 0), (0.62, 0.68), depth=0.8, parent=chest, organ=False)
    right_wall = b.add("right wall", "muscle", (0.05, -0.3), (0.4, 0.4), parent=sac, depth=0.6, organ=False)
    b.layer("right ventricle", "blood", 0.035, right_wall, organ=True)
    left = b.add(
        "myocardium", "muscle", (0.05, 0.22), b.size((0.34, 0.42), (0.34, 0.42)), parent=sac, depth=0.6, wobble=0.04
    )
    pool = b.layer("left ventricle", "blood", b.between(0.1, 0.17), left, organ=True)
    b.add("papillary", "muscle", (0, 0), (0.045, 0.04), parent=pool, copies=(2, 2), organ=False)
    b.add("aorta", "blood", (0.75, 0.55), (0.1, 0.1), depth=2, parent=sac, host=-1)
    b.add("lesion", "lesion", (0, 0), (0.07, 0.065), parent=left, copies=(2, 3))


def spine(b: Builder) -> None:
    """Adds a spine from the side: vertebrae, discs, canal and cord."""
    body = b.add("body", "muscle", (0, 0), (1.8, 1.15), depth=1, wobble=0.05, organ=False)
    b.add("belly", "fat", (0, -0.75), (1.7, 0.5), depth=0.9, parent=body, organ=False)
    b.add("back fat", "fat", (0, 0.83), (1.7, 0.2), depth=1, parent=body, organ=False)
    count, bend, lean = int(b.rng.integers(5, 9)), b.between(-0.25, 0.25), b.between(-0.1, 0.1)
    heights = np.linspace(-1.05, 1.05, count)
    step = heights[1] - heights[0]
    line = [(y, -0.1 + lean + bend * (y * y - 0.4)) for y in heights]
    tilt = [-np.degrees(np.arctan(2 * bend * y)) for y in heights]
    local = [(y / 1.8, x / 1.15) for y, x in line]
    canal = [(y, x + 0.29) for y, x in local]
    b.tube("canal", "fluid", canal, (0.1, 0.1), parent=body)
    b.tube("cord", "grey", canal, (0.055, 0.045), parent=body)
    for (y, x), angle in zip(local, tilt, strict=True):
        b.add("process", "bone", (y + 0.06, x + 0.5), (0.07, 0.13), angle=25, parent=body, organ=False, depth=0.07)
        options: dict[str, Any] = {"boxy": True, "angle": angle, "parent": body, "loose": 0.3, "jitter": 0.5}
        b.add("disc", "disc", (y + step / 3.6, x), (0.06, 0.21), **options)
        bone = b.add("vertebra", "bone", (y, x), (0.36 * step, 0.22), wobble=0.04, **options)
        b.layer("marrow", "marrow", 0.022, bone)
    b.tube("aorta", "blood", [(y, x - 0.3) for y, x in local[1:-1]], (0.07, 0.06), parent=body)
    b.add("lesion", "lesion", (0, -0.1), (0.065, 0.06), parent=body, host=-1, copies=(2, 4))
