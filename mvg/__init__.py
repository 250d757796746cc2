"""In-context image-to-image generalist models for medical imaging, 2D and 3D.

The names below are imported when they are first used, so that `import mvg` itself is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvg.lazy import lazy

if TYPE_CHECKING:
    from mvg.episode import Answer, Episode, Pair
    from mvg.generalist import Generalist
    from mvg.models.base import InContextModel
    from mvg.next_scale import NextScale
    from mvg.prediction.predictor import Predictor
    from mvg.prediction.scale_predictor import ScalePredictor
    from mvg.prediction.volume_predictor import VolumePredictor
    from mvg.task import Task
    from mvg.weights import build, load
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "Answer": "mvg.episode",
            "Episode": "mvg.episode",
            "Generalist": "mvg.generalist",
            "InContextModel": "mvg.models.base",
            "NextScale": "mvg.next_scale",
            "Pair": "mvg.episode",
            "Predictor": "mvg.prediction.predictor",
            "ScalePredictor": "mvg.prediction.scale_predictor",
            "Task": "mvg.task",
            "VolumePredictor": "mvg.prediction.volume_predictor",
            "build": "mvg.weights",
            "load": "mvg.weights",
        },
    )

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Episode",
    "Generalist",
    "InContextModel",
    "NextScale",
    "Pair",
    "Predictor",
    "ScalePredictor",
    "Task",
    "VolumePredictor",
    "build",
    "load",
]
