"""Generated trees in exactly the layouts of public data sets: names, headers and stored values, with tiny content."""

import json
import zlib

import nibabel
import numpy as np
import SimpleITK as sitk
from PIL import Image

SHAPE = (12, 11, 4)
LPS = np.diag([-2.0, -2.0, 3.0, 1.0])
"""Most published NIfTI files are stored with x to the left and y to the back."""


def grey(path, low=0, high=1000, shape=SHAPE, kind=np.int16, affine=LPS):
    """A volume of its own noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(str(path).encode()))
    nibabel.Nifti1Image(rng.integers(low, high, shape).astype(kind), affine).to_filename(path)


def label(path, classes=1, shape=SHAPE, kind=np.uint8):
    """A label map that holds every class from 1 to `classes`, or all of a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(shape[:3])
    present = range(1, classes + 1) if isinstance(classes, int) else classes
    inside = values[2:10, 2:9, 1:3]
    inside[:] = np.resize(list(present), inside.shape)
    nibabel.Nifti1Image(values.astype(kind), LPS).to_filename(path)


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pairs(root, cases, classes, low=-1000, high=1000):
    """`imagesTr/a.nii.gz` and `labelsTr/a.nii.gz`, for folder ending and cases."""
    for end, names in cases.items():
        for name in names:
            grey(root / f"images{end}" / f"{name}.nii.gz", low, high)
            label(root / f"labels{end}" / f"{name}.nii.gz", classes)


def amos(root):
    """CT below number 500 and MRI from there on lie in the same folders; `imagesTs` has no labels."""
    numbers = {"Tr": (1, 4, 5, 6, 7, 9, 507, 508, 510, 511), "Va": (8, 13, 514, 517)}
    pairs(root / "amos22", {end: [f"amos_{n:04d}" for n in found] for end, found in numbers.items()}, 15)
    grey(root / "amos22" / "imagesTs" / "amos_0003.nii.gz")
    (root / "__MACOSX" / "amos22" / "imagesTr").mkdir(parents=True)
    (root / "__MACOSX" / "amos22" / "imagesTr" / "._amos_0001.nii.gz").write_bytes(b"Mac OS X")


def word(root):
    numbers = {"Tr": (2, 3, 4), "Val": (1,), "Ts": (7,)}
    pairs(root / "WORD-V0.1.0", {end: [f"word_{n:04d}" for n in found] for end, found in numbers.items()}, 16)


def btcv(root):
    """Numbers have a gap; `Testing` has images only."""
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 40):
        grey(root / "RawData" / "Training" / "img" / f"img{number:04d}.nii.gz", -1000, 1000)
        label(root / "RawData" / "Training" / "label" / f"label{number:04d}.nii.gz", 13)
    grey(root / "RawData" / "Testing" / "img" / "img0061.nii.gz")


def flare22(root):
    for number in range(1, 6):
        grey(root / "FLARE22Train" / "images" / f"FLARE22_Tr_{number:04d}_0000.nii.gz", -1000, 1000)
        label(root / "FLARE22Train" / "labels" / f"FLARE22_Tr_{number:04d}.nii.gz", 13)


def totalsegmentator(root):
    """A mask for each structure; the table is separated by semicolons."""
    lines = ["image_id;age;gender;split"]
    for case, split in (("s0000", "train"), ("s0001", "train"), ("s0002", "val"), ("s0003", "test")):
        grey(root / "set" / case / "ct.nii.gz", -1000, 1000)
        for number, structure in enumerate(("adrenal_gland_left", "liver", "spleen")):
            mask = np.zeros(SHAPE, np.uint8)
            mask[3 * number : 3 * number + 3, 2:6, 1:3] = 1
            path = root / "set" / case / "segmentations" / f"{structure}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nibabel.Nifti1Image(mask, LPS).to_filename(path)
        lines.append(f"{case};60;m;{split}")
    (root / "set" / "meta.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")


def microsegnet(root):
    for split, numbers in (("train", range(1, 11)), ("test", range(1, 3))):
        place = root / "Micro_Ultrasound_Prostate_Segmentation_Dataset" / split
        for n in numbers:
            grey(place / "micro_ultrasound_scans" / f"microUS_{split}_{n:02d}.nii.gz", 0, 255, kind=np.uint8)
            label(place / "expert_annotations" / f"expert_annotation_{split}_{n:02d}.nii.gz")
            label(place / "non_expert_annotations" / f"non_expert_annotation_{split}_{n:02d}.nii.gz")


def meta_image(path, values, compressed=False):
    """A `.mhd` header and its pixels beside it, `.raw` or `.zraw`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    image.SetSpacing((0.6, 0.6, 3.6))
    image.SetOrigin((-50.0, 20.0, -10.0))
    sitk.WriteImage(image, str(path), compressed)


def promise12(root, labelled_test=True):
    """Test cases repeat the names of training cases."""
    for folder, numbers in (("training_data", range(10)), ("test_data", range(3))):
        for number in numbers:
            path = root / folder / f"Case{number:02d}.mhd"
            values = np.random.default_rng(number + len(folder)).integers(0, 900, SHAPE)
            meta_image(path, values.astype(np.int16))
            mask = np.zeros(SHAPE, np.int8)
            mask[3:8, 3:8, 1:3] = 1
            if labelled_test or folder == "training_data":
                meta_image(path.with_name(f"{path.stem}_segmentation.mhd"), mask, compressed=number == 0)


def acdc(root):
    """Two frames a patient with their label maps, a film, and Info.cfg."""
    for folder, numbers in (("training", range(1, 11)), ("testing", (101, 102))):
        for number in numbers:
            place = root / "ACDC" / "database" / folder / f"patient{number:03d}"
            for frame in (1, 10 + number % 3):
                grey(place / f"{place.name}_frame{frame:02d}.nii.gz", 0, 300)
                label(place / f"{place.name}_frame{frame:02d}_gt.nii.gz", 3)
            grey(place / f"{place.name}_4d.nii.gz", shape=(*SHAPE, 2))
            (place / "Info.cfg").write_text("ED: 1\nES: 11\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")


def la2018(root):
    """Packed NRRD; labels are 0 and 255."""
    for number in range(10):
        place = root / "Training Set" / f"{number}RZDK210BSMWAA6467LU"
        place.mkdir(parents=True)
        values = np.random.default_rng(number).integers(0, 255, SHAPE).astype(np.uint8)
        mask = np.zeros(SHAPE, np.uint8)
        mask[2:8, 2:8, 1:3] = 255
        for name, array in (("lgemri", values), ("laendo", mask), ("lawall", mask)):
            image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
            image.SetSpacing((0.625, 0.625, 1.25))
            sitk.WriteImage(image, str(place / f"{name}.nrrd"), True)


def brats_gli(root):
    """A patient with two scans; validation cases have no segmentation."""
    base = "ASNR-MICCAI-BraTS2023-GLI-Challenge-"
    names = [("TrainingData", f"BraTS-GLI-{n:05d}-000") for n in (0, 2, 3, 5, 6, 8, 9, 11)]
    names += [("TrainingData", "BraTS-GLI-00002-001"), ("ValidationData", "BraTS-GLI-00001-000")]
    for part, case in names:
        for role in ("t1n", "t1c", "t2w", "t2f"):
            grey(root / f"{base}{part}" / case / f"{case}-{role}.nii.gz")
        if part == "TrainingData":
            label(root / f"{base}{part}" / case / f"{case}-seg.nii.gz", 3)


def brats_inpainting(root):
    base = root / "ASNR-MICCAI-BraTS2023-Local-Synthesis-Challenge-Training"
    for number in range(10):
        case = f"BraTS-GLI-{number:05d}-000"
        for role in ("t1n", "t1n-voided"):
            grey(base / case / f"{case}-{role}.nii.gz")
        for role in ("mask", "mask-healthy", "mask-unhealthy"):
            label(base / case / f"{case}-{role}.nii.gz")


def topcow(root):
    """CT and MR of one patient; classes 13 and 14 do not exist."""
    base = root / "TopCoW2024_Data_Release"
    for number in range(1, 6):
        for kind in ("mr", "ct"):
            grey(base / "imagesTr" / f"topcow_{kind}_{number:03d}_0000.nii.gz")
            label(base / "cow_seg_labelsTr" / f"topcow_{kind}_{number:03d}.nii.gz", [*range(1, 13), 15])


def isles2022(root):
    """FLAIR on a grid of its own, and not for all; label maps among the derivatives."""
    for number in range(1, 6):
        case = f"sub-strokecase{number:04d}"
        place = root / "ISLES-2022" / case / "ses-0001"
        for role in ("dwi", "adc"):
            grey(place / "dwi" / f"{case}_ses-0001_{role}.nii.gz", kind=np.float32)
        if number < 5:
            fine = np.diag([-1.0, -1.0, 3.0, 1.0])
            grey(place / "anat" / f"{case}_ses-0001_FLAIR.nii.gz", shape=(24, 22, 4), affine=fine)
        label(root / "ISLES-2022" / "derivatives" / case / "ses-0001" / f"{case}_ses-0001_msk.nii.gz")


def atlas(root):
    for number in range(1, 6):
        patient = f"sub-r001s{number:03d}"
        place = root / "ATLAS_2" / "Training" / "R001" / patient / "ses-1" / "anat"
        grey(place / f"{patient}_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz")
        label(place / f"{patient}_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz")
    place = root / "ATLAS_2" / "Testing" / "R002" / "sub-r002s001" / "ses-1" / "anat"
    grey(place / "sub-r002s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz")


def ixi(root):
    """One subject lacks PD."""
    names = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212", "IXI014-HH-1236", "IXI035-IOP-0873")
    for name in names:
        for role in ("T1", "T2", "PD", "MRA"):
            if (name, role) != ("IXI035-IOP-0873", "PD"):
                grey(root / f"IXI-{role}" / f"{name}-{role}.nii.gz")


def wmh(root):
    sites = {"training/Utrecht": (0, 2, 4), "training/Amsterdam/GE3T": (100, 101), "training/Singapore": (50, 51, 52)}
    for place, numbers in {**sites, "test/Amsterdam/GE1T5": (150,)}.items():
        for number in numbers:
            for name in ("FLAIR", "T1"):
                grey(root / place / str(number) / "pre" / f"{name}.nii.gz")
                grey(root / place / str(number) / "orig" / f"{name}.nii.gz")
            label(root / place / str(number) / "wmh.nii.gz", 2)


def neurite_oasis(root):
    for number in range(1, 6):
        place = root / f"OASIS_OAS1_{number:04d}_MR1"
        grey(place / "orig.nii.gz", 0, 255, kind=np.uint8)
        grey(place / "norm.nii.gz", 0, 255, kind=np.uint8)
        label(place / "seg4.nii.gz", 4)
        label(place / "seg35.nii.gz", 35)


def montgomery(root):
    """Masks of 0 and 255 in a folder for each lung, named as the images."""
    for number in range(1, 8):
        name = f"MCUCXR_{number:04d}_{number % 2}.png"
        noise = np.random.default_rng(number).integers(0, 255, (20, 24)).astype(np.uint8)
        picture(root / "MontgomerySet" / "CXR_png" / name, noise)
        for side, columns in (("rightMask", slice(2, 9)), ("leftMask", slice(14, 21))):
            mask = np.zeros((20, 24), np.uint8)
            mask[4:15, columns] = 255
            picture(root / "MontgomerySet" / "ManualMask" / side / name, mask)


def dicom_series(folder, low, number):
    """Slices named as the download tool does, stored with rescale slope and intercept, feet first."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    series = f"1.2.826.0.1.3680043.2.1125.{number}"
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(4):
        image = sitk.GetImageFromArray(rng.integers(low, 1000, (1, 11, 12)).astype(np.int16))
        image.SetSpacing((0.75, 0.75, 1.5))
        image.SetOrigin((-4.0, -5.0, 30.0 - 1.5 * index))
        tags = {
            "0008|0060": "CT",
            "0020|000d": f"{series}.1",
            "0020|000e": f"{series}.2",
            "0020|0052": f"{series}.3",
            "0008|0018": f"{series}.4.{index}",
            "0020|0013": str(index + 1),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"1-{index + 1:03d}.dcm"))
        writer.Execute(image)


def low_dose(root):
    """Full and low dose of patients of chest and abdomen; one, scanned elsewhere, has full dose only."""
    number = 1
    for patient in ("C002", "C004", "C012", "C016", "C021", "L004", "L006", "L014", "L019", "L033"):
        study = root / "manifest-1" / "LDCT-and-Projection-data" / patient / "08-23-2018-NA-NA-62464"
        for kind in ("Full Dose Images", "Low Dose Images")[: 1 if patient in ("C021", "L033") else 2]:
            dicom_series(study / f"1.000000-{kind}-{39000 + number}", -1000, number)
            number += 1


LESIONS = """File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,\
Possibly_noisy,Spacing_mm_px_,Train_Val_Test
000001_01_01_109.png,1,1,1,109,"1, 2","4.5, 5.2, 9.1, 10.9",0,"0.5, 0.5, 5",1
000001_01_01_109.png,1,1,1,109,"1, 2","14.0, 3.0, 18.0, 6.5",0,"0.5, 0.5, 5",1
000001_02_01_014.png,1,2,1,14,"1, 2","2.5, 2.5, 6.5, 6.5",0,"0.5, 0.5, 5",1
000002_01_01_162.png,2,1,1,162,"1, 2","5.0, 5.0, 9.0, 9.0",0,"0.5, 0.5, 5",2
000003_01_01_030.png,3,1,1,30,"1, 2","8.0, 8.0, 30.0, 12.0",0,"0.5, 0.5, 5",3
000004_01_01_044.png,4,1,1,44,"1, 2","8.0, 8.0, 11.0, 12.0",1,"0.5, 0.5, 5",3
000005_01_01_001.png,5,1,1,1,"1, 2","8.0, 8.0, 11.0, 12.0",0,"0.5, 0.5, 5",1
"""


def deeplesion(root):
    """16-bit pictures of Hounsfield units + 32768; two lesions in a slice; series 5 was not downloaded."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "DL_info.csv").write_text(LESIONS)
    names = ("000001_01_01/109", "000001_02_01/014", "000002_01_01/162", "000003_01_01/030", "000004_01_01/044")
    for number, name in enumerate((*names, "000001_01_01/108")):
        noise = np.random.default_rng(number).integers(-1000, 1000, (20, 24)) + 32768
        picture(root / "Images_png" / f"{name}.png", noise.astype(np.uint16))


def decathlon(root, folder, classes, roles=1):
    """`dataset.json`, 4D files of several channels, files of a Mac, unlabelled test images."""
    place, names = root / folder, [f"case_{number:03d}" for number in range(1, 6)]
    shape = SHAPE if roles == 1 else (*SHAPE, roles)
    for name in names:
        grey(place / "imagesTr" / f"{name}.nii.gz", -1000, 1000, shape, np.float32)
        label(place / "labelsTr" / f"{name}.nii.gz", len(classes))
    grey(place / "imagesTs" / "case_900.nii.gz", -1000, 1000, shape)
    (place / "imagesTr" / "._case_001.nii.gz").write_bytes(b"Mac OS X")
    contrasts = {4: ("FLAIR", "T1w", "t1gd", "T2w"), 2: ("T2", "ADC"), 1: ("MRI",)}[roles]
    content = {
        "name": folder,
        "licence": "CC-BY-SA 4.0",
        "modality": {str(number): name for number, name in enumerate(contrasts)},
        "labels": {"0": "background", **{str(number): name for number, name in enumerate(classes, 1)}},
        "numTraining": len(names),
        "numTest": 1,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/case_900.nii.gz"],
    }
    (place / "dataset.json").write_text(json.dumps(content))


_TASKS = {
    "msd-braintumour": ("Task01_BrainTumour", ("edema", "non-enhancing tumor", "enhancing tumour"), 4),
    "msd-heart": ("Task02_Heart", ("left atrium",), 1),
    "msd-liver": ("Task03_Liver", ("liver", "cancer"), 1),
    "msd-hippocampus": ("Task04_Hippocampus", ("Anterior", "Posterior"), 1),
    "msd-prostate": ("Task05_Prostate", ("PZ", "TZ"), 2),
    "msd-lung": ("Task06_Lung", ("cancer",), 1),
    "msd-pancreas": ("Task07_Pancreas", ("pancreas", "cancer"), 1),
    "msd-hepaticvessel": ("Task08_HepaticVessel", ("Vessel", "Tumour"), 1),
    "msd-spleen": ("Task09_Spleen", ("spleen",), 1),
    "msd-colon": ("Task10_Colon", ("colon cancer primaries",), 1),
}

TREES = {
    "amos-ct": amos,
    "amos-mri": amos,
    "word": word,
    "btcv": btcv,
    "flare22": flare22,
    "totalsegmentator": totalsegmentator,
    "microsegnet": microsegnet,
    "promise12": promise12,
    "acdc": acdc,
    "la2018": la2018,
    "brats-gli": brats_gli,
    "brats-inpainting": brats_inpainting,
    "topcow-mr": topcow,
    "topcow-ct": topcow,
    "isles2022": isles2022,
    "atlas": atlas,
    "ixi": ixi,
    "wmh": wmh,
    "neurite-oasis": neurite_oasis,
    "montgomery": montgomery,
    "ldct-chest": low_dose,
    "ldct-abdomen": low_dose,
    "deeplesion": deeplesion,
    **{name: lambda root, task=task: decathlon(root, *task) for name, task in _TASKS.items()},
}
"""Recipe to what makes its tree in a folder."""
