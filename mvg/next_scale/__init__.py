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
    look,
    retrieval_of,
)
from mvg.next_scale.rolling import NextScale, Scale, answer_batch
from mvg.next_scale.teacher import TeacherForcing

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
    "TeacherForcing",
    "Whole",
    "Windows",
    "answer_batch",
    "levels",
    "look",
    "retrieval_of",
]
