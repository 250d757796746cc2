"""The body regions from which anatomies are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mvg.data import sections, views
from mvg.data.anatomy import Builder


@dataclass(frozen=True)
class Recipe:
    """A body region and how it is looked at.

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


RECIPES: Mapping[str, Recipe] = {
    "head": Recipe(sections.head, "section", 3, 220),
    "thorax": Recipe(sections.thorax, "section", 2, 400),
    "abdomen": Recipe(sections.abdomen, "section", 3, 400),
    "pelvis": Recipe(sections.pelvis, "section", 2, 400),
    "limb": Recipe(sections.limb, "section", 1, 200),
    "heart": Recipe(sections.heart, "section", 2, 200),
    "spine": Recipe(sections.spine, "section", 2, 250),
    "chest": Recipe(views.chest, "projection", 2, 350, volume=False),
    "joint": Recipe(views.joint, "projection", 1, 250, volume=False),
    "sonogram": Recipe(views.sonogram, "sonogram", 2.5, 80),
    "cells": Recipe(views.cells, "slide", 1, 0.1),
    "retina": Recipe(views.retina, "slide", 1, 12, volume=False),
    "free": Recipe(views.free, "section", 5, 250),
}
"""The body regions, by name."""
