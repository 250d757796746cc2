"""The brain in MRI and angiography."""

from __future__ import annotations

from mvg.data.datasets.card import SEGMENTATION, PublicSet, Terms, Tree, counted
from mvg.data.datasets.patterns import Files, Pattern
from mvg.data.intensity import Window

_BRATS_FIELDS = {"patient": r"BraTS-GLI-\d{5}", "time": r"\d{3}"}
_BRATS_CASE = "{patient}-{time}"
_BRATS_TERMS = Terms("challenge terms (registration)", None, "ask the organisers")


def _brats(folder: str, role: str, end: str, split: str = "") -> Pattern:
    return Pattern(role, f"{folder}/{_BRATS_CASE}/{_BRATS_CASE}-{end}.nii.gz", split, modality="MRI")


_GLI = "ASNR-MICCAI-BraTS2023-GLI-Challenge-"
_GLI_FILES = Files(
    (
        *(_brats(f"{_GLI}TrainingData", role, role) for role in ("t1n", "t1c", "t2w", "t2f")),
        _brats(f"{_GLI}TrainingData", "labels", "seg"),
        *(_brats(f"{_GLI}ValidationData", role, role, "test") for role in ("t1n", "t1c", "t2w", "t2f")),
    ),
    _BRATS_FIELDS,
    _BRATS_CASE,
    "{patient}",
)
BRATS_GLI = PublicSet(
    name="brats-gli",
    title="BraTS 2023, adult glioma",
    homepage="https://www.synapse.org/Synapse:syn51156910",
    terms=_BRATS_TERMS,
    modality="MRI",
    tree=Tree(_GLI_FILES.words, "the challenge's tutorials"),
    read=_GLI_FILES,
    shares=(0.9, 0.1, 0.0),
    split="official as in the paper: 1251 training cases (a tenth of the patients validates), 219 validation cases, "
    "which have no segmentation, are the test split of synthesis",
    class_names={"labels": {1: "necrotic core", 2: "edema", 3: "enhancing tumour"}},
    reference="t1n",
    spacing="1 mm, registered, skull removed",
    tasks={
        "synthesis": {
            "class_path": "tasks.Synthesis",
            "init_args": {"sources": ["t1c", "t2w"], "targets": ["t1c", "t2w"]},
        }
    },
    benchmark=(1251, 219),
    notes="the released code has t1c and t2w in both directions; which contrasts the paper used is not known. Name "
    "others in `sources` and `targets`. Later scans of a patient are cases of that patient",
)

_LOCAL = "ASNR-MICCAI-BraTS2023-Local-Synthesis-Challenge-Training"
_LOCAL_FILES = Files(
    (
        _brats(_LOCAL, "image", "t1n"),
        _brats(_LOCAL, "voided", "t1n-voided"),
        _brats(_LOCAL, "labels_hole", "mask"),
        _brats(_LOCAL, "labels_healthy", "mask-healthy"),
        _brats(_LOCAL, "labels_unhealthy", "mask-unhealthy"),
    ),
    _BRATS_FIELDS,
    _BRATS_CASE,
    "{patient}",
)
BRATS_LOCAL = PublicSet(
    name="brats-inpainting",
    title="BraTS 2023, local synthesis (inpainting)",
    homepage="https://www.synapse.org/Synapse:syn51156910, https://github.com/BraTS-inpainting/2023_challenge",
    terms=_BRATS_TERMS,
    modality="MRI",
    tree=Tree(_LOCAL_FILES.words, "the challenge's repository"),
    read=_LOCAL_FILES,
    shares=counted(1000, 251),
    split="seeded by patient, in the proportion of the paper (1000 : 251); validates with a tenth of the 1000",
    class_names={
        "labels_hole": {1: "hole"},
        "labels_healthy": {1: "healthy part of the hole"},
        "labels_unhealthy": {1: "tumour part of the hole"},
    },
    reference="image",
    spacing="1 mm, registered, skull removed",
    tasks={
        "inpainting": {
            "class_path": "tasks.Inpainting",
            "init_args": {"role": "image", "degraded": "voided", "mask": "labels_healthy"},
        }
    },
    benchmark=(1000, 251),
    notes="scores are taken in the healthy part of the hole, as the challenge does. Voided and whole image are "
    "normalised by percentiles of their own, which differ a little where the hole holds the brightest tissue",
)


def _topcow(name: str, kind: str, intensity: dict[str, Window]) -> PublicSet:
    read = Files(
        (
            Pattern("image", f"imagesTr/topcow_{name}_{{number}}_0000.nii.gz"),
            Pattern("labels", f"cow_seg_labelsTr/topcow_{name}_{{number}}.nii.gz"),
        ),
        {"number": r"\d{3}"},
        f"topcow_{name}_{{number}}",
        "topcow_{number}",
    )
    vessels = (
        "basilar",
        "right PCA",
        "left PCA",
        "right ICA",
        "right MCA",
        "left ICA",
        "left MCA",
        "right Pcom",
        "left Pcom",
        "Acom",
        "right ACA",
        "left ACA",
    )
    return PublicSet(
        name=f"topcow-{name}",
        title=f"TopCoW 2024, {kind}",
        homepage="https://topcow24.grand-challenge.org, doi:10.5281/zenodo.15692630",
        terms=Terms(
            "open use with its source named; commercial use by permission of the data owner (USZ)",
            False,
            "non-commercial; name the source",
            checked=True,
        ),
        modality=kind,
        tree=Tree(read.words, "code that reads archive TopCoW2024_Data_Release.zip"),
        read=read,
        shares=(0.7, 0.1, 0.2),
        split="seeded by share of the 125 patients; the test cases are not public",
        class_names={"labels": {**dict(enumerate(vessels, 1)), 15: "third A2"}},
        intensity=intensity,
        spacing="about 0.3 x 0.3 x 0.6 mm" if name == "mr" else "about 0.45 x 0.45 x 0.7 mm",
        tasks=SEGMENTATION,
        notes="CTA and MRA are of the same patients: keep one split if both are used; class 13 and 14 do not exist",
        checked="terms in License.txt of its release (read in a copy of it); pairs of both kinds in the article of the "
        "challenge (arXiv 2312.17670)",
    )


TOPCOW_MR = _topcow("mr", "MRA", {})
TOPCOW_CT = _topcow("ct", "CTA", {"image": Window(-100, 600)})

_ISLES_FILES = Files(
    (
        Pattern("dwi", "{case}/ses-0001/dwi/{case}_ses-0001_dwi.nii.gz"),
        Pattern("adc", "{case}/ses-0001/dwi/{case}_ses-0001_adc.nii.gz"),
        Pattern("flair", "{case}/ses-0001/anat/{case}_ses-0001_FLAIR.nii.gz", optional=True),
        Pattern("labels", "derivatives/{case}/ses-0001/{case}_ses-0001_msk.nii.gz"),
    ),
    {"case": r"sub-strokecase\d{4}"},
)
ISLES = PublicSet(
    name="isles2022",
    title="ISLES 2022",
    homepage="https://isles22.grand-challenge.org, doi:10.5281/zenodo.7960856",
    terms=Terms("CC BY 4.0", True, "free with attribution"),
    modality="MRI",
    tree=Tree(_ISLES_FILES.words, "code that reads archive ISLES-2022.zip and a listing of its files"),
    read=_ISLES_FILES,
    shares=(0.7, 0.1, 0.2),
    split="seeded by share of the 250 patients; the test cases are not public",
    class_names={"labels": {1: "ischemic stroke lesion"}},
    reference="dwi",
    spacing="0.88 to 2 x 2 to 6.5 mm; FLAIR has a grid of its own and is resampled onto that of DWI",
    tasks={
        "segmentation": {"class_path": "tasks.Segmentation", "init_args": {"role": "dwi"}},
        "synthesis": {
            "class_path": "tasks.Synthesis",
            "init_args": {"sources": ["dwi", "adc"], "targets": ["dwi", "adc"]},
        },
    },
    checked="250 public and 150 hidden cases in its article (doi:10.1038/s41597-022-01875-5); the licence was not read",
)

_ATLAS_NAME = "Training/{site}/{patient}/ses-1/anat/{patient}_ses-1_space-MNI152NLin2009aSym_"
_ATLAS_FILES = Files(
    (
        Pattern("image", f"{_ATLAS_NAME}T1w.nii.gz"),
        Pattern("labels", f"{_ATLAS_NAME}label-L_desc-T1lesion_mask.nii.gz"),
    ),
    {"site": r"R\d{3}", "patient": r"sub-r\d{3}s\d{3}"},
    "{patient}",
    "{patient}",
)
ATLAS = PublicSet(
    name="atlas",
    title="ATLAS R2.0",
    homepage="https://fcon_1000.projects.nitrc.org/indi/retro/atlas.html",
    terms=Terms("terms of use (application)", None, "ask its authors"),
    modality="MRI",
    tree=Tree(_ATLAS_FILES.words, "code that reads folder ATLAS_2, and a listing of it"),
    read=_ATLAS_FILES,
    shares=(0.7, 0.1, 0.2),
    split="seeded by share of the 655 labelled patients; `Testing` has no labels and is not read",
    class_names={"labels": {1: "chronic stroke lesion"}},
    spacing="1 mm, in MNI space",
    tasks=SEGMENTATION,
    notes="the archive is encrypted; its password comes with the approval",
    checked="655 labelled, 300 and 316 hidden cases in its article (Scientific Data 9:320); folders and files in a "
    "listing of the release (openmedlab, Awesome-Medical-Dataset); that terms are agreed to and a password is sent, on "
    "the page of the first release. The terms themselves were not read",
)

_IXI_FILES = Files(
    tuple(
        Pattern(role, f"IXI-{end}/{{patient}}-{{site}}-{{number}}-{end}.nii.gz", optional=role in ("t1", "mra"))
        for role, end in (("t2", "T2"), ("pd", "PD"), ("t1", "T1"), ("mra", "MRA"))
    ),
    {"patient": r"IXI\d{3}", "site": "Guys|HH|IOP", "number": r"\w+"},
    "{patient}",
    "{patient}",
    whole=False,
)
IXI = PublicSet(
    name="ixi",
    title="IXI",
    homepage="https://brain-development.org/ixi-dataset",
    terms=Terms("CC BY-SA 3.0", True, "share alike"),
    modality="MRI",
    tree=Tree(_IXI_FILES.words, "inferred (archives IXI-T1.tar, IXI-T2.tar, IXI-PD.tar, IXI-MRA.tar)", sure=False),
    read=_IXI_FILES,
    shares=(0.7, 0.1, 0.2),
    split="seeded by share",
    reference="t2",
    spacing="T2 and PD about 0.94 x 0.94 x 1.25 mm on one grid; T1 and MRA have other grids, resampled by affine",
    tasks={
        "synthesis": {
            "class_path": "tasks.Synthesis",
            "init_args": {"sources": ["t2", "pd"], "targets": ["t2", "pd"]},
        },
        "denoising": {"class_path": "tasks.Denoising", "init_args": {"role": "t2", "kinds": ["rician"]}},
    },
    notes="some subjects lack a contrast: those without T2 or PD are left out. T1 is not registered to T2",
    checked="the licence as TorchIO's documentation of the set states it, not at the set's own page",
)

_WMH_FILES = Files(
    tuple(
        Pattern(role, f"{folder}/{{site}}/{{number}}/{path}", split)
        for folder, split in (("training", ""), ("test", "test"))
        for role, path in (("image", "pre/FLAIR.nii.gz"), ("t1", "pre/T1.nii.gz"), ("labels", "wmh.nii.gz"))
    ),
    {"site": r"(?:Utrecht|Singapore|Amsterdam)(?:/[\w .]+)?", "number": r"\d+"},
    "wmh{number}",
    "wmh{number}",
)
WMH = PublicSet(
    name="wmh",
    title="White matter hyperintensities 2017",
    homepage="https://wmh.isi.uu.nl, doi:10.34894/AECRSD",
    terms=Terms("that of its record", None, "see its record"),
    modality="MRI",
    tree=Tree(
        _WMH_FILES.words, "code that reads it (site, number, pre, wmh); the upper folders are inferred", sure=False
    ),
    read=_WMH_FILES,
    shares=(0.9, 0.1, 0.0),
    split="official: 60 train (a tenth of them validates), 110 test",
    class_names={"labels": {1: "white matter hyperintensity", 2: "other pathology"}},
    reference="image",
    spacing="about 1 x 1 x 3 mm; T1 is registered to FLAIR",
    tasks={
        **SEGMENTATION,
        "synthesis": {"class_path": "tasks.Synthesis", "init_args": {"sources": ["t1"], "targets": ["image"]}},
    },
    notes="`orig` and `additional_annotations` are not read",
    checked="labels (0, 1, 2), 60 training and 110 test cases, and that all are public, on the challenge's pages; the "
    "licence was not read",
)

_OASIS_FILES = Files(
    (Pattern("image", "{patient}_{visit}/norm.nii.gz"), Pattern("labels", "{patient}_{visit}/seg4.nii.gz")),
    {"patient": r"OASIS_OAS1_\d{4}", "visit": r"MR\d"},
    "{patient}_{visit}",
    "{patient}",
)
OASIS = PublicSet(
    name="neurite-oasis",
    title="OASIS-1, processed by Neurite",
    homepage="https://github.com/adalca/medical-datasets/blob/master/neurite-oasis.md",
    terms=Terms("OASIS data use agreement", None, "see the agreement"),
    modality="MRI",
    tree=Tree(_OASIS_FILES.words, "code that reads archive neurite-oasis.v1.0.tar"),
    read=_OASIS_FILES,
    shares=(0.7, 0.1, 0.2),
    split="seeded by share of the 414 subjects",
    class_names={"labels": {1: "cortex", 2: "subcortical grey matter", 3: "white matter", 4: "cerebrospinal fluid"}},
    slices="coronal",
    spacing="1 mm, skull removed",
    tasks=SEGMENTATION,
    notes="labels are automatic (FreeSurfer); the finer map seg35 is not read. The order of the classes is inferred",
    checked="414 subjects, names of files, automatic labels and the agreement that applies, in its readme "
    "(neurite-oasis.md); the agreement itself was not read",
)

SETS = (BRATS_GLI, BRATS_LOCAL, TOPCOW_MR, TOPCOW_CT, ISLES, ATLAS, IXI, WMH, OASIS)
"""All recipes of this file."""
