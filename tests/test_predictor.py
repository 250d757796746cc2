import json
import logging
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import tasks
from mvg import cli, outputs, weights
from mvg.cli import main
from mvg.context import PairFiles, choose
from mvg.data.geometry import resize
from mvg.models import CanvasViT
from mvg.models.base import InContextModel
from mvg.predictor import Predictor
from mvg.preview import colour_of
from mvg.rasters import Raster, encode, limits, read_raster, to_tensor, to_units

SIZE = (32, 32)


class Oracle(InContextModel):
    """Paints the target of the context image that is nearest to the query."""

    def __init__(self, in_channels=1, out_channels=1, image_size=SIZE):
        super().__init__()
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        self.scale = torch.nn.Parameter(torch.ones(1))

    def remember(self, context_images, context_targets):
        return context_images, context_targets

    def answer(self, image, memory, coarse=None):
        images, targets = memory
        nearest = (images - image[:, None]).square().flatten(2).sum(2).argmin(1)
        return targets[0, nearest] * self.scale

    def loss(self, episode):
        return {"loss": self.scale.sum()}


class Copy(Oracle):
    """Paints the query itself."""

    def answer(self, image, memory, coarse=None):
        return image[:, : self.out_channels] * self.scale


def blob(height, width, seed=0):
    """A smooth picture, 0 to 255, and a label map with the classes 1, 2 and 5 that is neither symmetric nor square."""
    rng = np.random.default_rng(seed)
    field = resize(torch.from_numpy(rng.random((1, 6, 7), dtype=np.float32)), (height, width))[0].numpy()
    labels = np.zeros((height, width), np.uint8)
    labels[: height // 3, : width // 2] = 1
    labels[height // 2 :, width // 4 : width // 2] = 2
    labels[height // 2 :, 3 * width // 4 :] = 5
    return (255 * field).astype(np.uint8), np.roll(labels, 2 * seed, 1)


def tiny():
    torch.manual_seed(0)
    return CanvasViT(image_size=SIZE, width=16, depth=1, heads=1).eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two examples of unlike shape, three queries, and the weights of an oracle; the working directory."""
    entry = EntryPoint("predict", "mvg.predict:predict", cli.GROUP)
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


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def written():
    return sorted(path.name for path in Path("out").glob("*")) if Path("out").exists() else []


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "task",
    [
        tasks.Segmentation(),
        tasks.Segmentation(scheme="random", channels=3),
        tasks.Segmentation(scheme="random", channels=3, max_classes=2),
        tasks.Segmentation(scheme="predefined", channels=3),
    ],
    ids=["binary", "random", "random in two passes", "predefined"],
)
@pytest.mark.parametrize("aspect", ["stretch", "pad"])
def test_labels_come_back_in_place_and_class(task, aspect):
    least = 0.93 if task.scheme == "binary" else 0.86  # colours between two others may be those of a third
    channels = task.channels
    predictor = Predictor(Oracle(3, channels, (64, 64)), task, aspect=aspect)
    images, labels = zip(blob(60, 47, 0), blob(64, 96, 1), strict=True)
    predictor.set_context(images, labels)
    for image, truth in zip(images, labels, strict=True):
        answer = predictor(image)
        assert answer.labels.shape == truth.shape
        assert answer.labels.dtype == np.uint8
        assert min(dice(answer.labels == k, truth == k) for k in (0, 1, 2, 5)) > least
        assert answer.areas == {k: int((answer.labels == k).sum()) for k in (1, 2, 5)}


def test_a_task_paints_given_targets_as_it_encodes_them():
    task, (_, labels) = tasks.Segmentation(scheme="random", channels=3), blob(32, 32)
    spec = task.pose([torch.from_numpy(labels).long()], np.random.default_rng(0))[0]
    painted = task.paint(torch.from_numpy(labels).long(), spec)
    assert torch.equal(task.decode(painted, spec).labels, torch.from_numpy(labels).long())
    assert torch.equal(task.claim(painted, spec) > 0, torch.from_numpy(labels) > 0)


def test_of_two_classes_the_one_painted_more_clearly_wins():
    class Graded(Oracle):
        def answer(self, image, memory, coarse=None):
            share = memory[1].mean()
            return torch.where(image > 0.5, 0.6 + share, 0.4 - share)

    predictor = Predictor(Graded(), tasks.Segmentation())
    labels = np.repeat(np.array([[3] * 8 + [7] * 24], np.uint8), 32, 0)
    predictor.set_context([np.zeros(SIZE, np.uint8)], [labels])
    query = np.full(SIZE, 255, np.uint8)
    query[:5] = 0
    found = predictor(query).labels
    assert (found[:5] == 0).all()
    assert (found[5:] == 7).all()


def test_classes_above_255_are_16_bit():
    predictor = Predictor(Oracle(), tasks.Segmentation())
    image, labels = blob(40, 50)
    predictor.set_context([image], [labels.astype(np.uint16) * 200])
    answer = predictor(image)
    assert answer.labels.dtype == np.uint16
    assert set(np.unique(answer.labels)) == {0, 200, 400, 1000}


def test_masks_of_255_are_class_1_and_the_log_says_so(caplog):
    image, labels = blob(40, 50)
    predictor = Predictor(Oracle(), tasks.Segmentation())
    with caplog.at_level(logging.INFO):
        predictor.set_context([image], [255 * (labels > 0).astype(np.uint8)])
    assert predictor.classes == [1]
    assert "255 is read as class 1" in caplog.text


def test_a_class_too_small_for_the_network_is_named(caplog):
    image, labels = blob(320, 320)
    labels[160, 161] = 9
    predictor = Predictor(Oracle(), tasks.Segmentation())
    predictor.set_context([image], [labels])
    assert predictor.classes == [1, 2, 5]
    assert "[9]" in caplog.text


def test_boxes_are_found_on_the_grid_of_the_query():
    image, mask = blob(64, 96)[0], np.zeros((64, 96), np.uint8)
    mask[10:30, 12:48] = 255
    predictor = Predictor(Oracle(), tasks.Detection())
    predictor.set_context([image], [mask])
    answer = predictor(image)
    assert np.abs(answer.boxes - [[10, 12, 30, 48]]).max() <= 2
    assert answer.labels.sum() == answer.areas[1] > 500


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_values_come_back_to_the_bit_in_their_own_units(kind):
    query = np.random.default_rng(0).integers(0, np.iinfo(kind).max, SIZE, dtype=kind, endpoint=True)
    predictor = Predictor(Copy(), tasks.Denoising())
    predictor.set_context([query], [query])
    answer = predictor(query)
    assert answer.image.dtype == kind
    assert np.array_equal(answer.image, query)


def test_values_come_back_at_another_size():
    query = np.outer(np.linspace(1000, 60000, 75), np.linspace(0.2, 1, 41)).astype(np.uint16)
    predictor = Predictor(Copy(image_size=(64, 64)), tasks.Inpainting())
    predictor.set_context([query], [query])
    assert np.abs(predictor(query).image.astype(float) - query)[2:-2, 2:-2].max() < 300


@pytest.mark.parametrize("task", [tasks.Denoising(), tasks.Inpainting(), tasks.Synthesis()])
def test_given_pairs_are_shown_as_they_are(task):
    rng = np.random.default_rng(0)
    degraded, clean = rng.integers(0, 256, (2, *SIZE), dtype=np.uint8)
    predictor = Predictor(Oracle(), task)
    predictor.set_context([degraded], [clean])
    assert np.array_equal(predictor(degraded).image, clean)
    assert torch.equal(predictor.passes[0].context_images[0, 0], torch.from_numpy(degraded) / 255)


def test_a_window_sets_the_units():
    query = np.linspace(-1000, 1000, 1024).reshape(SIZE).astype(np.int32)
    predictor = Predictor(Copy(), tasks.Synthesis(), window=(-200, 300))
    predictor.set_context([query], [query])
    assert np.array_equal(predictor(query).image, query.clip(-200, 300))


@pytest.mark.parametrize(("held", "taken"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_colour_and_grey_meet_the_channels_of_the_network(held, taken):
    values = np.random.default_rng(0).integers(0, 256, (held, *SIZE), dtype=np.uint8)
    image = to_tensor(Raster(values, "x"), (0, 255), taken)
    assert image.shape == (taken, *SIZE)
    grey = np.asarray(Image.fromarray(values[0] if held == 1 else np.moveaxis(values, 0, 2)).convert("L"))
    if taken == 1:
        assert np.abs(image[0].numpy() * 255 - grey).max() < 1
    else:
        assert torch.equal(image, torch.from_numpy(values).expand(3, *SIZE) / 255)


def test_colours_come_back_from_a_colour_network():
    query = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    predictor = Predictor(Copy(3, 3), tasks.Synthesis())
    predictor.set_context([query], [query])
    assert np.array_equal(predictor(query).image, query)


@pytest.mark.parametrize(("low", "high", "bounds"), [(0, 0.5, (0, 1)), (0, 700, None), (-1, 0.5, None)])
def test_floats_in_01_are_taken_as_they_are(low, high, bounds):
    raster = Raster(np.linspace(low, high, 1000, dtype=np.float32).reshape(1, 20, 50), "x")
    found = limits(raster)
    assert found == bounds if bounds else np.allclose(found, (low, high), atol=0.01 * (high - low))


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((suffix, kind) for suffix in (".png", ".tif", ".npy") for kind in (np.bool_, np.uint8, np.uint16)),
        *((suffix, kind) for suffix in (".tif", ".npy") for kind in (np.int32, np.float32)),
    ],
)
def test_files_hold_what_was_written(kind, suffix, tmp_path):
    values = (np.random.default_rng(0).random((1, 5, 7)) > 0.5).astype(kind) * kind(1)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(encode(to_units(torch.from_numpy(values.astype(np.float32)), (0, 1), np.dtype(kind)), suffix))
    assert np.array_equal(read_raster(path, labels=True).values, values)


def test_16_bit_colours_are_refused_as_pillow_would_halve_them(tmp_path):
    colours = sitk.GetImageFromArray(np.full((5, 7, 3), 40000, np.uint16), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "x.png"))
    with pytest.raises(ValueError, match="16-bit colours"):
        read_raster(tmp_path / "x.png")


def test_an_indexed_picture_is_indices_as_labels_and_colours_as_an_image(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "x.png")
    assert read_raster(tmp_path / "x.png", labels=True).values.tolist() == [[[0, 1], [2, 3]]]
    assert read_raster(tmp_path / "x.png").values[:, 0, 1].tolist() == [255, 0, 0]


# ---------------------------------------------------------------- equalities


def test_batch_equals_one_by_one_and_memory_equals_forward():
    predictor, seen = Predictor(tiny(), tasks.Denoising(), batch=2), [blob(40, 30, s)[0] for s in range(5)]
    predictor.set_context(seen[:2], seen[1:3])
    together = predictor.predict(seen)
    assert all(np.abs(predictor(x).image.astype(int) - y.image).max() <= 1 for x, y in zip(seen, together, strict=True))
    each, query = predictor.passes[0], torch.rand(2, 1, *SIZE)
    with torch.inference_mode():
        context = [values[None].expand(2, -1, -1, -1, -1) for values in (each.context_images, each.context_targets)]
        whole, kept = predictor.network(query, *context), predictor.network.answer(query, each.memory)
    assert torch.allclose(whole, kept, atol=1e-5)


def test_every_kind_of_source_is_one_image(tmp_path):
    image, labels = blob(40, 50)
    Image.fromarray(image).save(tmp_path / "x.png")
    predictor = Predictor(tiny(), tasks.Denoising())
    predictor.set_context([image], [labels])
    kinds = [image, torch.from_numpy(image), torch.from_numpy(image)[None], Image.fromarray(image), tmp_path / "x.png"]
    answers = [predictor(kind).image for kind in kinds]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_prediction_needs_a_context():
    with pytest.raises(ValueError, match="set_context"):
        Predictor(tiny(), tasks.Denoising())(blob(40, 50)[0])


def test_a_trained_folder_answers_in_a_few_lines(tmp_path):
    weights.save(tmp_path / "weights", tiny(), {"segmentation": tasks.Segmentation()})
    predictor = Predictor.from_pretrained(tmp_path / "weights")
    image, labels = blob(40, 50)
    predictor.set_context([image], [labels])
    assert predictor(image).labels.shape == image.shape


@pytest.mark.parametrize(("sources", "expected"), [({}, "stretch"), ({"a": {"aspect": "pad"}}, "pad")])
def test_images_are_brought_to_size_as_in_training(sources, expected, tmp_path):
    folder = weights.save(tmp_path / "weights", tiny(), {"segmentation": tasks.Segmentation()}, sources)
    assert Predictor.from_pretrained(folder).aspect == expected
    assert Predictor.from_pretrained(folder, aspect="crop").aspect == "crop"


# ---------------------------------------------------------------- command


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
    predict("--examples", "1", "--choice", "first", source="queries/a.png", output="out/named.png")
    facts = json.loads(Path("out/named.json").read_text())
    assert [entry["name"] for entry in facts["context"]] == ["case_0"]
    assert facts["weights"]["sha256"] == outputs.fingerprint(Path("weights/model.safetensors"))
    assert facts["context"][0]["target"]["sha256"] == outputs.fingerprint(Path("context/labels/case_0.png"))
    found = np.asarray(Image.open("out/named.png"))
    assert facts["areas"] == {str(k): int((found == k).sum()) for k in (1, 2, 5)}
    assert facts["task"]["class_path"] == "tasks.segmentation.Segmentation"
    assert len(facts["task"]["specs"]) == 3
    assert str(folder) not in json.dumps(facts)


def test_images_keep_their_kind_of_file(folder):
    Image.fromarray(blob(60, 47)[0].astype(np.uint16) * 200).save("queries/d.tif")
    predict(task="denoising", source="queries/d.tif")
    with Image.open("out/d.tif") as answer:
        assert (answer.size, np.asarray(answer).dtype) == ((47, 60), np.uint16)


def test_colours_that_no_picture_holds_are_refused_before_the_first_is_written(folder, capsys):
    weights.save("weights", Copy(3, 3), {"synthesis": tasks.Synthesis()})
    for path in Path("context/labels").iterdir():
        Image.open(path).convert("RGB").save(path)
    Image.fromarray(np.zeros(SIZE, np.uint16)).save("queries/z.tif")
    assert "out/z.tif: pictures cannot hold 3 channels of type uint16" in error_of(capsys, task="synthesis")
    assert written() == []


def test_a_class_path_is_a_task(folder):
    predict(task="tasks.Segmentation")
    assert "a.png" in written()


def test_preview_shows_the_classes_in_their_colours(folder):
    predict("--preview", source="queries/a.png")
    shown = np.asarray(Image.open("out/a.preview.png")).reshape(-1, 3)
    for number in (1, 2, 5):
        assert (np.abs(shown - 255 * np.array(colour_of(number))).max(1) < 2).sum() > 20


def test_outputs_are_replaced_only_if_asked_and_no_old_preview_stays(folder, capsys):
    predict("--preview", source="queries/a.png")
    before = Path("out/a.json").read_bytes()
    assert "out/a.png" in error_of(capsys)
    assert Path("out/a.json").read_bytes() == before
    assert not Path("out/b.png").exists()
    predict("--overwrite")
    assert len(written()) == 6
    assert Path("out/a.json").read_bytes() != before


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
        (volume, [], ["queries/v.nii.gz", "export its slices"]),
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
        (None, ["--examples", "0"], ["examples"]),
        (None, ["--batch", "0"], ["batch"]),
        (None, ["--input", "queries/a.png", "--output", "out/a.jpg"], ["out/a.jpg", ".png"]),
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
        outputs.write_whole({good: b"x", bad: None})
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
