"""Tasks that a generalist can be asked: adapters from subjects to pairs, and from painted images to answers."""

from tasks.artefacts import ArtefactRemoval
from tasks.bias_field import BiasCorrection
from tasks.deblurring import Deblurring
from tasks.denoising import Denoising
from tasks.detection import Detection
from tasks.inpainting import Inpainting
from tasks.low_dose_ct import LowDoseCT
from tasks.registration import Registration
from tasks.segmentation import Segmentation
from tasks.skull_stripping import SkullStripping
from tasks.super_resolution import SuperResolution
from tasks.synthesis import Synthesis
from tasks.undersampling import Undersampling

__all__ = [
    "ArtefactRemoval",
    "BiasCorrection",
    "Deblurring",
    "Denoising",
    "Detection",
    "Inpainting",
    "LowDoseCT",
    "Registration",
    "Segmentation",
    "SkullStripping",
    "SuperResolution",
    "Synthesis",
    "Undersampling",
]
