"""In-context image-to-image generalist models for medical imaging, 2D and 3D."""

__version__ = "0.1.0"
