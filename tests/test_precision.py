"""Answers in bfloat16."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_medverse import make

from mvg import Predictor, ScalePredictor, weights
from mvg.cli import main
from mvg.models import CanvasViT, ConvStem, UNetDecoder, UniverSeg
from mvg.prediction.precision import in_precision
from mvg.prediction.retrieval import NetworkLook
from tasks import Denoising, Segmentation


def canvas(size=(16, 16)):
    torch.manual_seed(0)
    return CanvasViT(size, width=32, depth=1, heads=2, stem=ConvStem([16, 32]), decoder=UNetDecoder()).eval()


def medverse():
    torch.manual_seed(0)
    return make(size=(16, 16, 16)).eval()


@pytest.mark.parametrize("build", [canvas, medverse])
@torch.inference_mode()
def test_weights_that_are_rounded_once_answer_as_those_that_autocast_rounds(build):
    network = build()
    images = torch.rand(2, 3, 1, *network.image_size)
    with torch.autocast("cpu", torch.bfloat16):
        expected = network(images[:, 0], images, images).float()
    low = in_precision(network, "bf16")
    assert torch.equal(low(images[:, 0], images, images), expected)
    (after,) = low.answer_after(images[:, 0], images, images, [(3, None)])
    torch.testing.assert_close(after, expected, rtol=0.02, atol=0.02)
    assert after.dtype == torch.float32
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_single_precision_is_the_network_itself():
    network = canvas()
    assert in_precision(network, "32") is network


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="must be 32 or bf16, got '8'"):
        in_precision(canvas(), "8")


def test_rounded_weights_are_not_trained():
    with pytest.raises(ValueError, match="cannot be trained"):
        in_precision(canvas(), "bf16").loss(None)


def test_features_and_chunks_are_those_of_the_network():
    image = torch.rand(1, 16, 16)
    exact, close = (NetworkLook(in_precision(canvas(), precision))(image) for precision in ("32", "bf16"))
    assert float(exact @ close) > 0.99
    low = in_precision(UniverSeg([16, 16]), "bf16")
    low.chunk = 1
    assert low.network.chunk == low.chunk == 1
    assert in_precision(canvas(), "bf16").chunk is None


def test_pictures_are_answered_alike_in_both_precisions():
    images = [np.random.default_rng(k).random((16, 16), dtype=np.float32) for k in range(3)]
    answers = []
    for precision in ("32", "bf16"):
        predictor = Predictor(canvas(), Denoising(), window=(0, 1), precision=precision)
        predictor.set_context(images[:2], images[:2])
        answers.append(predictor(images[2]).image)
    assert not np.array_equal(*answers)
    assert np.allclose(*answers, atol=0.05)


def test_volumes_are_answered_alike_in_both_precisions():
    volumes = [np.random.default_rng(k).random((20, 16, 16), dtype=np.float32) for k in range(3)]
    answers = []
    for precision in ("32", "bf16"):
        predictor = ScalePredictor(canvas((16, 16, 16)), Denoising(), precision=precision)
        predictor.set_context(volumes[:2], volumes[:2])
        answers.append(predictor(volumes[2]).image)
    assert not np.array_equal(*answers)
    assert np.allclose(*answers, atol=0.05)


def test_the_description_of_an_answer_names_the_precision(tmp_path):
    net = weights.save(tmp_path / "net", canvas(), {"segmentation": Segmentation()})
    for name in ("context/images/a.png", "context/targets/a.png", "b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / name)
    words = ["--weights", str(net), "--context", str(tmp_path / "context"), "--input", str(tmp_path / "b.png")]
    main(["predict", *words, "--output", str(tmp_path / "c.png"), "--precision", "bf16"])
    assert json.loads((tmp_path / "c.json").read_text())["precision"] == "bf16"
    main(["predict", *words, "--output", str(tmp_path / "d.png"), "--precision", "bf16", "--dry-run"])
