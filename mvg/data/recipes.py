"""Textbook layouts of body regions, from which the anatomies are drawn.

Each recipe writes shapes into a `Builder`. Positions are (y, x) in the parent, y to the back; the builder moves, turns
and stretches what it is given, so that no two anatomies are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mvg.data.anatomy import Builder


@dataclass(frozen=True)
class Recipe:
    """A body region.

    Attributes:
        build: Writes the shapes.
        look: "section" (MR, CT, PET), "projection" (X-ray), "sonogram" or "slide" (microscopy, fundus).
        share: How often it is drawn, relative to the others.
        extent: Edge of the field of view in mm.
        volume: May be drawn in 3D.
    """

    build: Callable[[Builder], None]
    look: str
    share: float
    extent: float
    volume: bool = True


def trunk(b: Builder, size: tuple[float, float], fat: float, muscle: float) -> tuple[int, int]:
    """Adds skin, fat, muscle wall and cavity; returns the muscle and the cavity."""
    if b.chance(0.4):
        b.add("air", "air", (0, 0), (1.6, 1.6), depth=2, organ=False, wobble=0, jitter=0)
        b.add("couch", "couch", (0.58, 0), (0.025, 0.55), depth=2, organ=False, wobble=0.02, jitter=0.3, loose=0.3)
        skin = b.add("skin", "skin", (0, 0), size, depth=1.6, wobble=0.05, boxy=b.chance(0.3), organ=False, loose=0.3)
    else:
        skin = b.add("skin", "skin", (0, 0), size, depth=1.6, wobble=0.05, boxy=b.chance(0.3), organ=False, loose=0.3)
    layer = b.layer("fat", "fat", 0.025, skin)
    wall = b.layer("muscle", "muscle", fat, layer, folds=(6, 0.02))
    return wall, b.layer("cavity", "fat", muscle, wall)


def vertebra(b: Builder, parent: int, at: tuple[float, float], size: float) -> None:
    """Adds a vertebra seen from above: body, processes, canal and cord."""
    y, x = at
    b.add("process", "bone", (y + 0.3, x), (size * 1.1, size * 0.25), depth=2, parent=parent, host=-1, organ=False, loose=0.3)
    b.pair("process", "bone", (y + 0.16, x + 0.17), (size * 0.22, size * 0.75), angle=25, depth=2, parent=parent, host=-1, organ=False, loose=0.3)
    body = b.add("vertebra", "bone", at, (size * 0.85, size), depth=2, parent=parent, host=-1, wobble=0.06, loose=0.4)
    b.layer("marrow", "marrow", 0.025, body)
    canal = b.add("canal", "fluid", (1.3, 0), (size * 0.45, size * 0.5), depth=2, parent=body, host=-1, loose=0.3)
    b.layer("cord", "grey", size * 0.18, canal, organ=True)


def head(b: Builder) -> None:
    """Adds a brain inside of its skull."""
    skin = b.add("skin", "skin", (0, 0), (b.between(0.8, 0.92), b.between(0.66, 0.78)), depth=0.85, wobble=0.05, organ=False, loose=0.3)
    fat = b.layer("fat", "fat", 0.03, skin)
    skull = b.layer("skull", "bone", b.between(0.02, 0.05), fat, organ=True)
    if b.chance(0.5):
        b.layer("diploe", "marrow", 0.025, skull)
    csf = b.layer("fluid", "fluid", b.between(0.06, 0.09), skull, organ=True)
    grey = b.layer("cortex", "grey", b.between(0.015, 0.04), csf, folds=(16, 0.05), organ=True)
    white = b.layer("white matter", "white", b.between(0.08, 0.12), grey, folds=(13, 0.13), organ=True)
    for y in (-0.75, 0.8):
        b.add("fissure", "fluid", (y, 0), (0.2, 0.015), parent=grey, depth=0.5, organ=False, loose=0.3)
    if b.chance(0.8):
        b.pair("putamen", "grey", (-0.02, 0.46), (0.17, 0.055), angle=-12, parent=white)
    b.pair("thalamus", "grey", (0.16, 0.2), (0.12, 0.075), angle=25, parent=white)
    if b.chance(0.8):
        b.pair("caudate", "grey", (-0.3, 0.2), (0.1, 0.05), angle=-20, parent=white)
    b.pair("ventricle", "fluid", (-0.18, 0.12), (b.between(0.13, 0.24), b.between(0.03, 0.06)), angle=-18, parent=white)
    b.pair("horn", "fluid", (0.5, 0.3), (0.13, 0.035), angle=25, parent=white, organ=False)
    b.add("third ventricle", "fluid", (0.14, 0), (0.1, 0.016), parent=white, loose=0.3, organ=False)
    b.add("lesion", "lesion", (0, 0), (0.065, 0.06), parent=white, copies=(2, 4))
    if b.chance(0.3):
        mass = b.add("tumour", "lesion", (b.between(-0.4, 0.4), b.between(-0.5, 0.5)), (0.18, 0.16), parent=white, wobble=0.2)
        b.layer("necrosis", "fluid", 0.07, mass, organ=True)


def thorax(b: Builder) -> None:
    """Adds lungs, heart and great vessels in a rib cage."""
    wall, cavity = trunk(b, (b.between(0.6, 0.72), b.between(0.84, 0.95)), b.between(0.04, 0.1), b.between(0.08, 0.12))
    count = int(b.rng.integers(9, 14))
    for level in (0.0,) if b.dims == 2 else (-0.4, -0.13, 0.13, 0.4):
        for angle in np.linspace(0.35, 2 * np.pi - 0.35, count) + b.between(-0.1, 0.1):
            place = (0.89 * np.cos(angle), 0.91 * np.sin(angle))
            turn = np.degrees(np.arctan2(np.cos(angle) * 0.9, np.sin(angle) * 0.6))
            b.add("rib", "bone", place, (0.1, 0.028), z=level, depth=0.07, angle=-turn, parent=wall, host=-1, organ=False, loose=0.3)
    lungs = b.pair("lung", "lung", (0.02, 0.52), (b.between(0.4, 0.48), b.between(0.27, 0.34)), depth=0.9, parent=cavity, wobble=0.1, loose=0.6)
    path = [(0.05, -0.95), (0, -0.5), (b.between(-0.3, 0.3), 0.1), (b.between(-0.5, 0.5), 0.5)]
    vessel = b.tube("lung vessel", "blood", path, (0.035, 0.012), parent=lungs[0], branches=3, organ=False)
    b.mirror(vessel, lungs[1])
    heart = b.add("heart", "muscle", (-0.22, 0.16), (b.between(0.22, 0.3), b.between(0.22, 0.3)), parent=cavity, angle=30, loose=0.6)
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
    _, cavity = trunk(b, (b.between(0.58, 0.74), b.between(0.82, 0.95)), b.between(0.03, 0.13), b.between(0.05, 0.1))
    for _ in range(int(b.rng.integers(3, 7))):
        loop = b.add("bowel", "bowel", (b.between(-0.6, 0.1), b.between(-0.3, 0.7)), (0.1, 0.12), parent=cavity, organ=False, wobble=0.15)
        b.layer("content", "gas" if b.chance(0.4) else "bowel fluid", 0.035, loop)
    vertebra(b, cavity, (0.85, 0), b.between(0.12, 0.15))
    liver = b.add("liver", "organ", (-0.05, -0.5), (b.between(0.36, 0.46), b.between(0.3, 0.38)), parent=cavity, wobble=0.16, depth=0.5)
    for turn in (-0.5, 0.4):
        path = [(0.1, 0.8), (0.1 * turn, 0.3), (0.4 * turn, -0.1), (0.8 * turn, -0.5)]
        b.tube("liver vessel", "blood", path, (0.03, 0.012), parent=liver, branches=2, organ=b.chance(0.5))
    if b.chance(0.6):
        b.add("gallbladder", "fluid", (-0.3, -0.15), (0.1, 0.06), parent=cavity, angle=30)
    stomach = b.add("stomach", "bowel", (-0.4, 0.4), (0.19, 0.26), parent=cavity, angle=-25, wobble=0.12)
    b.layer("stomach content", "bowel fluid" if b.chance(0.6) else "gas", 0.04, stomach)
    b.add("spleen", "organ", (0.15, 0.74), (0.27, 0.13), parent=cavity, angle=12, wobble=0.12, depth=0.3)
    kidneys = b.pair("kidney", "organ", (0.5, 0.5), (b.between(0.15, 0.2), b.between(0.1, 0.13)), angle=-18, parent=cavity, depth=0.3, wobble=0.06)
    for kidney, side in zip(kidneys, (-1, 1), strict=True):
        b.add("renal pelvis", "fluid", (0, 0.4 * side), (0.07, 0.05), parent=kidney, organ=False)
    if b.chance(0.8):
        b.add("pancreas", "organ", (0.05, 0.12), (0.06, 0.27), angle=-12, parent=cavity, wobble=0.15, depth=0.12)
    b.add("aorta", "blood", (0.52, 0.1), (0.06, 0.06), depth=2, parent=cavity, loose=0.5)
    b.add("vena cava", "blood", (0.5, -0.14), (0.05, 0.075), depth=2, parent=cavity, loose=0.5)
    b.add("lesion", "lesion", (0, 0), (0.07, 0.065), parent=liver if b.chance(0.7) else kidneys[0], copies=(1, 3))


def pelvis(b: Builder) -> None:
    """Adds bladder, prostate or uterus, rectum, hips and sacrum."""
    wall, cavity = trunk(b, (b.between(0.55, 0.66), b.between(0.84, 0.95)), b.between(0.05, 0.13), b.between(0.06, 0.1))
    b.pair("gluteus", "muscle", (0.55, 0.5), (0.2, 0.34), angle=-15, parent=wall)
    b.pair("obturator", "muscle", (-0.05, 0.36), (0.24, 0.06), angle=10, parent=wall, organ=False)
    b.pair("ilium", "bone", (0.08, 0.46), (0.2, 0.07), angle=18, parent=wall, depth=0.3, loose=0.5)
    femora = b.pair("femur", "bone", (-0.06, 0.66), (b.between(0.13, 0.17), b.between(0.13, 0.17)), parent=wall, depth=0.25, wobble=0.05, loose=0.5)
    for femur in femora:
        b.layer("marrow", "marrow", 0.03, femur)
    sacrum = b.add("sacrum", "bone", (0.72, 0), (0.1, 0.22), parent=wall, wobble=0.15, depth=0.3)
    b.layer("marrow", "marrow", 0.03, sacrum)
    bladder = b.add("bladder", "muscle", (-0.38, 0), (b.between(0.15, 0.24), b.between(0.2, 0.28)), parent=cavity, wobble=0.06)
    b.layer("urine", "fluid", 0.03, bladder, organ=True)
    gland = b.add("prostate", "organ", (0.06, 0), (b.between(0.1, 0.15), b.between(0.13, 0.2)), parent=cavity, wobble=0.08)
    b.layer("transition zone", "organ", 0.06, gland, organ=True)
    rectum = b.add("rectum", "bowel", (0.45, 0), (0.11, 0.1), parent=cavity, depth=0.6)
    b.layer("content", "gas" if b.chance(0.5) else "bowel fluid", 0.045, rectum)
    b.pair("femoral vessel", "blood", (-0.62, 0.45), (0.05, 0.05), depth=2, parent=wall)
    b.add("lesion", "lesion", (0, 0), (0.06, 0.055), parent=gland, copies=(1, 2))


def limb(b: Builder) -> None:
    """Adds bones, muscles and vessels of an arm or leg in cross-section."""
    skin = b.add("skin", "skin", (0, 0), (b.between(0.65, 0.88), b.between(0.65, 0.88)), depth=1.8, wobble=0.08, organ=False, loose=0.4)
    fat = b.layer("fat", "fat", 0.025, skin)
    fascia = b.layer("septum", "fat", b.between(0.06, 0.2), fat)
    count, start = int(b.rng.integers(5, 9)), b.between(0, 6)
    for index in range(count):
        angle = start + 2 * np.pi * index / count
        name = f"muscle {index % 4}"
        b.add(name, "muscle", (0.55 * np.sin(angle), 0.55 * np.cos(angle)), (0.3, 1.5 / count), angle=-np.degrees(angle) + 90, parent=fascia, depth=1.4, wobble=0.1, jitter=0.7)
    for index in range(int(b.rng.integers(1, 3))):
        place = (b.between(-0.15, 0.15), b.between(-0.15, 0.15)) if index == 0 else (0.38, 0.35)
        bone = b.add(f"bone {index}", "bone", place, (0.16 / (index + 1) + 0.03, 0.16 / (index + 1) + 0.03), parent=fascia, depth=1.8, wobble=0.08)
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
    right_wall = b.add("right wall", "muscle", (0.05, -0.42), (0.36, 0.34), parent=sac, depth=0.6, organ=False)
    b.layer("right ventricle", "blood", 0.035, right_wall, organ=True)
    left = b.add("myocardium", "muscle", (0.05, 0.22), (b.between(0.34, 0.42), b.between(0.34, 0.42)), parent=sac, depth=0.6, wobble=0.04)
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
        b.add("disc", "disc", (y + step / 3.6, x), (0.06, 0.21), boxy=True, angle=angle, parent=body, depth=0.25, loose=0.3, jitter=0.5)
        bone = b.add("vertebra", "bone", (y, x), (0.36 * step, 0.22), boxy=True, angle=angle, parent=body, depth=0.25, loose=0.25, jitter=0.5, wobble=0.04)
        b.layer("marrow", "marrow", 0.022, bone)
    b.tube("aorta", "blood", [(y, x - 0.3) for y, x in local[1:-1]], (0.07, 0.06), parent=body)
    b.add("lesion", "lesion", (0, -0.1), (0.065, 0.06), parent=body, host=-1, copies=(2, 4))


def chest(b: Builder) -> None:
    """Adds a chest in frontal projection."""
    torso = b.add("torso", "soft", (0.1, 0), (1.35, b.between(0.88, 1.1)), wobble=0.05, boxy=True, organ=False, loose=0.4)
    b.add("neck", "soft", (-0.95, 0), (0.4, 0.26), parent=torso, host=-1, organ=False)
    lungs = b.pair("lung", "lung field", (-0.08, 0.45), (b.between(0.58, 0.72), b.between(0.3, 0.38)), angle=-7, parent=torso, wobble=0.07, boxy=b.chance(0.4), loose=0.5)
    path = [(0.05, -0.95), (0.1, -0.5), (0.3, -0.1), (0.6, 0.2)]
    vessel = b.tube("hilum", "soft", path, (0.05, 0.015), parent=lungs[0], branches=4, organ=False)
    b.mirror(vessel, lungs[1])
    b.add("spine", "column", (0, 0), (1.4, 0.11), parent=torso, organ=b.chance(0.5), loose=0.3)
    count = int(b.rng.integers(6, 9))
    for index in range(count):
        y = -0.58 + 1.0 * index / count
        arc = [(y, 0.1), (y - 0.05, 0.4), (y + 0.02, 0.72), (y + 0.2, 0.84), (y + 0.32, 0.74)]
        b.mirror(b.tube("rib", "thin bone", arc, (0.035, 0.03), parent=torso, organ=False))
    b.add("mediastinum", "soft", (-0.2, 0.0), (0.6, 0.15), parent=torso, wobble=0.12, organ=False)
    b.add("heart", "dense", (0.22, 0.12), (b.between(0.26, 0.36), b.between(0.28, 0.4)), angle=25, parent=torso, wobble=0.08, loose=0.5)
    if b.chance(0.7):
        b.add("aortic arch", "dense", (-0.28, 0.1), (0.12, 0.11), parent=torso)
    b.pair("diaphragm", "dense", (0.66, 0.42), (0.3, 0.46), parent=torso, wobble=0.04, loose=0.4)
    b.mirror(b.tube("clavicle", "thin bone", [(-0.52, 0.08), (-0.6, 0.4), (-0.68, 0.9)], (0.045, 0.05), parent=torso))
    if b.chance(0.3):
        b.tube("catheter", "metal", [(-0.7, -0.5), (-0.5, -0.2), (-0.1, -0.1), (0.05, -0.08)], (0.014, 0.014), parent=torso)
    b.add("lesion", "dense", (0, 0), (0.08, 0.075), parent=lungs[int(b.chance(0.5))], copies=(1, 3))


def joint(b: Builder) -> None:
    """Adds the long bones of a joint in projection."""
    soft = b.add("soft", "soft", (0, 0), (1.7, b.between(0.5, 0.75)), wobble=0.08, organ=False)
    gap = b.between(0.02, 0.04)
    for name, side in (("upper bone", -1), ("lower bone", 1)):
        shaft = [(side * 0.85, 0.0), (side * 0.4, b.between(-0.05, 0.05)), (side * (gap + 0.12), 0)]
        b.tube(name, "long bone", shaft, (b.between(0.13, 0.17), 0.2), parent=soft)
        b.add(name, "long bone", (side * (gap + 0.12), 0), (0.17, b.between(0.34, 0.42)), parent=soft, boxy=True, wobble=0.05, loose=0.3, jitter=0.4)
    b.tube("fibula", "long bone", [(0.12, 0.72), (0.45, 0.68), (0.9, 0.6)], (0.09, 0.055), parent=soft)
    b.add("patella", "dense", (-0.14, b.between(-0.2, 0.2)), (0.17, 0.15), parent=soft)
    b.add("implant", "metal", (0.25, 0), (0.08, 0.025), parent=soft, copies=(2, 3))
    b.add("lesion", "long bone", (0, 0), (0.065, 0.06), parent=soft, copies=(2, 4))


def sonogram(b: Builder) -> None:
    """Adds the layers and organs under an ultrasound probe; y is depth."""
    field = b.add("field", "echo", (0, 0), (1.8, 1.8), depth=2, organ=False)
    b.add("skin", "bright echo", (-0.62, 0), (0.18, 1.8), depth=2, parent=field, organ=False)
    b.add("muscle", "dim echo", (-0.42, 0), (0.12, 1.8), depth=2, parent=field, wobble=0.05)
    b.tube("fascia", "bright echo", [(-0.34, -1), (-0.33, 0), (-0.35, 1)], (0.015, 0.015), parent=field, organ=False)
    organ = b.add("organ", "echo organ", (0.1, b.between(-0.15, 0.15)), (b.between(0.4, 0.55), b.between(0.5, 0.75)), parent=field, wobble=0.1)
    inner = b.add("inner", "dim echo" if b.chance(0.5) else "bright echo", (0.05, b.between(-0.3, 0.3)), (0.2, 0.28), parent=organ, wobble=0.12)
    if b.chance(0.7):
        b.add("cyst", "anechoic", (b.between(-0.5, 0.4), b.between(-0.6, 0.6)), (0.12, 0.14), parent=organ)
    if b.chance(0.7):
        b.pair("vessel", "anechoic", (b.between(-0.15, 0.35), 0.34), (0.07, 0.09), parent=field)
    if b.chance(0.6):
        b.add("nerve", "bright echo", (-0.2, b.between(-0.3, 0.3)), (0.06, 0.12), parent=field)
    if b.chance(0.4):
        b.add("bone", "bone echo", (0.4, b.between(-0.3, 0.3)), (0.06, 0.25), parent=field, depth=0.3)
    b.tube("duct", "anechoic", [(0.3, -0.8), (0.1, -0.2), (0.2, 0.3), (0.0, 0.8)], (0.035, 0.025), parent=organ)
    b.add("lesion", "dim echo" if b.chance(0.6) else "bright echo", (0, 0), (0.07, 0.065), parent=inner if b.chance(0.3) else organ, copies=(1, 3))


def cells(b: Builder) -> None:
    """Adds glands, stroma and nuclei of a tissue slide."""
    field = b.add("field", "stroma", (0, 0), (1.9, 1.9), depth=1.9, organ=False)
    for _ in range(int(b.rng.integers(1, 4))):
        gland = b.add("gland", "cytoplasm", (b.between(-0.4, 0.4), b.between(-0.4, 0.4)), (0.35, 0.3), parent=field, wobble=0.15)
        b.layer("lumen", "lumen", 0.16, gland, organ=True)
    b.add("fibre", "fibre", (b.between(-0.4, 0.4), 0), (0.07, 0.9), angle=b.between(-60, 60), parent=field, wobble=0.2)
    small = b.between(0.045, 0.075)
    b.add("nucleus", "nucleus", (0, 0), (small, small * 1.3), parent=field, copies=(22, 38), wobble=0.06)
    b.add("pale nucleus", "pale nucleus", (0, 0), (small * 1.4, small * 1.6), parent=field, copies=(8, 16), wobble=0.06)
    b.add("lesion", "dark nucleus", (0, 0), (small * 1.1, small * 1.1), parent=field, copies=(2, 5), wobble=0.25)


def retina(b: Builder) -> None:
    """Adds a fundus: disc and cup, vessel tree, macula."""
    field = b.add("fundus", "fundus", (0, 0), (0.97, 0.97), wobble=0.0, organ=False, loose=0.0, jitter=0.2)
    side = b.between(0.3, 0.5) * (1 if b.chance(0.5) else -1)
    b.add("macula", "macula", (0, -side * 0.6), (0.2, 0.2), parent=field)
    for up in (-1, 1):
        for way, reach in ((-1, 1.4), (1, 0.5)):
            arc = [(0, side), (up * 0.3, side + way * 0.1 * np.sign(side)), (up * 0.55, side + way * np.sign(side) * reach * 0.35), (up * 0.65, side + way * np.sign(side) * reach * 0.8)]
            for name, shift in (("artery", 0.0), ("vein", 0.07)):
                b.tube(name, name, [(y + shift * up * i / 3, x - shift * i) for i, (y, x) in enumerate(arc)], (0.04, 0.018), parent=field, branches=2)
    disc = b.add("disc", "optic disc", (0, side), (0.17, 0.15), parent=field, wobble=0.03, loose=0.4)
    b.layer("cup", "cup", b.between(0.05, 0.08), disc, organ=True)
    b.add("lesion", "exudate" if b.chance(0.5) else "haemorrhage", (0, 0), (0.06, 0.055), parent=field, copies=(2, 4))


def free(b: Builder) -> None:
    """Adds an invented anatomy: layers, organs wherever there is room, vessels and inclusions."""
    tissues = ("organ", "organ", "muscle", "fluid", "blood", "fat", "marrow", "lung", "grey", "white", "bowel")
    outline = b.add("skin", "skin", (0, 0), (b.between(0.6, 1.0), b.between(0.6, 1.0)), depth=b.between(0.7, 1.6), wobble=0.14, boxy=b.chance(0.3), organ=False)
    inside = outline
    for index in range(int(b.rng.integers(1, 5))):
        tissue = str(b.rng.choice(["fat", "muscle", "bone", "organ", "fluid"]))
        inside = b.layer(f"layer {index}", tissue, b.between(0.02, 0.12), inside, folds=(b.between(4, 14), 0.04), organ=index > 1)
    taken: list[tuple[float, float, float]] = []
    organ = inside
    for index in range(int(b.rng.integers(5, 11))):
        radius = b.between(0.08, 0.3)
        spots = b.rng.uniform(-0.75, 0.75, (12, 2))
        room = [min([np.hypot(y - ty, x - tx) - tr for ty, tx, tr in taken], default=1.0) for y, x in spots]
        y, x = map(float, spots[int(np.argmax(room))])
        taken.append((y, x, radius))
        size = (radius * b.between(0.6, 1.3), radius * b.between(0.6, 1.3))
        name, tissue = f"organ {index}", str(b.rng.choice(tissues))
        options = {"angle": b.between(-90, 90), "parent": inside, "wobble": b.between(0.03, 0.25), "boxy": b.chance(0.2)}
        organ = b.pair(name, tissue, (y, abs(x)), size, **options)[0] if b.chance(0.2) else b.add(name, tissue, (y, x), size, **options)  # type: ignore[arg-type]
        if b.chance(0.35):
            b.layer(f"core {index}", str(b.rng.choice(tissues)), b.between(0.2, 0.5) * radius, organ, organ=True)
    for index in range(int(b.rng.integers(0, 3))):
        path = np.cumsum(np.concatenate([b.rng.uniform(-0.8, 0, (1, 2)), b.rng.uniform(-0.1, 0.5, (4, 2))]), 0)
        b.tube(f"vessel {index}", "blood", path.tolist(), (b.between(0.04, 0.07), 0.03), parent=inside, branches=int(b.rng.integers(0, 3)))
    b.add("lesion", "lesion", (0, 0), (0.07, 0.065), parent=organ if b.chance(0.6) else inside, copies=(1, 4))


RECIPES: Mapping[str, Recipe] = {
    "head": Recipe(head, "section", 3, 220),
    "thorax": Recipe(thorax, "section", 2, 400),
    "abdomen": Recipe(abdomen, "section", 3, 400),
    "pelvis": Recipe(pelvis, "section", 2, 400),
    "limb": Recipe(limb, "section", 1, 200),
    "heart": Recipe(heart, "section", 2, 200),
    "spine": Recipe(spine, "section", 2, 250),
    "chest": Recipe(chest, "projection", 2, 350, volume=False),
    "joint": Recipe(joint, "projection", 1, 250, volume=False),
    "sonogram": Recipe(sonogram, "sonogram", 2.5, 80),
    "cells": Recipe(cells, "slide", 1, 0.1),
    "retina": Recipe(retina, "slide", 1, 12, volume=False),
    "free": Recipe(free, "section", 5, 250),
}
"""The body regions, by name."""
