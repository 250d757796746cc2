"""How tissues look under each kind of scanner: intensities, textures, artefacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mvg.data.anatomy import Shape
from mvg.data.fields import Array, blur, smooth_noise
from mvg.data.painting import grid

Range = tuple[float, float]


class Tissue(NamedTuple):
    """Ranges of intensity under each scanner, [0, 1], and strengths of the textures: coarse, middle, fine, ridged."""

    ct: Range
    t1: Range
    t2: Range
    pet: Range
    texture: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.0)


_NOTHING = (0.0, 0.0)
TISSUES: Mapping[str, Tissue] = {
    "air": Tissue(_NOTHING, _NOTHING, _NOTHING, _NOTHING, (0, 0, 0, 0)),
    "gas": Tissue((0.0, 0.02), (0.0, 0.04), (0.0, 0.04), (0.0, 0.05), (0, 0, 0, 0)),
    "couch": Tissue((0.3, 0.5), _NOTHING, _NOTHING, _NOTHING, (0, 0, 0, 0)),
    "lung": Tissue((0.05, 0.14), (0.03, 0.1), (0.03, 0.1), (0.02, 0.08), (0.5, 0.3, 0.2, 0.5)),
    "skin": Tissue((0.42, 0.5), (0.45, 0.6), (0.3, 0.45), (0.05, 0.1)),
    "fat": Tissue((0.27, 0.34), (0.75, 0.98), (0.55, 0.85), (0.03, 0.08), (0.3, 0.5, 0.2, 0.5)),
    "muscle": Tissue((0.48, 0.55), (0.32, 0.48), (0.15, 0.3), (0.08, 0.2), (0.3, 0.3, 0.4, 0.6)),
    "organ": Tissue((0.46, 0.68), (0.3, 0.75), (0.22, 0.7), (0.1, 0.6), (0.4, 0.5, 0.4, 0.1)),
    "bowel": Tissue((0.46, 0.6), (0.35, 0.55), (0.3, 0.5), (0.15, 0.5), (0.4, 0.5, 0.4, 0.2)),
    "bowel fluid": Tissue((0.4, 0.75), (0.15, 0.6), (0.5, 0.95), (0.05, 0.2), (0.8, 0.5, 0.2, 0)),
    "fluid": Tissue((0.37, 0.42), (0.08, 0.22), (0.82, 1.0), (0.03, 0.1), (0.1, 0.1, 0.1, 0)),
    "blood": Tissue((0.46, 0.85), (0.1, 0.9), (0.05, 0.4), (0.15, 0.3), (0.2, 0.1, 0.1, 0)),
    "bone": Tissue((0.88, 1.0), (0.04, 0.14), (0.03, 0.12), (0.05, 0.15), (0.3, 0.3, 0.3, 0.2)),
    "marrow": Tissue((0.58, 0.78), (0.55, 0.9), (0.35, 0.65), (0.15, 0.35), (0.3, 0.5, 0.7, 0.8)),
    "disc": Tissue((0.5, 0.6), (0.25, 0.4), (0.2, 0.85), (0.05, 0.12), (0.4, 0.3, 0.2, 0.2)),
    "grey": Tissue((0.5, 0.56), (0.42, 0.56), (0.48, 0.65), (0.6, 0.9), (0.3, 0.3, 0.3, 0)),
    "white": Tissue((0.42, 0.48), (0.66, 0.85), (0.28, 0.42), (0.25, 0.4), (0.3, 0.3, 0.2, 0.2)),
    "lesion": Tissue((0.3, 0.8), (0.15, 0.95), (0.6, 1.0), (0.6, 1.0), (0.6, 0.4, 0.3, 0)),
}
"""Tissues of sections. Those of other looks have one intensity for all scanners, in `SURFACES`."""

SURFACES: Mapping[str, tuple[Range, tuple[float, float, float, float]]] = {
    "soft": ((0.34, 0.42), (0.3, 0.2, 0.1, 0.1)),
    "lung field": ((0.05, 0.16), (0.4, 0.5, 0.3, 0.6)),
    "dense": ((0.5, 0.62), (0.2, 0.2, 0.1, 0)),
    "column": ((0.52, 0.62), (0.2, 0.6, 0.2, 0.3)),
    "thin bone": ((0.44, 0.52), (0.1, 0.1, 0.1, 0.1)),
    "vascular": ((0.18, 0.27), (0.2, 0.2, 0.1, 0.1)),
    "long bone": ((0.6, 0.8), (0.2, 0.4, 0.4, 0.5)),
    "metal": ((0.95, 1.0), (0, 0, 0, 0)),
    "echo": ((0.3, 0.45), (0.8, 0.8, 0.4, 0.6)),
    "echo organ": ((0.35, 0.6), (0.6, 0.5, 0.3, 0.3)),
    "bright echo": ((0.7, 0.95), (0.5, 0.5, 0.3, 0.5)),
    "dim echo": ((0.12, 0.28), (0.5, 0.5, 0.3, 0.8)),
    "anechoic": ((0.0, 0.05), (0, 0, 0, 0)),
    "bone echo": ((0.97, 1.0), (0.2, 0.2, 0.2, 0)),
    "stroma": ((0.72, 0.9), (0.4, 0.6, 0.5, 0.8)),
    "fibre": ((0.55, 0.68), (0.4, 0.5, 0.4, 1.2)),
    "cytoplasm": ((0.5, 0.66), (0.4, 0.6, 0.7, 0.2)),
    "lumen": ((0.93, 1.0), (0, 0, 0.1, 0)),
    "nucleus": ((0.2, 0.36), (0.2, 0.5, 0.9, 0)),
    "pale nucleus": ((0.4, 0.5), (0.2, 0.6, 0.9, 0)),
    "dark nucleus": ((0.05, 0.14), (0.2, 0.3, 0.5, 0)),
    "fundus": ((0.4, 0.6), (0.8, 0.3, 0.3, 0.2)),
    "macula": ((0.22, 0.34), (0.3, 0.2, 0.2, 0)),
    "optic disc": ((0.75, 0.85), (0.2, 0.2, 0.2, 0)),
    "cup": ((0.93, 1.0), (0.1, 0.1, 0.1, 0)),
    "artery": ((0.24, 0.34), (0, 0, 0.1, 0)),
    "vein": ((0.1, 0.2), (0, 0, 0.1, 0)),
    "exudate": ((0.85, 1.0), (0.2, 0.2, 0.2, 0)),
    "haemorrhage": ((0.05, 0.15), (0.2, 0.2, 0.2, 0)),
}
TEXTURES = 4
CELLS = (6, 14, 30)
"""Bumps across the image of the first three textures; the fourth is ridges."""
SECTIONS = (
    ("t1", "t2", "pd"),
    ("t2", "t1", "pd"),
    ("pd", "t1", "t2"),
    ("t1", "t1", "t2"),
    ("ct", "pet", "t1"),
    ("ct", "ct", "t2"),
    ("ct", "t1", "pet"),
    ("ct", "ct", "ct"),
    ("t2", "pet", "ct"),
    ("wild", "wild", "wild"),
)
"""Kinds of scanner that look at one subject. "pd" mixes T1 and T2, "wild" has any contrast."""


@dataclass(frozen=True)
class Scanner:
    """One modality of a cohort.

    Attributes:
        kind: "ct", "t1", "t2", "pd", "pet", "wild", "projection", "sonogram" or "slide".
        gamma: Exponent of the display.
        sigma: Blur along each axis, as a share of the image.
        noise: Standard deviation of the noise.
        bias: Strength of the shading.
        gains: `(4,)`, strength and sign of each texture.
    """

    kind: str
    gamma: float
    sigma: tuple[float, ...]
    noise: float
    bias: float
    gains: Array


@dataclass(frozen=True)
class Window:
    """A field of view: an ultrasound fan, or a circle.

    Attributes:
        top: Distance from the centre of the image up to the apex of the fan; 0 for a circle. Units of half the image.
        angle: Half of the fan's opening, radians.
        reach: Radius of the circle; for a fan, distance from the centre up to where it starts.
    """

    top: float
    angle: float
    reach: float

    def mask(self, size: tuple[int, ...]) -> Array:
        """Returns 1 inside and 0 outside, soft at the edge, `(*size)`."""
        points, edge = grid(size), 3 / min(size)
        y, aside = points[-2], np.sqrt((np.delete(points, -2, axis=0) ** 2).sum(0))
        if self.top == 0:
            inside = self.reach - np.hypot(y, points[-1])
        else:
            radius = np.hypot(aside, y + self.top)
            inside = np.minimum(radius - (self.top - self.reach), self.top + 0.95 - radius)
            inside = np.minimum(inside, (self.angle - np.arctan2(aside, y + self.top)) * radius)
        soft: Array = np.clip(inside / edge, 0, 1).astype(np.float32)
        return soft


@dataclass(frozen=True)
class Look:
    """What all images of a cohort share.

    Attributes:
        scanners: One for each modality.
        table: `(shapes, modalities + 4)`, intensity under each scanner, then strength of the textures.
        window: What the scanner sees; None for everything.
    """

    scanners: tuple[Scanner, ...]
    table: Array
    window: Window | None


def draw_look(
    kind: str, shapes: Sequence[Shape], window: Window | None, dims: int, modalities: int, rng: np.random.Generator
) -> Look:
    """Draws the look of a cohort.

    Args:
        kind: "section", "projection", "sonogram" or "slide".
        shapes: The shapes of its anatomy.
        window: Its field of view.
        dims: 2 or 3.
        modalities: Number of modalities.
        rng: Draws it.
    """
    kinds = [kind] * modalities
    if kind == "section":
        chosen = SECTIONS[int(rng.integers(len(SECTIONS)))]
        kinds = [chosen[index % len(chosen)] for index in range(modalities)]
    columns = [intensities(name, shapes, rng) for name in kinds]
    if kind == "slide" and rng.random() < 0.35:
        columns = [0.95 - 0.9 * column for column in columns]
    textures = np.array([texture(shape.tissue) for shape in shapes], dtype=np.float32)
    table = np.concatenate([np.stack(columns, 1), textures], 1).astype(np.float32)
    scanners = tuple(draw_scanner(name, dims, rng) for name in kinds)
    return Look(scanners, table, window)


def texture(tissue: str) -> tuple[float, float, float, float]:
    """Returns the strengths of the four textures of a tissue."""
    return TISSUES[tissue].texture if tissue in TISSUES else SURFACES[tissue][1]


def intensities(kind: str, shapes: Sequence[Shape], rng: np.random.Generator) -> Array:
    """Draws the intensity of each shape under one scanner, `(shapes,)`; organs differ visibly from their parents."""
    low, high = (rng.uniform(0.0, 0.28), rng.uniform(0.62, 1.0)) if kind == "ct" else (0.0, 1.0)
    mix = rng.uniform(0.2, 0.8)
    tissues: dict[str, float] = {}
    names: dict[str, float] = {}
    values: list[float] = []
    for shape in shapes:
        if shape.name not in names:
            typical = tissues.setdefault(
                shape.tissue, (draw_intensity(kind, shape.tissue, mix, rng) - low) / (high - low)
            )
            own = (draw_intensity(kind, shape.tissue, mix, rng) - low) / (high - low)
            value = float(np.clip(own if shape.organ else typical, 0, 1))
            if shape.organ and shape.parent >= 0:
                value = apart(value, values[shape.parent], rng)
            names[shape.name] = value
        values.append(names[shape.name])
    return np.array(values, dtype=np.float32)


def draw_intensity(kind: str, tissue: str, mix: float, rng: np.random.Generator) -> float:
    """Draws the intensity of a tissue; `mix` weighs T1 against T2 in "pd"."""
    if tissue not in TISSUES:
        spread = rng.normal(0, 0.04)
        return float(rng.uniform(*SURFACES[tissue][0]) + spread)
    row = TISSUES[tissue]
    if kind == "wild":
        return float(rng.uniform(0.08, 1.0)) if row.t1[1] > 0.1 else float(rng.uniform(*row.t1))
    if kind == "pd":
        return float(mix * rng.uniform(*row.t1) + (1 - mix) * rng.uniform(*row.t2))
    return float(rng.uniform(*getattr(row, kind)))


def apart(value: float, around: float, rng: np.random.Generator) -> float:
    """Moves an intensity away from that around it until the eye can tell them apart."""
    gap = rng.uniform(0.08, 0.2)
    if abs(value - around) >= gap:
        return value
    side = 1.0 if value >= around else -1.0
    if not 0.02 <= around + side * gap <= 1.0:
        side = -side
    return float(np.clip(around + side * gap, 0, 1))


def draw_scanner(kind: str, dims: int, rng: np.random.Generator) -> Scanner:
    """Draws one modality of a cohort."""
    sharp = {"pet": (0.01, 0.024), "sonogram": (0.002, 0.006), "slide": (0.0, 0.006)}.get(kind, (0.0, 0.009))
    sigma = rng.uniform(*sharp, dims) * rng.choice([1.0, 1.0, 1.0, 2.0], dims)
    noise = {"pet": (0.02, 0.06), "ct": (0.01, 0.04), "sonogram": (0.25, 0.6), "projection": (0.005, 0.02)}.get(
        kind, (0.005, 0.035)
    )
    bias = {"ct": 0.0, "pet": 0.02, "projection": 0.05, "sonogram": 0.2, "slide": 0.04}.get(kind, rng.uniform(0, 0.22))
    scale = {"ct": 0.03, "pet": 0.06, "sonogram": 0.12, "slide": 0.07, "projection": 0.05}.get(kind, 0.05)
    gains = scale * rng.uniform(0.5, 1.3, TEXTURES) * rng.choice([-1.0, 1.0], TEXTURES)
    gamma = float(np.exp(rng.normal(0, 0.15)))
    return Scanner(
        kind, gamma, tuple(map(float, sigma)), float(rng.uniform(*noise)), float(bias), gains.astype(np.float32)
    )


def draw_window(kind: str, rng: np.random.Generator) -> Window | None:
    """Draws the field of view of a cohort; None for all of the image."""
    if kind == "sonogram" and rng.random() < 0.6:
        return Window(float(rng.uniform(1.15, 1.9)), float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.8, 0.95)))
    if kind == "section" and rng.random() < 0.12:
        return Window(0.0, np.pi, float(rng.uniform(0.92, 1.02)))
    return None


def expose(canvas: Array, look: Look, rng: np.random.Generator) -> Array:
    """Turns a painted canvas into images, one for each modality, `(M, *S)` float32 in [0, 1].

    Args:
        canvas: `(M + 4, *S)`: means under each scanner, then strength of each texture.
        look: The look of the cohort.
        rng: Draws texture, noise and how this scan differs from others of the same scanner.
    """
    size, count = canvas.shape[1:], len(look.scanners)
    weave = [smooth_noise(rng, size, (cells,) * len(size), 1)[0] for cells in CELLS]
    ridges = 1.2 - 2 * np.abs(smooth_noise(rng, size, (12,) * len(size), 1)[0])
    strands = canvas[count:] * np.stack([*weave, ridges])
    means = (mean + np.tensordot(s.gains, strands, 1) for mean, s in zip(canvas[:count], look.scanners, strict=True))
    return np.stack([scan(mean, scanner, rng) for mean, scanner in zip(means, look.scanners, strict=True)])


def scan(mean: Array, scanner: Scanner, rng: np.random.Generator) -> Array:
    """Takes one image `(*S)` in [0, 1] of the mean intensities `(*S)` of a subject."""
    size = mean.shape
    image: Array = np.minimum(np.maximum(mean, 0), 1) * np.float32(np.exp(rng.normal(0, 0.03)))
    strength = scanner.noise * float(np.exp(rng.normal(0, 0.2)))
    if scanner.kind == "sonogram":
        image = insonify(image, strength, rng)
    if scanner.bias:
        image = image * np.exp(scanner.bias * smooth_noise(rng, size, (2,) * len(size), 1)[0])
    sigmas = [share * n for share, n in zip(scanner.sigma, size, strict=True)]
    image = blur(image[None], sigmas)[0]
    noise: Array = rng.standard_normal(size, dtype=np.float32) * np.float32(strength)
    if scanner.kind in ("t1", "t2", "pd", "wild"):
        image = np.hypot(image + noise, np.float32(strength) * rng.standard_normal(size, dtype=np.float32))
    elif scanner.kind == "pet":
        image = image + 2.5 * blur((noise * np.sqrt(image))[None], [1.0] * len(size))[0]
    elif scanner.kind != "sonogram":
        image = image + noise - (1.5 * strength if scanner.kind == "ct" else 0)
    gamma = scanner.gamma * float(np.exp(rng.normal(0, 0.04)))
    shown: Array = np.minimum(np.maximum(image, 0), 1) ** np.float32(gamma)
    return shown


def insonify(echo: Array, speckle: float, rng: np.random.Generator) -> Array:
    """Makes an ultrasound image `(*S)` of echo strengths `(*S)`; the beam runs along y, the last axis but one.

    Speckle is wider across the beam than along it, surfaces across the beam shine, bone throws a shadow, and what lies
    behind fluid is brighter.
    """
    axis, size = echo.ndim - 2, echo.shape
    surface = np.abs(np.diff(echo, axis=axis, prepend=echo.take([0], axis)))
    loss = (np.clip(echo - 0.85, 0, None) * 6 + 0.25 * (echo - 0.3)) * (24 / size[axis])
    across = [1.0 if index == axis else 1.6 for index in range(len(size))]
    grain = blur(rng.standard_normal((2, *size), dtype=np.float32), [s * max(size) / 96 for s in across])
    grain = np.sqrt((grain**2).sum(0))
    grain *= 1 / (grain.mean() + 1e-6)
    behind = np.exp(-0.12 * (np.cumsum(loss, axis=axis) - loss))
    heard: Array = np.clip((echo + 0.5 * surface) * behind * (1 - speckle + speckle * grain) + 0.01, 0, 1)
    return heard
