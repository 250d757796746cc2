"""Files to try `mvg predict` on."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from mvg import weights
from mvg.cli import main
from mvg.models import CanvasViT
from tasks import Denoising, Registration, Segmentation, SkullStripping


@pytest.fixture
def net(tmp_path):
    network = CanvasViT([16, 16], width=16, depth=1, heads=1)
    tasks = {
        "segmentation": Segmentation(),
        "denoising": Denoising(),
        "moving": Registration(),
        "skull": SkullStripping(),
    }
    return str(weights.save(tmp_path / "net", network, tasks))


def make(folder, *words):
    main(["example", "--output", str(folder), *map(str, words)])
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", ["segmentation", "denoising"])
def test_the_example_is_answered_by_the_command_that_it_names(tmp_path, net, task, capsys):
    folder = tmp_path / "demo"
    names = make(folder, "--weights", net, "--task", task, "--size", "[32,32]", "--examples", 2, "--scans", 1)
    pairs = {f"context/{kind}/{number:02d}.png" for kind in ("images", "targets") for number in range(2)}
    assert names == pairs | {"scans/02.png", "truth/02.png"}
    main(["predict", "--weights", net, "--task", task, "--context", str(folder / "context"),
          "--input", str(folder / "scans"), "--output", str(folder / "answers")])  # fmt: skip
    assert Image.open(folder / "answers" / "02.png").size == (32, 32)


def test_every_number_is_another_anatomy_and_each_is_always_the_same(tmp_path, net):
    words = ("--weights", net, "--size", "[32,32]", "--examples", 1, "--scans", 1)
    images = []
    for number, anatomy in enumerate((0, 0, 1)):
        make(tmp_path / str(number), *words, "--anatomy", anatomy)
        images.append(np.asarray(Image.open(tmp_path / str(number) / "scans" / "01.png")))
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_volumes_hold_labels_as_numbers(tmp_path, net):
    folder = tmp_path / "demo"
    make(folder, "--weights", net, "--kind", "3d", "--size", "[16,20,24]", "--examples", 1, "--scans", 1)
    image = nibabel.load(folder / "context" / "images" / "00.nii.gz")
    labels = np.asarray(nibabel.load(folder / "context" / "targets" / "00.nii.gz").dataobj)
    assert image.shape == labels.shape == (24, 20, 16)
    assert labels.dtype == np.uint8
    assert labels.max() >= 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--task", "nothing"], "know no task 'nothing'; they know segmentation"),
        (["--task", "skull"], "nothing to ask this task of"),
        (["--task", "moving"], "asks for more"),
        (["--kind", "4d"], "must be one of 2d, 3d"),
        (["--size", "[32,32,32]"], "must be 2 numbers"),
        (["--scans", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_sentence_and_nothing_is_written(tmp_path, net, words, text, capsys):
    with pytest.raises(SystemExit):
        make(tmp_path / "demo", "--weights", net, *words)
    assert text in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_volumes_are_asked_what_the_weights_for_volumes_know(tmp_path):
    names = make(tmp_path / "demo", "--kind", "3d", "--task", "resolution", "--size", "[16,16,16]", "--examples", 1)
    assert "context/targets/00.nii.gz" in names


def test_a_folder_is_never_replaced(tmp_path, net, capsys):
    (tmp_path / "demo").mkdir()
    with pytest.raises(SystemExit):
        make(tmp_path / "demo", "--weights", net)
    assert "exists; name a new folder" in capsys.readouterr().err


def read(path):
    return np.asarray(Image.open(path) if path.suffix == ".png" else nibabel.load(path).dataobj)


def dice(found, truth):
    classes = np.unique(truth)[1:]
    return np.mean(
        [2 * ((found == k) & (truth == k)).sum() / ((found == k).sum() + (truth == k).sum()) for k in classes]
    )


@pytest.mark.parametrize(("kind", "size", "anatomy"), [("2d", "[96,96]", 0), ("3d", "[32,32,32]", 2)])
def test_shipped_weights_answer_an_unseen_anatomy_better_than_copying(tmp_path, kind, size, anatomy):
    folder = tmp_path / "demo"
    make(folder, "--kind", kind, "--size", size, "--anatomy", anatomy, "--scans", 2)
    main(["predict", "--task", "segmentation", "--context", str(folder / "context"), "--input", str(folder / "scans"),
          "--output", str(folder / "answers")])  # fmt: skip
    copied = read(min((folder / "context" / "targets").iterdir()))
    for path in (folder / "truth").iterdir():
        truth = read(path)
        assert dice(read(folder / "answers" / path.name), truth) > dice(copied, truth) + 0.1
