"""In-context image-to-image generalist models for medical imaging, 2D and 3D.

The names below are imported when they are first used, so that `import mvg` itself is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvg.lazy import lazy

if TYPE_CHECKING:
    from mvg.episode import Answer as Answer
    from mvg.episode import Episode as Episode
    from mvg.episode import Pair as Pair
    from mvg.generalist import Generalist as Generalist
    from mvg.models.base import InContextModel as InContextModel
    from mvg.next_scale import NextScale as NextScale
    from mvg.prediction.predictor import Predictor as Predictor
    from mvg.prediction.scale_predictor import ScalePredictor as ScalePredictor
    from mvg.prediction.volume_predictor import VolumePredictor as VolumePredictor
    from mvg.task import Task as Task
    from mvg.weights import build as build
    from mvg.weights import load as load
else:
    __all__, __getattr__, __dir__ = lazy(__name__)

__version__ = "0.1.0"
