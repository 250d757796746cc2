# pydicom and highdicom carry few types.
# mypy: disable-error-code="no-untyped-call, import-untyped"
"""Answers to DICOM series as DICOM: segmentations, and derived series of images, with references to their source.

The standard asks that they name the patient as their source does, and so they do; `mvg predict` says it in the log.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import mvg
from mvg.data.dicom import Series

SegmentationKind = Literal["LABELMAP", "BINARY"]
MAKER = "mvg"
_NEEDED = ("FrameOfReferenceUID", "SOPClassUID", "StudyInstanceUID")
_STALE = (
    "SmallestImagePixelValue", "LargestImagePixelValue", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation",
    "VOILUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleType", "ModalityLUTSequence",
    "PresentationLUTShape", "IconImageSequence",
)  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libraries say of values, which may be those of a patient, out of warnings and logs."""
    logger = logging.getLogger("pydicom")
    level, other = logger.level, logging.getLogger("highdicom").level
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        logging.getLogger("highdicom").setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
            logging.getLogger("highdicom").setLevel(other)


def check_series(series: Series) -> None:
    """Checks that answers can refer to a series.

    Raises:
        ValueError: If it lacks what references need.
    """
    path = series.slices[0].path
    with _quiet():
        header = pydicom.dcmread(path, stop_before_pixels=True)
    lacking = [name for name in _NEEDED if not header.get(name)]
    if lacking:
        raise ValueError(f"{path}: it lacks {', '.join(lacking)}, to which an answer must refer; use --format nii.gz")


def encode_segmentation(
    values: NDArray[Any],
    series: Series,
    names: Mapping[int, str],
    mark: str,
    kind: SegmentationKind = "LABELMAP",
) -> bytes:
    """Returns the content of a DICOM segmentation.

    Args:
        values: Class indices `(columns, rows, slices)`, slices in the order of the series.
        series: Whose grid it is.
        names: Class to name, for all classes that were asked for.
        mark: What the answer was made by; equal marks give equal identifiers.
        kind: "LABELMAP", one frame a slice, or "BINARY", one frame a slice and class, for viewers that know no other.

    Raises:
        ValueError: If the source lacks what the standard asks for.
    """
    from highdicom.seg import Segmentation

    uid = [generate_uid(entropy_srcs=[series.slices[0].series, mark, part]) for part in ("series", "instance")]
    try:
        with _quiet():
            sources = [pydicom.dcmread(each.path, stop_before_pixels=True) for each in series.slices]
            made = Segmentation(
                source_images=sources,
                pixel_array=_pages(values, names, kind),
                segmentation_type=kind,
                segment_descriptions=_describe(names, consecutive=kind == "BINARY"),
                series_instance_uid=uid[0],
                series_number=_number(sources[0]),
                sop_instance_uid=uid[1],
                instance_number=1,
                manufacturer=MAKER,
                manufacturer_model_name=MAKER,
                software_versions=mvg.__version__,
                device_serial_number="0",
                series_description="Segmentation by mvg, for research",
                omit_empty_frames=False,
            )
            stream = io.BytesIO()
            made.save_as(stream, enforce_file_format=True)
    except Exception as error:  # its text may quote values of the patient
        raise ValueError(
            f"{series.slices[0].path}: no segmentation can refer to this series ({type(error).__name__}); "
            "use --format nii.gz"
        ) from None
    return stream.getvalue()


def _pages(values: NDArray[Any], names: Mapping[int, str], kind: SegmentationKind) -> NDArray[Any]:
    """Returns `(slices, rows, columns)`, numbered without gaps where the kind needs it."""
    pages = values.reshape(values.shape[:3]).transpose(2, 1, 0)
    if kind == "LABELMAP":
        return np.ascontiguousarray(pages)
    numbers = np.zeros(max(names) + 1, dtype=np.uint16)
    numbers[sorted(names)] = range(1, len(names) + 1)
    return np.ascontiguousarray(numbers[pages])


def _describe(names: Mapping[int, str], consecutive: bool) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    made_by = AlgorithmIdentificationSequence(
        name=MAKER, version=mvg.__version__, family=codes.DCM.ArtificialIntelligence
    )
    return [
        SegmentDescription(
            segment_number=place if consecutive else number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=made_by,
        )
        for place, (number, name) in enumerate(sorted(names.items()), start=1)
    ]


def _number(source: Dataset) -> int:
    """Number of a new series: after that of its source, out of the way of the scanner's own."""
    return 1000 + int(source.get("SeriesNumber") or 0) % 8000


def encode_derived(values: NDArray[Any], series: Series, text: str, mark: str) -> list[bytes]:
    """Returns the contents of a derived series, one for each slice in the order of the source.

    Args:
        values: `(columns, rows, slices)`, in the units of the source; whole numbers of 16 bits are kept to the bit,
            others are rounded to 65,535 steps of their range.
        series: Whose grid it is.
        text: Says how the images were made.
        mark: What the answer was made by; equal marks give equal identifiers.
    """
    pages = values.reshape(values.shape[:3]).transpose(2, 1, 0).astype(np.float64)
    low, slope = 0.0, 1.0
    if values.dtype != np.int16:
        low = float(pages.min())
        slope = max((float(pages.max()) - low) / 65535, 1e-12)
    stored = np.round((pages - low) / slope).astype("<i2" if values.dtype == np.int16 else "<u2")
    return [
        _derive(each.path, page, (slope, low), (series.slices[0].series, mark, text), number)
        for number, (each, page) in enumerate(zip(series.slices, stored, strict=True), start=1)
    ]


def _derive(
    path: Path, page: NDArray[Any], scale: tuple[float, float], words: tuple[str, str, str], number: int
) -> bytes:
    """Returns the content of one image that is derived from another."""
    with _quiet():
        data, (uid, mark, text) = pydicom.dcmread(path), words
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
        for name in _STALE:
            if name in data:
                del data[name]
        data.remove_private_tags()
        data.SourceImageSequence = [reference]
        data.ImageType = ["DERIVED", "SECONDARY", *list(data.get("ImageType") or [])[2:]]
        data.SeriesInstanceUID = generate_uid(entropy_srcs=[uid, mark, "series"])
        data.SOPInstanceUID = generate_uid(entropy_srcs=[reference.ReferencedSOPInstanceUID, mark])
        data.SeriesNumber, data.InstanceNumber = _number(data), number
        data.SeriesDescription, data.DerivationDescription = "Painted by mvg, for research", text[:1024]
        data.ContentQualification = "RESEARCH"
        data.RescaleSlope, data.RescaleIntercept = (f"{value:.10g}"[:16] for value in scale)
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation, data.PixelData = int(page.dtype.kind == "i"), page.tobytes()
        data["PixelData"].VR = "OW"
        meta = data.file_meta
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = data.SOPInstanceUID, ExplicitVRLittleEndian
        stream = io.BytesIO()
        data.save_as(stream, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return stream.getvalue()
