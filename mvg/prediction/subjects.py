"""Images and subjects of TorchIO as what they hold; TorchIO is not imported for them, since who has one has it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def _is_a(source: Any, name: str) -> bool:
    library = sys.modules.get("torchio")
    return library is not None and isinstance(source, getattr(library, name))


def is_image(source: Any) -> bool:
    """Tells whether something is a TorchIO image or subject."""
    return _is_a(source, "Image") or _is_a(source, "Subject")


def image_of(source: Any) -> Any:
    """Returns the first intensity image of a subject; everything else as it is.

    Raises:
        ValueError: If a subject holds none.
    """
    if not _is_a(source, "Subject"):
        return source
    found = source.get_images(intensity_only=True)
    if not found:
        raise ValueError(f"the subject holds no intensity image, only {', '.join(source)}; add a ScalarImage")
    return found[0]


def target_of(subject: Any, is_label: bool) -> Any:
    """Returns what a subject shows as target: its first label map, or its second intensity image.

    Raises:
        ValueError: If it holds none.
    """
    if not _is_a(subject, "Subject"):
        raise ValueError(
            f"a context needs a target for each image, got a {type(subject).__name__} alone; give targets, "
            "or TorchIO subjects that hold both"
        )
    if is_label:
        found = [image for image in subject.get_images(intensity_only=False) if _is_a(image, "LabelMap")]
    else:
        found = subject.get_images(intensity_only=True)[1:]
    if not found:
        wanted = "a LabelMap" if is_label else "a second ScalarImage"
        raise ValueError(f"the subject holds no target, only {', '.join(subject)}; add {wanted}")
    return found[0]


def split(images: Sequence[Any], targets: Sequence[Any] | None, is_label: bool) -> tuple[list[Any], list[Any]]:
    """Returns images and targets of a context; without targets, of subjects."""
    wanted = list(targets) if targets is not None else [target_of(each, is_label) for each in images]
    return [image_of(each) for each in images], [image_of(each) for each in wanted]


def picture_values(image: Any) -> NDArray[Any]:
    """Returns the values of a TorchIO image of one slice, `(C, H, W)`.

    Raises:
        ValueError: If it is a volume.
    """
    values = cast(NDArray[Any], image.data.numpy())
    if values.shape[-1] != 1:
        raise ValueError(
            f"the image is a volume of {values.shape[1:]}, but a picture is needed; use mvg.VolumePredictor"
        )
    return values[..., 0].transpose(0, 2, 1)


def volume_values(image: Any) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Returns the values `(X, Y, Z)` of a TorchIO image of one channel, and its affine `(4, 4)`.

    Raises:
        ValueError: If it has several channels.
    """
    values = cast(NDArray[Any], image.data.numpy())
    if len(values) != 1:
        raise ValueError(f"the image has {len(values)} channels, but volumes have one; give the channel that is meant")
    return values[0], np.asarray(image.affine, dtype=np.float64)
