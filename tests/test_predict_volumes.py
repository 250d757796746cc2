"""The command `mvg predict` on volumes: files in, files out."""

import itertools
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from test_volume_predictor import ORIENTATIONS, SHAPE, SIZE, Top, grid, values, write

import tasks
from mvg import cli, weights
from mvg.cli import main


@pytest.fixture
def command(tmp_path, monkeypatch):
    """One example, one query, the weights of an oracle, and `mvg predict` on them."""
    entry = EntryPoint("predict", "mvg.prediction.predict:predict", cli.GROUP)
    monkeypatch.setattr(cli, "commands", lambda: {"predict": entry})
    monkeypatch.chdir(tmp_path)
    write("context/images/a.nii.gz", values(1))
    write("context/labels/a.nii.gz", values(1) > 0.5, kind=np.uint8)
    write("queries/q.nii.gz", values())
    weights.save("weights", Top(1, 1, SIZE), {"segmentation": tasks.Segmentation(), "denoising": tasks.Denoising()})

    def run(*options):
        words = {"--weights": "weights", "--context": "context", "--input": "queries", "--output": "out"}
        words |= {"--task": "segmentation", "--window": "[0,1]"} | dict(zip(options[::2], options[1::2], strict=True))
        main(["predict", *itertools.chain(*words.items()), "--preview", "--allow-class-path", Top.__module__])

    return run


@pytest.fixture
def refused(command, capsys):
    """Runs the command, which must refuse in one sentence and write nothing; returns the sentence."""

    def run(*options):
        with pytest.raises(SystemExit) as stopped:
            command(*options)
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        assert "Traceback" not in said
        assert not Path("out").exists()
        return said.splitlines()[-1]

    return run


def itk_affine(path):
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("number", [0, 13, 29, 47])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_keep_affine_codes_and_shape_for_two_readers(number, suffix, command, tmp_path):
    orientation = ORIENTATIONS[number]
    query = write(f"queries/a{suffix}", values(), orientation=orientation, codes=(2, 4), kind=np.float64)
    command("--input", str(query))
    before, after = nibabel.load(query), nibabel.load(f"out/a{suffix}")
    assert after.get_data_dtype() == np.uint8
    assert after.shape == before.shape
    assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == (2, 4)
    assert np.abs(after.affine - before.affine).max() <= 1e-4
    assert np.abs(itk_affine(f"out/a{suffix}") - before.affine).max() <= 1e-4
    assert np.array_equal(nibabel.aff2axcodes(after.affine), nibabel.aff2axcodes(before.affine))
    itk = sitk.GetArrayFromImage(sitk.ReadImage(f"out/a{suffix}")).transpose(2, 1, 0)
    assert np.array_equal(itk, np.asarray(after.dataobj))


@pytest.mark.parametrize("labels", ['{"background": 0, "liver": 1}', '{"0": "background", "1": "liver"}'])
def test_command_answers_a_folder_of_volumes(labels, command):
    Path("context/dataset.json").write_text(f'{{"labels": {labels}}}')
    command()
    facts = json.loads(Path("out/q.json").read_text())
    found = np.asarray(nibabel.load("out/q.nii.gz").dataobj)
    assert facts["classes"]["1"]["name"] == "liver"
    assert facts["classes"]["1"]["voxels"] == (found == 1).sum() > 0
    assert facts["slices"] == "axial"
    with Image.open("out/q.preview.png") as page:
        assert page.height > 3 * 256
    assert sorted(path.name for path in Path("out").iterdir()) == ["q.json", "q.nii.gz", "q.preview.png"]


@pytest.mark.parametrize("codes", [(0, 0), (0, 3), (1, 0)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_headers_of_any_code_and_byte_order_are_kept(codes, order, command):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"first"
    image = nibabel.Nifti1Image(values(), grid(), header)
    image.set_sform(grid(), codes[0])
    image.set_qform(grid(), codes[1])
    image.to_filename("queries/q.nii.gz")
    command()
    before, after = nibabel.load("queries/q.nii.gz").header, nibabel.load("out/q.nii.gz").header
    for name in (
        "sform_code",
        "qform_code",
        "srow_x",
        "quatern_b",
        "qoffset_z",
        "pixdim",
        "xyzt_units",
        "dim",
    ):
        assert np.array_equal(before[name], after[name])
    assert after["descrip"].item() == b""  # it may name the patient
    assert np.array_equal(np.asarray(nibabel.load("out/q.nii.gz").affine), nibabel.load("queries/q.nii.gz").affine)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("number", [0, 13, 30, 47])
def test_metaimage_and_nrrd_keep_their_grid(number, suffix, command):
    path = write("q.nii", values(), orientation=ORIENTATIONS[number])
    sitk.WriteImage(sitk.ReadImage(str(path)), f"q{suffix}")
    command("--input", str(path), "--output", "plain")
    command("--input", f"q{suffix}")
    assert np.abs(itk_affine(f"out/q{suffix}") - nibabel.load(path).affine).max() <= 1e-4
    answer = sitk.GetArrayFromImage(sitk.ReadImage(f"out/q{suffix}")).transpose(2, 1, 0)
    assert answer.dtype == np.uint8
    assert np.array_equal(answer, np.asarray(nibabel.load("plain/q.nii").dataobj))


def test_sheared_nrrd_is_named(refused):
    sitk.WriteImage(sitk.GetImageFromArray(values()), "q.nrrd")
    content = Path("q.nrrd").read_bytes().replace(b"(1,0,0) (0,1,0)", b"(1,0,0) (0.4,1,0)")
    Path("q.nrrd").write_bytes(content)
    assert "q.nrrd: the affine is sheared" in refused("--input", "q.nrrd")


def test_truncated_metaimage_is_named(refused):
    sitk.WriteImage(sitk.GetImageFromArray(values()), "q.mha")
    Path("q.mha").write_bytes(Path("q.mha").read_bytes()[:-100])
    assert "q.mha: the file is damaged" in refused("--input", "q.mha")


def test_pictures_are_examples_for_volumes(command):
    for folder, array in (("images", 255 * values()[..., 0]), ("labels", values()[..., 0] > 0.5)):
        Path("slices", folder).mkdir(parents=True)
        Image.fromarray(array.astype(np.uint8)).save(f"slices/{folder}/a.png")
    command("--context", "slices")
    assert nibabel.load("out/q.nii.gz").shape == SHAPE


def test_images_of_two_calls_are_the_same_bytes(command):
    for folder in ("out", "again"):
        command("--task", "denoising", "--output", folder, "--context-slices", "same-position")
    assert Path("out/q.nii.gz").read_bytes() == Path("again/q.nii.gz").read_bytes()


def spoiled(how):
    """Writes a query with one fault."""
    path, affine = Path("queries/q.nii"), grid(oblique=False)
    image = nibabel.Nifti1Image(values(), affine)
    image.set_sform(affine, 1)
    if how == "qform":
        image.set_qform(np.diag([1, 1, 1, 1]), 1)
    elif how == "shear":
        affine[0, 1] = 0.4
        image.set_sform(affine, 1)
        image.set_qform(affine, 0, strip_shears=True)
    elif how == "4D":
        image = nibabel.Nifti1Image(values(shape=(4, 4, 4, 2)), affine)
    elif how == "RGB":
        colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        image = nibabel.Nifti1Image(colours, affine)
    data = bytearray(image.to_bytes())
    if how == "zero spacing":
        data[80:92] = bytes(12)
        data[280:328] = bytes(48)
    elif how == "NaN":
        data[280:284] = np.float32(np.nan).tobytes()
    elif how == "half":
        data = data[: len(data) // 2]
    Path("queries/q.nii.gz").unlink()
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("qform", "disagrees"),
        ("shear", "shear"),
        ("zero spacing", "resample"),  # axes of no length are at no right angle
        ("NaN", "nan mm"),
        ("4D", "a 3D volume is needed"),
        ("RGB", "grey values are needed"),
        ("half", "truncated"),
    ],
)
def test_a_bad_query_is_named_before_anything_is_written(how, words, refused):
    spoiled(how)
    said = refused()
    assert "queries/q.nii" in said
    assert words in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "queries/q.nii.gz", "--output", "out.png"], "out.png"),
        (["--slices", "oblique"], "slices"),
        (["--context_slices", "sideways"], "context_slices"),
        (["--context", "queries"], "queries/images"),
    ],
)
def test_wrong_options_are_named(options, words, refused):
    assert words in refused(*options)


def test_names_without_numbers_are_refused(refused):
    Path("context/dataset.json").write_text('{"labels": {"liver": "one"}}')
    assert "context/dataset.json" in refused()


def test_pictures_are_not_answered_after_volumes(refused):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save("picture.png")
    assert "context/images/a.nii.gz" in refused("--input", "picture.png")
