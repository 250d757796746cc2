"""Coarse-to-fine prediction and training for any in-context network, in 2D and 3D."""

from mvg.next_scale.level import Level, levels
from mvg.next_scale.pyramid import Pyramid
from mvg.next_scale.retrieval import (
    Asked,
    Crop,
    Foreground,
    Nearest,
    Retrieval,
    SamePlace,
    Several,
    Whole,
    Windows,
    retrieval_of,
)
from mvg.next_scale.rolling import NextScale, Scale

__all__ = [
    "Asked",
    "Crop",
    "Foreground",
    "Level",
    "Nearest",
    "NextScale",
    "Pyramid",
    "Retrieval",
    "SamePlace",
    "Scale",
    "Several",
    "Whole",
    "Windows",
    "levels",
    "retrieval_of",
]
