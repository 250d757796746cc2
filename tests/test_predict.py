"""The command `mvg predict`: files in, files out."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_predictor import SIZE, Copy, Oracle, blob, dice

import tasks
from mvg import cli, weights
from mvg.cli import main
from mvg.files import write_whole
from mvg.prediction import outputs
from mvg.prediction.context import PairFiles, find_pairs
from mvg.prediction.preview import colour_of
from mvg.prediction.retrieval import choose


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two examples of unlike shape, three queries, and the weights of an oracle; the working directory."""
    entry = EntryPoint("predict", "mvg.prediction.predict:predict", cli.GROUP)
    monkeypatch.setattr(cli, "commands", lambda: {"predict": entry})
    monkeypatch.chdir(tmp_path)
    for name in ("context/images", "context/labels", "queries"):
        Path(name).mkdir(parents=True)
    for seed, shape in enumerate([(60, 47), (64, 96)]):
        image, labels = blob(*shape, seed)
        Image.fromarray(image).save(f"context/images/case_{seed}.tif")
        Image.fromarray(labels).save(f"context/labels/case_{seed}.png")
    Image.fromarray(blob(60, 47, 0)[0]).save("queries/a.png")
    Image.fromarray(blob(120, 94, 0)[0]).save("queries/b.bmp")
    np.save("queries/c.npy", blob(64, 96, 1)[0])
    known = {"segmentation": tasks.Segmentation(), "denoising": tasks.Denoising(), "boxes": tasks.Detection()}
    weights.save("weights", Oracle(), known)
    return tmp_path


def predict(*options, task="segmentation", source="queries", output="out"):
    words = ["--weights", "weights", "--context", "context", "--input", source, "--output", output, "--task", task]
    main(["predict", *words, "--allow-class-path", "test_predictor", *options])


def error_of(capsys, *options, **names):
    with pytest.raises(SystemExit) as stopped:
        predict(*options, **names)
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(said)
    return said[-1]


def written():
    return sorted(path.name for path in Path("out").glob("*")) if Path("out").exists() else []


def test_command_answers_a_folder(folder):
    predict("--preview")
    assert written() == sorted(f"{x}{end}" for x, e in (("a", ".png"), ("b", ".png"), ("c", ".npy"))
                               for end in (e, ".json", ".preview.png"))  # fmt: skip
    answers = np.asarray(Image.open("out/a.png")), np.asarray(Image.open("out/b.png")), np.load("out/c.npy")
    truths = blob(60, 47, 0)[1], blob(120, 94, 0)[1], blob(64, 96, 1)[1]
    for answer, truth in zip(answers, truths, strict=True):
        assert answer.shape == truth.shape
        assert all(dice(answer == k, truth == k) > 0.85 for k in (1, 2, 5))


def test_sidecar_says_where_an_answer_comes_from(folder):
    predict("--context-size", "1", "--choose", "first", source="queries/a.png", output="out/named.png")
    facts = json.loads(Path("out/named.json").read_text())
    assert [entry["name"] for entry in facts["context"]] == ["case_0"]
    assert facts["weights"]["sha256"] == outputs.fingerprint(Path("weights/model.safetensors"))
    assert facts["context"][0]["target"]["sha256"] == outputs.fingerprint(Path("context/labels/case_0.png"))
    found = np.asarray(Image.open("out/named.png"))
    assert facts["areas"] == {str(k): int((found == k).sum()) for k in (1, 2, 5)}
    assert facts["task"]["class_path"] == "tasks.segmentation.Segmentation"
    assert len(facts["specs"]) == 3
    assert str(folder) not in json.dumps(facts)


def test_images_keep_their_kind_of_file(folder):
    Image.fromarray(blob(60, 47)[0].astype(np.uint16) * 200).save("queries/d.tif")
    predict(task="denoising", source="queries/d.tif")
    with Image.open("out/d.tif") as answer:
        assert (answer.size, np.asarray(answer).dtype) == ((47, 60), np.uint16)


def test_colours_that_no_picture_holds_are_refused_before_the_first_is_written(folder, capsys):
    weights.save("weights", Copy(3, 3), {"denoising": tasks.Denoising()})
    for path in Path("context/labels").iterdir():
        Image.open(path).convert("RGB").save(path)
    Image.fromarray(np.zeros(SIZE, np.uint16)).save("queries/z.tif")
    assert "out/z.tif: pictures cannot hold 3 channels of type uint16" in error_of(capsys, task="denoising")
    assert written() == []


def test_a_class_path_is_a_task(folder):
    predict(task="tasks.Segmentation")
    assert "a.png" in written()


def test_preview_shows_the_classes_in_their_colours(folder):
    predict("--preview", source="queries/a.png")
    shown = np.asarray(Image.open("out/a.preview.png")).reshape(-1, 3)
    for number in (1, 2, 5):
        assert (np.abs(shown - 255 * np.array(colour_of(number))).max(1) < 2).sum() > 20


def test_a_painted_image_has_a_preview_too(folder):
    predict("--preview", "--context", "context/images", "--targets", "context/images", task="denoising")
    assert np.asarray(Image.open("out/a.preview.png")).std() > 10


def test_outputs_are_replaced_only_if_asked_and_no_old_preview_stays(folder, capsys):
    predict("--preview", source="queries/a.png")
    before = Path("out/a.json").read_bytes()
    assert "out/a.png" in error_of(capsys)
    assert Path("out/a.json").read_bytes() == before
    assert not Path("out/b.png").exists()
    Path("out/a.json").write_text("old")
    predict("--overwrite")
    assert len(written()) == 6
    assert Path("out/a.json").read_text() != "old"


def test_a_query_is_never_replaced(folder, capsys):
    before = Path("queries/a.png").read_bytes()
    assert "replace a query" in error_of(capsys, "--overwrite", output="queries")
    assert Path("queries/a.png").read_bytes() == before


def damage_query():
    Path("queries/b.bmp").write_bytes(Path("queries/b.bmp").read_bytes()[:500])


def nan_query():
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save("queries/n.tif")


def unpaired():
    Path("context/labels/case_1.png").unlink()


def other_size():
    Image.fromarray(np.ones((9, 9), np.uint8)).save("context/labels/case_1.png")


def empty_context():
    for path in Path("context/images").iterdir():
        path.unlink()


def empty_targets():
    for path in Path("context/labels").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)


def coloured_target():
    noise = np.random.default_rng(0).integers(0, 256, (60, 47, 3), dtype=np.uint8)
    Image.fromarray(noise).save("context/labels/case_0.png")


def jpeg_target():
    Path("context/labels/case_0.png").unlink()
    Image.fromarray(np.ones((60, 47), np.uint8)).save("context/labels/case_0.jpg")


def two_channels():
    np.save("queries/t.npy", np.zeros((20, 20, 2), np.uint8))


def volume():
    Path("queries/v.nii.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (damage_query, [], ["queries/b.bmp", "restore"]),
        (nan_query, [], ["queries/n.tif", "81 values", "replace them"]),
        (two_channels, [], ["queries/t.npy", "2 channels", "takes 1"]),
        (volume, [], ["queries/v.nii.gz", "folder of its own"]),
        (unpaired, [], ["case_1.tif", "one name"]),
        (other_size, [], ["context/labels/case_1.png", "(9, 9)", "(64, 96)"]),
        (empty_context, [], ["context/images", "no picture"]),
        (empty_targets, [], ["context/labels/case_0.png", "no class"]),
        (coloured_target, [], ["context/labels/case_0.png", "colours"]),
        (jpeg_target, [], ["context/labels/case_0.jpg", "PNG"]),
        (None, ["--task", "x"], ["'x'", "boxes, denoising, segmentation"]),
        (None, ["--task", "os.path"], ["os.path", "--allow-class-path"]),
        (None, ["--task", "tasks.Nothing"], ["tasks.Nothing"]),
        (None, ["--weights", "nowhere"], ["nowhere"]),
        (None, ["--context", "queries"], ["queries/images", "does not exist"]),
        (None, ["--input", "nowhere.png"], ["nowhere.png"]),
        (None, ["--size-limit", "100"], ["limit of 100"]),
        (None, ["--size_limit", "100"], ["limit of 100"]),
        (None, ["--device", "toaster"], ["toaster"]),
        (None, ["--context-size", "0"], ["context_size"]),
        (None, ["--batch", "0"], ["batch"]),
        (None, ["--input", "queries/a.png", "--output", "out/a.jpg"], ["out/a.jpg", ".png"]),
        (None, ["--output", "queries/a.png/out"], ["queries/a.png is a file", "another output"]),
        (None, ["--output", "queries/a.png/out", "--dry-run"], ["queries/a.png is a file", "another output"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(folder, capsys, spoil, options, words):
    if spoil:
        spoil()
    said = error_of(capsys, *options)
    assert all(word in said for word in words), said
    assert written() == []


def test_files_that_belong_together_appear_together(tmp_path):
    good, bad = tmp_path / "a", tmp_path / "b"
    with pytest.raises(TypeError):
        write_whole({good: b"x", bad: None})
    assert list(tmp_path.iterdir()) == []


def test_choice_is_seeded_sorted_and_of_the_wanted_number():
    pairs = [PairFiles(f"{k:02}", Path("i"), Path("t")) for k in range(20)]
    assert choose(pairs, 3, "first") == pairs[:3]
    assert choose(pairs, 30) == pairs
    draws = [choose(pairs, 5, seed=seed) for seed in range(4)]
    for draw in draws:
        names = [pair.name for pair in draw]
        assert names == sorted({*names})
        assert len(names) == 5
    assert draws[0] == choose(pairs, 5, seed=0)
    assert any(draw != draws[0] for draw in draws)


def test_two_folders_make_a_context(folder):
    predict("--context", "context/images", "--targets", "context/labels", source="queries/a.png")
    assert "a.png" in written()


def test_folders_of_nnunet_are_a_context_and_name_the_classes(folder):
    Path("context/images").rename("imagesTr")
    Path("context/labels").rename("labelsTr")
    for path in Path("imagesTr").iterdir():
        path.rename(path.with_stem(f"{path.stem}_0000"))
    Path("dataset.json").write_text('{"labels": {"background": 0, "whole": [1, 2], "core": 2}}')
    predict("--context", "imagesTr", "--targets", "labelsTr", source="queries/a.png")
    facts = json.loads(Path("out/a.json").read_text())
    assert [entry["name"] for entry in facts["context"]] == ["case_0", "case_1"]
    assert facts["names"] == {str(k): "core" if k == 2 else f"class {k}" for k in map(int, facts["names"])}
    assert "2" in facts["names"]
    Path("imagesTr/case_0_0000.tif").rename("imagesTr/case_0_0001.tif")
    with pytest.raises(ValueError, match="without a partner"):
        find_pairs(Path("imagesTr"), Path("labelsTr"))
