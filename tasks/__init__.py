"""Tasks that a generalist can be asked: adapters from subjects to pairs, and from painted images to answers."""

from tasks.denoising import Denoising
from tasks.detection import Detection
from tasks.inpainting import Inpainting
from tasks.segmentation import Segmentation
from tasks.synthesis import Synthesis

__all__ = ["Denoising", "Detection", "Inpainting", "Segmentation", "Synthesis"]
