"""The command `mvg score`: answers in files against the truth."""

import csv
import json
import os
from collections import defaultdict
from importlib.metadata import EntryPoint
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.spatial.distance import cdist

from benchmarks.score import ALL, summarise
from mvg import cli
from mvg.cli import main

SPACING = (1.0, 2.0, 3.0)
SHAPE = (8, 9, 7)
CASES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    entries = {
        "score": EntryPoint("score", "benchmarks.score:score", cli.GROUP),
        "example": EntryPoint("example", "mvg.example:example", cli.GROUP),
        "predict": EntryPoint("predict", "mvg.prediction.predict:predict", cli.GROUP),
    }
    monkeypatch.setattr(cli, "commands", lambda: entries)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def volume(path, values, affine=None):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.asarray(values), np.diag([*SPACING, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def picture(path, values):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def maps(seed):
    """A label map with a box of class 1 and one of class 2, and a second one beside it."""
    true, found = np.zeros((2, *SHAPE), np.uint8)
    true[1:5, 2:6, 1:5] = 1
    true[6:, 2:5, 2:5] = 2
    found[1 + seed % 2 : 5, 2 : 7 - seed % 3, 2:6] = 1
    found[6:, 3:6, 1:4] = 2
    return true, found


def write_maps():
    for number, name in enumerate(CASES):
        true, found = maps(number)
        volume(f"truth/{name}.nii.gz", true)
        volume(f"answers/{name}.nii.gz", found)


def write_images():
    rng = np.random.default_rng(0)
    for name in CASES:
        clean = rng.integers(0, 256, (24, 20)).astype(np.uint8)
        clean[:4] = 0
        noisy, better = (np.clip(clean + rng.normal(0, each, clean.shape), 0, 255).astype(np.uint8) for each in (20, 8))
        picture(f"truth/{name}.png", clean)
        picture(f"noisy/{name}.png", noisy)
        picture(f"answers/{name}.png", better)


def rows(*options):
    """Runs the command; returns the rows of its table."""
    main(["score", "--predictions", "answers", "--targets", "truth", "--output", "s.csv", "--overwrite", *options])
    with open("s.csv", newline="") as file:
        return list(csv.DictReader(file))


def values(*options, entrant="answers"):
    return {
        (row["case"], int(row["label"]), row["metric"]): float(row["value"])
        for row in rows(*options)
        if row["entrant"] == entrant
    }


def refused(capsys, *options):
    """Runs the command, which must refuse in one sentence and write nothing; returns the sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["score", "--predictions", "answers", "--targets", "truth", "--output", "s.csv", *options])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.err.count("\n") == 1
    assert not said.out
    assert not Path("s.csv").exists()
    return said.err


def edge(mask):
    """Places of the voxels of a mask that share a face with a voxel outside, in mm."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inner) * SPACING


@pytest.mark.parametrize("label", [1, 2])
def test_label_maps_are_scored_as_counted_by_hand(label):
    write_maps()
    found = values()
    for number, name in enumerate(CASES):
        true, answer = (each == label for each in maps(number))
        both, sizes = (true & answer).sum(), (true.sum(), answer.sum())
        apart = cdist(edge(true), edge(answer))
        expected = {
            "dice": 2 * both / sum(sizes),
            "iou": both / (true | answer).sum(),
            "volume_error": 1 - min(sizes) / max(sizes),
            "hd95": max(np.percentile(apart.min(axis), 95) for axis in (0, 1)),
        }
        assert {metric: found[name, label, metric] for metric in expected} == pytest.approx(expected)


def test_images_are_scored_in_the_foreground_of_the_truth():
    write_images()
    found = values("--task", "denoising")
    for name in CASES:
        clean, answer = (np.asarray(Image.open(f"{side}/{name}.png")) / 255 for side in ("truth", "answers"))
        error = (clean - answer)[clean > 0.01]
        assert found[name, 0, "psnr"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-4)
        assert found[name, 0, "mae"] == pytest.approx(np.abs(error).mean(), abs=1e-6)


def test_perfect_answers_get_the_best_values():
    write_maps()
    best = {"dice": 1, "iou": 1, "nsd": 1, "hd95": 0, "volume_error": 0}
    found = values("--predictions", "truth", entrant="truth")
    assert {key[2] for key in found} == set(best)
    assert all(value == best[metric] for (_, _, metric), value in found.items())


def test_perfect_images_get_the_best_values():
    write_images()
    found = values("--predictions", "truth", "--task", "denoising", entrant="truth")
    best = {"psnr": 100, "ssim": 1, "mae": 0}
    assert {key[2] for key in found} == set(best)
    assert all(value == pytest.approx(best[metric]) for (_, _, metric), value in found.items())


def means():
    total = defaultdict(list)
    better = {}
    for row in rows(*(["--task", "denoising"] if Path("noisy").exists() else [])):
        better[row["metric"]] = 1 if row["higher_is_better"] == "true" else -1
        total[row["label"], row["metric"]].append(float(row["value"]) * better[row["metric"]])
    return {key: np.mean(part) for key, part in total.items()}


@pytest.mark.parametrize("write", [write_maps, write_images])
@pytest.mark.parametrize("name", CASES)
def test_to_delete_an_answer_never_raises_a_score(write, name):
    write()
    if write is write_maps:
        volume("truth/b.nii.gz", np.minimum(maps(1)[0], 1))  # b lacks the second structure
    before = means()
    Path(f"answers/{name}.{'nii.gz' if write is write_maps else 'png'}").unlink()
    after = means()
    assert before.keys() == after.keys()
    assert all(after[key] <= before[key] for key in before)
    assert any(after[key] < before[key] for key in before)


def test_what_is_missing_follows_the_table_of_the_protocol(capsys):
    write_maps()
    true = maps(0)[0]
    volume("truth/a.nii.gz", np.minimum(true, 1))  # class 2 is absent, but found
    volume("answers/b.nii.gz", np.where(true == 1, 1, 0).astype(np.uint8))  # class 2 is missed
    Path("answers/c.nii.gz").unlink()
    found = {(row["case"], row["label"], row["metric"]): row for row in rows()}
    assert {key[2] for key in found if key[:2] == ("a", "2")} == {"false_alarm"}
    assert (found["a", "2", "false_alarm"]["value"], found["a", "2", "false_alarm"]["failure"]) == ("1.0", "alarm")
    assert (found["b", "2", "dice"]["value"], found["b", "2", "dice"]["failure"]) == ("0.0", "missed")
    diagonal = float(np.linalg.norm(np.multiply(SHAPE, SPACING)))
    assert float(found["c", "1", "hd95"]["value"]) == pytest.approx(diagonal)
    assert found["c", "1", "dice"]["failure"] == "unanswered"
    assert {"missed: b (class 2)", "unanswered: c"} <= set(capsys.readouterr().out.splitlines())


def test_table_holds_means_intervals_and_failures(capsys):
    write_maps()
    Path("answers/c.nii.gz").unlink()
    dice = [values()[name, 1, "dice"] for name in CASES]
    capsys.readouterr()
    rows()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    (line,) = [line for line in lines if line[:2] == ["class 1", "dice"]]
    low, high = map(float, line[3].split(" to "))
    assert line[2] == f"{np.mean(dice):.3f}"
    assert low == 0 < float(line[2]) < high <= round(max(dice), 3)
    assert line[4:] == ["3", "1"]
    assert any(line[:2] == [ALL, "hd95 (mm)"] for line in lines)


def test_one_case_has_no_interval():
    from benchmarks.answer_files import find_cases
    from benchmarks.answer_scores import Question, score_cases
    from tasks import Segmentation

    write_maps()
    scores = score_cases(find_cases(Path("answers/a.nii.gz"), Path("truth/b.nii.gz")), Question(Segmentation, "x", {}))
    assert all(np.isnan([each.low, each.high]).all() and each.cases == 1 for each in summarise(scores))


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.diag([1.0, 2.0, 3.1, 1.0]), "1 x 2 x 3.1 mm"),
        (np.array([[1.0, 0, 0, 4], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]), "from 4, 0, 0"),
        (np.array([[0.8, -1.2, 0, 0], [0.6, 1.6, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]), "farthest corner"),
    ],
    ids=["spacing", "shift", "rotation"],
)
def test_answer_on_another_grid_is_refused(capsys, affine, word):
    write_maps()
    volume("answers/b.nii.gz", maps(1)[1], affine)
    said = refused(capsys)
    assert word in said
    assert "case 'b'" in said
    assert "bring the answer onto the target's grid" in said


def test_answer_of_another_size_is_refused(capsys):
    write_maps()
    volume("answers/b.nii.gz", maps(1)[1][1:])
    assert "7 x 9 x 7 voxels" in refused(capsys)


def test_same_place_in_another_orientation_or_format_scores_alike():
    write_maps()
    before = values()
    image = nibabel.load("answers/a.nii.gz")
    flipped = image.as_reoriented([[1, -1], [0, 1], [2, -1]])
    nibabel.save(flipped, "answers/a.nii.gz")
    sitk.WriteImage(sitk.ReadImage("answers/b.nii.gz"), "answers/b.mha")
    sitk.WriteImage(sitk.ReadImage("answers/c.nii.gz"), "answers/c.nrrd")
    Path("answers/b.nii.gz").unlink()
    Path("answers/c.nii.gz").unlink()
    assert values() == before


def test_pictures_are_scored_in_pixels_and_white_masks_are_class_1():
    picture("truth/a.tif", np.pad(np.full((5, 5), 255, np.uint8), 3))
    picture("answers/a.png", np.pad(np.ones((5, 5), np.uint8), ((3, 3), (5, 1))))
    found = {row["metric"]: row for row in rows()}
    assert (found["hd95"]["value"], found["hd95"]["unit"], found["hd95"]["label"]) == ("2.0", "px", "1")
    assert float(found["dice"]["value"]) == pytest.approx(2 * 15 / 50)


def test_tolerance_and_classes_are_those_asked_for():
    write_maps()
    strict, loose = (values("--tolerance", each, "--classes", "[2]") for each in ("0", "100"))
    assert {key[1] for key in strict} == {2}
    assert all(strict[name, 2, "nsd"] < loose[name, 2, "nsd"] == 1 for name in CASES)


def test_class_that_no_answer_shows_is_told_and_counts(caplog):
    write_maps()
    for number, name in enumerate(CASES):
        volume(f"answers/{name}.nii.gz", (maps(number)[1] == 1).astype(np.uint8))
    assert {row["failure"] for row in rows() if row["label"] == "2"} == {"missed"}
    assert "No answer shows class 2" in caplog.text
    assert {key[1] for key in values("--classes", "[1]")} == {1}


@pytest.mark.parametrize("place", ["truth/dataset.json", "dataset.json", "answers/a.json"])
def test_classes_are_named(place):
    write_maps()
    said = {"task": {"class_path": "tasks.segmentation.Segmentation"}, "classes": {"1": {"name": "core"}}}
    Path(place).write_text(json.dumps(said if "answers" in place else {"labels": {"background": 0, "core": 1}}))
    assert {row["label"]: row["structure"] for row in rows()} == {"1": "core", "2": "class 2"}


def test_scans_are_scored_beside_the_answers_and_say_which_cases_were_asked():
    write_images()
    Path("noisy/c.png").unlink()
    Path("answers/b.png").unlink()
    options = ("--task", "denoising", "--inputs", "noisy")
    found, scans = values(*options), values(*options, entrant="identity")
    assert {key[0] for key in found} == {key[0] for key in scans} == {"a", "b"}
    assert found["a", 0, "psnr"] > scans["a", 0, "psnr"] > found["b", 0, "psnr"] == 0


def test_hole_is_where_scan_and_target_differ():
    write_images()
    hole = np.zeros((24, 20), bool)
    hole[8:12, 5:11] = True
    for name in CASES:
        clean = np.maximum(np.asarray(Image.open(f"truth/{name}.png")), 8)
        picture(f"truth/{name}.png", clean)
        picture(f"noisy/{name}.png", np.where(hole, 0, clean).astype(np.uint8))
        picture(f"answers/{name}.png", np.where(hole, clean - 5, clean).astype(np.uint8))
    found = values("--task", "inpainting", "--inputs", "noisy")
    assert found["a", 0, "mae_hole"] == pytest.approx(5 / 255, abs=1e-6)
    assert found["a", 0, "mae"] == pytest.approx(5 / 255 * hole.mean(), abs=1e-6)


def test_range_of_volumes_comes_from_the_target_or_the_window():
    rng = np.random.default_rng(1)
    clean = rng.uniform(100, 900, (12, 12, 12)).astype(np.float32)
    volume("truth/a.nii", clean)
    volume("answers/a.nii", clean + 40)
    low, high = np.percentile(clean[clean > clean.min()], (0.5, 99.5))
    (row,) = [row for row in rows("--task", "denoising") if row["metric"] == "mae"]
    assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high))
    assert values("--task", "denoising", "--window", "[0,1000]")["a", 0, "mae"] == pytest.approx(0.04, abs=1e-6)


def test_answers_say_what_they_are(capsys):
    write_images()
    for name in CASES:
        Path(f"answers/{name}.json").write_text(json.dumps({"task": {"class_path": "tasks.denoising.Denoising"}}))
        picture(f"answers/{name}.preview.png", np.zeros((50, 90, 3), np.uint8))
        picture(f"answers/{name}.uncertainty.tif", np.zeros((24, 20), np.float32))
    assert {row["task"] for row in rows()} == {"denoising"}
    os.remove("s.csv")
    assert "images, painted by tasks.denoising.Denoising" in refused(capsys, "--task", "segmentation")


def nothing():
    for file in Path("answers").iterdir():
        file.unlink()


def renamed():
    for file in Path("answers").iterdir():
        file.rename(f"answers/other_{file.name}")


def other_suffix():
    nothing()
    Path("answers/a.txt").write_text("1")


def broken():
    values = maps(0)[1].astype(np.float32)
    values[0, 0, 0] = np.nan
    volume("answers/a.nii.gz", values)


def fractions():
    volume("answers/a.nii.gz", maps(0)[1] * np.float32(0.3))


def truncated():
    Path("answers/a.nii.gz").write_bytes(Path("answers/a.nii.gz").read_bytes()[:-20])


def many():
    volume("truth/a.nii.gz", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16))


@pytest.mark.parametrize(
    ("spoil", "options", "word"),
    [
        (nothing, (), "no picture, no volume"),
        (renamed, (), "other_a, other_b, other_c"),
        (other_suffix, (), "no picture, no volume"),
        (broken, (), "1 voxel not finite (NaN"),
        (fractions, (), "whole numbers"),
        (truncated, (), "damaged"),
        (many, (), "--task denoising"),
        (None, ("--task", "denoising"), "those of a label map"),
        (None, ("--task", "magic"), "no task 'magic'; choose one of artefact_removal"),
        (None, ("--task", "detection"), "mvg benchmark run"),
        (None, ("--predictions", "nowhere"), "no such file or folder"),
        (None, ("--predictions", "answers/a.nii.gz"), "files alone, or folders"),
        (None, ("--predictions", "answers/a.csv"), "no such file or folder"),
        (None, ("--tolerance", "-1"), "at least 0"),
        (None, ("--classes", "[0]"), "0 is background"),
        (None, ("--window", "[3,1]"), "low < high"),
        (None, ("--inputs", "empty"), "no picture, no volume"),
        (None, ("--output", "scores.png"), "ends in .csv"),
    ],
)
def test_bad_input_is_one_sentence(capsys, spoil, options, word):
    write_maps()
    Path("empty").mkdir()
    if spoil:
        spoil()
    assert word in refused(capsys, *options)


def test_pixels_of_other_types_are_refused_unless_their_range_is_given(capsys):
    write_images()
    picture("answers/a.png", np.asarray(Image.open("answers/a.png")).astype(np.uint16))
    assert "pixels of type uint16" in refused(capsys, "--task", "denoising")
    assert values("--task", "denoising", "--window", "[0,255]")["a", 0, "psnr"] > 20


def test_dark_pictures_of_16_bits_are_told_with_their_range(caplog):
    clean = np.random.default_rng(0).integers(0, 4096, (24, 20)).astype(np.uint16)
    picture("truth/a.png", clean)
    picture("answers/a.png", clean // 2)
    rows("--task", "denoising", "--window", "[0,4095]")
    assert "--window" not in caplog.text
    rows("--task", "denoising")
    assert "--window '[0, 4095]'" in caplog.text


def test_white_masks_and_masks_of_ones_beside_them_are_one_class():
    for name, side, value in (("a", "truth", 255), ("b", "truth", 1), ("a", "answers", 1), ("b", "answers", 255)):
        picture(f"{side}/{name}.png", np.pad(np.full((5, 5), value, np.uint8), 3))
    found = rows()
    assert {row["label"] for row in found} == {"1"}
    assert {(row["case"], row["value"]) for row in found if row["metric"] == "dice"} == {("a", "1.0"), ("b", "1.0")}


@pytest.mark.parametrize("said", [{"names": ["core", "rim"]}, {"classes": {"1": 5}}, {"names": {"core": 1}}])
def test_a_sidecar_that_names_no_classes_is_one_sentence(capsys, said):
    write_maps()
    Path("answers/a.json").write_text(json.dumps({"task": {"class_path": "tasks.Segmentation"}, **said}))
    assert "the JSON beside it does not name classes" in refused(capsys)


def test_output_is_replaced_only_if_asked(capsys):
    write_maps()
    Path("s.csv").write_text("mine")
    with pytest.raises(SystemExit):
        main(["score", "--predictions", "answers", "--targets", "truth", "--output", "s.csv"])
    assert Path("s.csv").read_text() == "mine"
    assert len(rows()) == 3 * 2 * 5


@pytest.mark.parametrize("task", ["segmentation", "denoising"])
def test_answers_of_predict_are_scored(task, capsys):
    main(["example", "--output", "demo", "--task", task, "--examples", "2", "--scans", "2", "--size", "[48,48]"])
    common = ("--task", task, "--context", "demo/context", "--input", "demo/scans", "--output", "answers")
    main(["predict", *common, "--preview", "--uncertainty", "1"])
    found = rows("--targets", "demo/truth", "--inputs", "demo/scans")
    assert {row["case"] for row in found} == {"02", "03"}
    assert {row["task"] for row in found} == {task}
    assert not any(row["failure"] in ("unanswered", "invalid") for row in found)
