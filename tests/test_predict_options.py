"""Options of `mvg predict`: choice, dry run, memory, uncertainty, formats."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from test_dicom import CANARY, everything_in, write_series
from test_predict import error_of, folder, predict, written  # noqa: F401
from test_predict_volumes import command, refused  # noqa: F401
from test_predictor import blob
from test_volume_predictor import SHAPE

from mvg.cli import class_paths
from mvg.data.dicom import find_series, read_series
from mvg.prediction import outputs

REFERENCES = {
    "FrameOfReferenceUID": "1.2.3.4",
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "AccessionNumber": "",
    "StudyID": "",
    "ReferringPhysicianName": "",
    "PatientSex": "O",
    "Manufacturer": "",
    "InstanceNumber": 1,
}


def facts_of(name):
    return json.loads(Path(f"out/{name}.json").read_text())


def test_each_query_is_shown_what_looks_like_it(folder):  # noqa: F811
    for seed in range(2, 6):
        image, labels = blob(60, 47, seed)
        Image.fromarray(image).save(f"context/images/case_{seed}.tif")
        Image.fromarray(labels).save(f"context/labels/case_{seed}.png")
    Image.fromarray(blob(60, 47, 4)[0]).save("queries/d.png")
    predict("--context-size", "1", "--choose", "nearest")
    shown = {name: [entry["name"] for entry in facts_of(name)["context"]] for name in "abcd"}
    assert shown == {"a": ["case_0"], "b": ["case_0"], "c": ["case_1"], "d": ["case_4"]}
    assert facts_of("a")["candidates"] == 6


def test_a_table_chooses_by_its_columns(folder):  # noqa: F811
    Path("t.csv").write_text("case,modality\ncase_0,CT\ncase_1,MR\na,MR\nb,CT\nc,MR\n")
    predict("--context-size", "1", "--choose", "metadata", "--metadata", "t.csv")
    assert [facts_of(name)["context"][0]["name"] for name in "abc"] == ["case_1", "case_0", "case_1"]


def test_a_dry_run_asks_nothing_and_writes_nothing(folder, capsys, monkeypatch):  # noqa: F811
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("test_predictor.Oracle.answer", refuse)
    monkeypatch.setattr("mvg.prediction.passes.Pass.remember", refuse)
    monkeypatch.setattr("mvg.prediction.plan.need_of", lambda *_: None)
    predict("--dry-run", "--uncertainty", "2")
    said = capsys.readouterr().out
    assert written() == []
    assert "out/a.png, out/a.json, out/a.uncertainty.tif" in said
    assert "classes: 1, 2, 5" in said
    assert "the network is asked 27 times" in said


def test_a_dry_run_of_volumes_counts_slices(command, capsys):  # noqa: F811
    command("--seed=0", "--dry-run")
    said = capsys.readouterr().out
    assert f"{SHAPE[2]} slices, passes: 1" in said
    assert re.search(r"memory: about \d+\.\d\d GiB", said)
    assert not Path("out").exists()


def test_a_limit_on_memory_makes_batches_smaller_or_is_refused(folder, capsys, caplog):  # noqa: F811
    predict("--memory-limit", "64")
    assert "16 images are answered together" in caplog.text
    assert "more than `memory_limit` 0.01 GiB; lower --context-size" in error_of(
        capsys, "--memory-limit", "0.01", "--overwrite"
    )


def test_uncertainty_lies_beside_the_answer_and_goes_with_it(folder):  # noqa: F811
    predict("--uncertainty", source="queries/a.png")
    with Image.open("out/a.uncertainty.tif") as found:
        assert (found.size, found.mode) == ((47, 60), "F")
    assert facts_of("a")["agreement"]["members"] == 6
    predict("--overwrite", source="queries/a.png")
    assert written() == ["a.json", "a.png"]
    assert facts_of("a")["names"] == {"1": "class 1", "2": "class 2", "5": "class 5"}


def test_uncertainty_of_a_volume_has_its_grid(command):  # noqa: F811
    command("--uncertainty", "2")
    before, after = nibabel.load("queries/q.nii.gz"), nibabel.load("out/q.uncertainty.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert after.get_data_dtype() == np.float32
    assert 0 <= np.asarray(after.dataobj).min() <= np.asarray(after.dataobj).max() <= 1


@pytest.mark.parametrize(("form", "source"), [("mha", "nii.gz"), ("nrrd", "nii.gz"), ("nii.gz", "mha")])
def test_formats_change_the_file_and_not_the_place(form, source, command):  # noqa: F811
    query = Path("queries/q.nii.gz")
    if source == "mha":
        sitk.WriteImage(sitk.ReadImage(str(query)), "queries/r.mha")
        query.rename("first.nii.gz")
        query = Path("queries/r.mha")
    command("--format", form)
    before, after = sitk.ReadImage(str(query)), sitk.ReadImage(f"out/{query.name.split('.')[0]}.{form}")
    for name in ("Origin", "Spacing", "Direction"):
        assert np.allclose(getattr(before, f"Get{name}")(), getattr(after, f"Get{name}")(), atol=1e-4)
    assert sitk.GetArrayFromImage(after).any()


def test_formats_that_cannot_hold_an_answer_are_refused(refused, command):  # noqa: F811
    assert "not 'png'" in refused("--format", "png")


# ---------------------------------------------------------------- DICOM


def series_of(**tags):
    """Writes a series of 5 slices with what references need."""
    write_series(Path("series"), shape=(16, 16, 5), **{**REFERENCES, **tags})
    return find_series(Path("series"))[0]


def test_dicom_becomes_a_segmentation_that_refers_to_its_source(command, caplog):  # noqa: F811
    highdicom = pytest.importorskip("highdicom")
    series = series_of()
    Path("context/dataset.json").write_text('{"labels": {"liver": 1}}')
    with caplog.at_level("DEBUG"):
        command("--input", "series", "--window", "[-1000,800]")
        command("--input", "series", "--window", "[-1000,800]", "--format", "nii.gz", "--output", "plain")
    path = Path(f"out/{series.name}.dcm")
    made = highdicom.seg.segread(path)
    answer = np.asarray(nibabel.load(f"plain/{series.name}.nii.gz").dataobj)
    pages = made.get_pixels_by_source_instance([each.instance for each in series.slices], combine_segments=True)
    assert np.array_equal(pages.transpose(2, 1, 0), answer)
    assert answer.any()
    assert made.SegmentSequence[-1].SegmentLabel == "liver"
    assert np.allclose(made.get_volume_geometry().spacing, [2.5, 0.8, 0.6])
    assert str(made.PatientName) == CANARY
    assert "names the patient" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY.encode() not in Path(f"out/{series.name}.json").read_bytes()
    assert not [word for word in everything_in(Path("plain")) if b"CANARY" in word]


def test_images_of_dicom_become_a_derived_series(command):  # noqa: F811
    series = series_of()
    command("--input", "series", "--task", "denoising", "--window", "[-1000,800]")
    (made,) = find_series(Path(f"out/{series.name}"))
    assert np.allclose(read_series(made).affine, read_series(series).affine)
    first, source = (pydicom.dcmread(each.slices[0].path) for each in (made, series))
    assert list(first.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert first.SeriesInstanceUID != source.SeriesInstanceUID
    assert first.StudyInstanceUID == source.StudyInstanceUID
    assert read_series(made).values.max() <= 800


def test_a_series_to_which_nothing_can_refer_is_refused(refused):  # noqa: F811
    write_series(Path("series"), shape=(16, 16, 5))
    assert "lacks FrameOfReferenceUID" in refused("--input", "series", "--format", "dcm")


def test_without_the_extra_the_answer_is_nifti_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(outputs, "find_spec", lambda _: None)
    with caplog.at_level("INFO"):
        assert outputs.default_form(True) == "nii.gz"
    assert "mvg-generalist[dicom]" in caplog.text
    assert outputs.default_form(False) == "dcm"


# ---------------------------------------------------------------- the README


def test_five_lines_of_the_readme_run(folder):  # noqa: F811
    text = (Path(__file__).parents[1] / "README.md").read_text()
    lines = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Predictor.from" in block)
    lines = lines[lines.index("predictor =") :]
    for name in "abc":
        Image.fromarray(blob(40, 50)[0]).save(f"{name}.png")
        Image.fromarray(blob(40, 50)[1]).save(f"{name}_mask.png")
    found = {}
    code = lines.replace("runs/quickstart/weights", "weights").replace("print(", "found['labels'] = (")
    with class_paths(["test_predictor"]):
        exec("import mvg\n" + code, {"found": found})
    assert found["labels"].shape == (40, 50)


@pytest.mark.parametrize("options", [["--focus", "0.1"], ["--overlap", "0.5"], ["--context-windows", "[whole]"]])
def test_options_that_would_change_nothing_are_refused(options, folder, capsys):  # noqa: F811
    assert "change nothing; add --scales coarse-to-fine" in error_of(capsys, *options)
    predict(*options, "--scales", "coarse-to-fine")
