"""The ten tasks of the Medical Segmentation Decathlon; liver, spleen and lung are few-shot sets of the MVG paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mvg.data.datasets.card import PublicSet, Terms, Tree
from mvg.data.datasets.special import Decathlon
from mvg.data.intensity import Intensity, Window

_TERMS = Terms("CC BY-SA 4.0", True, "share alike", checked=True)
_SOFT = Window(-100, 200)


def _task(
    folder: str,
    classes: Sequence[str],
    modality: str,
    count: int,
    window: Intensity | None = None,
    roles: Sequence[str] = ("image",),
    slices: str = "axial",
    spacing: str = "",
    notes: str = "",
    real: str = "",
) -> PublicSet:
    names: Mapping[int, str] = dict(enumerate(classes, 1))
    channels = "" if len(roles) == 1 else f" (4D: {', '.join(roles)})"
    return PublicSet(
        name=f"msd-{folder.partition('_')[2].lower()}",
        title=f"Medical Segmentation Decathlon, {folder}",
        homepage="http://medicaldecathlon.com, doi:10.1038/s41467-022-30695-9",
        terms=_TERMS,
        modality=modality,
        tree=Tree(
            (
                f"{folder}/dataset.json",
                f"{folder}/imagesTr/{{case}}.nii.gz{channels}",
                f"{folder}/labelsTr/{{case}}.nii.gz",
            ),
            "dataset.json in every archive lists the files, classes and the licence",
        ),
        read=Decathlon(folder, names, roles),
        shares=(0.7, 0.1, 0.2),
        split=f"seeded by share of the {count} labelled cases; `imagesTs` has no labels and is not read",
        class_names={"labels": names},
        intensity={role: window for role in roles} if window else {},
        slices=slices,
        reference=roles[0],
        spacing=spacing,
        tasks={"segmentation": {"class_path": "tasks.Segmentation", "init_args": {"role": roles[0]}}},
        notes=notes,
        real=real,
    )


SETS = (
    _task(
        "Task01_BrainTumour",
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        "MRI",
        484,
        roles=("flair", "t1w", "t1gd", "t2w"),
        spacing="1 mm, registered, skull removed",
        notes="the cases are those of BraTS 2016 and 2017: never train on one and test on the other",
    ),
    _task("Task02_Heart", ("left atrium",), "MRI", 20, slices="auto", spacing="1.25 x 1.25 x 1.37 mm"),
    _task(
        "Task03_Liver",
        ("liver", "cancer"),
        "CT",
        131,
        _SOFT,
        spacing="0.5 to 1 x 0.45 to 6 mm",
        notes="few-shot set of the paper; the cases are those of LiTS",
    ),
    _task(
        "Task04_Hippocampus",
        ("Anterior", "Posterior"),
        "MRI",
        260,
        slices="coronal",
        spacing="1 mm, boxes of about 35 x 50 x 36 voxels",
        notes="intensities differ by orders of magnitude between cases",
        real="12 cases, arranged as in its archive",
    ),
    _task("Task05_Prostate", ("PZ", "TZ"), "MRI", 32, roles=("t2", "adc"), spacing="0.6 x 0.6 x 3.6 mm"),
    _task(
        "Task06_Lung",
        ("cancer",),
        "CT",
        63,
        Window(-1000, 400),
        spacing="0.6 to 1 x 0.6 to 2.5 mm",
        notes="few-shot set of the paper",
    ),
    _task(
        "Task07_Pancreas",
        ("pancreas", "cancer"),
        "CT",
        281,
        _SOFT,
        spacing="0.6 to 1 x 0.7 to 7.5 mm",
        notes="the images of flare22 are from this task",
    ),
    _task("Task08_HepaticVessel", ("Vessel", "Tumour"), "CT", 303, _SOFT, spacing="0.6 to 1 x 0.8 to 8 mm"),
    _task(
        "Task09_Spleen",
        ("spleen",),
        "CT",
        41,
        _SOFT,
        spacing="0.6 to 1 x 1.5 to 8 mm",
        notes="few-shot set of the paper",
    ),
    _task("Task10_Colon", ("colon cancer primaries",), "CT", 126, _SOFT, spacing="0.5 to 1 x 1 to 7.5 mm"),
)
"""All recipes of this file."""
