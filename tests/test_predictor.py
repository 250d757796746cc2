import logging

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import tasks
from mvg import weights
from mvg.data.geometry import resize
from mvg.models import CanvasViT
from mvg.models.base import InContextModel
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import Raster, encode, limits, read_raster, to_tensor, to_units
from mvg.wording import counted

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


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


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


@pytest.mark.parametrize(("largest", "said"), [(4000, "`window` [0, 4095]"), (40000, "")])
def test_dark_pictures_of_16_bits_are_told(largest, said, caplog):
    picture = np.linspace(0, largest, 32 * 32).reshape(SIZE).astype(np.uint16)
    Predictor(Copy(), tasks.Denoising()).set_context([picture], [picture])
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


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


@pytest.mark.parametrize(("context", "query"), [(1, 3), (3, 1), (2, 1), (1, 2)])
def test_query_with_other_channels_than_the_context_is_refused(context, query):
    images = [np.random.default_rng(held).random((*SIZE, held)).astype(np.float32) for held in (context, query)]
    predictor = Predictor(Copy(max(context, query)), tasks.Segmentation())
    predictor.set_context(images[:1], [np.ones(SIZE, np.uint8)])
    message = f"image 0: it has {counted(query, 'channel')}, but the context images have {context}"
    with pytest.raises(ValueError, match=message):
        predictor(images[1])


@pytest.mark.parametrize("device", ["abacus", "meta", "cpu0", "cuda:99"])
def test_device_that_is_not_here_is_refused(device):
    with pytest.raises(ValueError, match=device):
        Predictor(tiny(), tasks.Segmentation(), device=device)


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
