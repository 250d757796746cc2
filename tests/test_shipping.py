"""Weights that an installation ships: small, complete, for everybody; found without being named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mvg import Predictor, hub, shipping
from mvg.cli import main
from mvg.models import CanvasViT, Medverse
from mvg.prediction.default_weights import weights_for
from mvg.shipping import check_terms, ship
from mvg.weights import describe, load, save, shipped
from mvg.weights_command import weights as command
from tasks import Segmentation

SOURCES = {"anatomies": {"licence": "CC0-1.0"}, "hippocampus": {"licence": "CC BY-SA 4.0"}}
VOLUMES = {"image_size": [32, 32, 32], "widths": [2, 2, 2, 2], "code": 12, "mini_context": 1}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SHIPPED", tmp_path / "pretrained")
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def trained(tmp_path, sources=SOURCES, metrics=None, kind="2d"):
    torch.manual_seed(0)
    made = CanvasViT([16, 16], width=16, depth=1, heads=1) if kind == "2d" else Medverse(**VOLUMES)
    known = {"val/score": 0.5} if metrics is None else metrics
    return save(tmp_path / "weights", made, {"segmentation": Segmentation()}, sources, known)


def test_installation_without_weights_says_so_in_a_sentence(place):
    with pytest.raises(FileNotFoundError, match="ships no weights of the kind 2d; name some with --weights"):
        shipped("2d")


@pytest.mark.parametrize("kind", hub.KINDS)
@pytest.mark.parametrize("half", [False, True])
def test_shipped_weights_are_found_and_are_those_of_the_run(place, tmp_path, kind, half):
    source = trained(tmp_path, kind=kind)
    command(["ship", str(source), "--kind", kind, *(["--half"] if half else [])])
    assert shipped(kind) == place / kind
    first, second = load(source).state_dict(), load(shipped(kind)).state_dict()
    for name, value in first.items():
        expected = value.half().float() if half and value.is_floating_point() else value
        assert torch.equal(second[name], expected)
    config = describe(shipped(kind))
    assert config["licence"] == "CC BY-SA 4.0"
    assert ("half" in config) == half
    assert not half or 0 <= config["half"]["mean"] <= config["half"]["largest"] <= 0.05
    card = (shipped(kind) / "README.md").read_text()
    assert all(text in card for text in ("hippocampus: CC BY-SA 4.0", "Name the sources", "val/score"))


def test_half_precision_halves_the_file(place, tmp_path):
    sizes = [(ship(trained(tmp_path), "2d", half=half) / "model.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
    ("facts", "fine"),
    [
        ({"licence": "CC BY"}, True),
        ({"licence": "CC BY 3.0"}, True),
        ({"licence": "Apache-2.0"}, True),
        ({"licence": "own words", "commercial": True}, True),
        ({"licence": "CC BY-NC-SA 4.0"}, False),
        ({"licence": "CC-BY-SA-NC"}, False),
        ({"licence": "CC BY-ND 4.0"}, False),
        ({"licence": "mostly CC BY"}, False),
        ({"licence": "CC BY 4.0", "commercial": False}, False),
        ({"licence": "MIT", "terms": "for members alone"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("where", ["sources", "inherited", "origin"])
def test_every_licence_must_let_everybody_use_the_weights(facts, fine, where):
    config = {"sources": SOURCES, where: facts if where == "origin" else {"other": facts}}
    if fine:
        check_terms(config)
    else:
        with pytest.raises(ValueError, match="does not let everybody use"):
            check_terms(config)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"sources": {}}, "2d", "state no sources"),
        ({"metrics": {}}, "2d", "state no metrics"),
        ({}, "3d", "the network takes"),
        ({"sources": {"chest": {"licence": "CC BY-NC-SA 4.0"}}}, "2d", "chest"),
    ],
)
def test_what_cannot_be_shipped_is_refused_and_nothing_is_written(place, tmp_path, changes, kind, text):
    with pytest.raises(ValueError, match=text):
        ship(trained(tmp_path, **changes), kind)
    assert not (place / kind).exists()


def test_size_is_limited(place, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "LIMIT", 1000)
    with pytest.raises(ValueError, match=r"may have 1,000 bytes.*--half"):
        ship(trained(tmp_path), "2d")
    assert not list(place.iterdir())


def test_numbers_too_large_for_half_precision_are_refused(place, tmp_path):
    source = trained(tmp_path)
    state = load_file(source / "model.safetensors")
    name = next(name for name in state if name.endswith("weight"))
    save_file({**state, name: state[name] * 1e7}, source / "model.safetensors")
    with pytest.raises(ValueError, match="half precision changes"):
        ship(source, "2d", half=True)


def test_description_holds_no_path(place, tmp_path):
    text = json.dumps(describe(ship(trained(tmp_path), "2d")))
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("kinds", "query", "expected"),
    [
        (("2d", "3d"), "a.png", "2d"),
        (("2d", "3d"), "a.nii.gz", "3d"),
        (("2d",), "a.nii.gz", "2d"),
        (("3d",), "a.png", None),
        ((), "a.nii.gz", None),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_weights_are_chosen_by_what_is_to_be_answered(place, tmp_path, kinds, query, expected, folder):
    for kind in kinds:
        ship(trained(tmp_path, kind=kind), kind)
    (tmp_path / "scans").mkdir()
    path = tmp_path / "scans" / query
    path.write_bytes(b"")
    asked = path.parent if folder else path
    if expected is None:
        with pytest.raises(FileNotFoundError, match="ships no weights of the kind 2d"):
            weights_for(asked)
    else:
        assert weights_for(asked) == place / expected


def test_prediction_without_weights_takes_those_of_the_installation(place, tmp_path):
    for name, value in (("a", 50), ("b", 200)):
        for part in ("images", "targets"):
            (tmp_path / "shown" / part).mkdir(parents=True, exist_ok=True)
            values = np.full((16, 16), value, np.uint8) if part == "images" else np.tri(16, dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "shown" / part / f"{name}.png")
    query = tmp_path / "shown" / "images" / "a.png"
    words = ["predict", "--context", str(tmp_path / "shown"), "--input", str(query), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(words)
    ship(trained(tmp_path), "2d")
    main(words)
    sidecar = json.loads((tmp_path / "out" / "a.json").read_text())
    assert sidecar
    named = Predictor.from_pretrained(str(place / "2d"))
    default = Predictor.from_pretrained()
    for predictor in (named, default):
        predictor.set_context([query], [tmp_path / "shown" / "targets" / "a.png"])
    assert np.array_equal(named(query).labels, default(query).labels)
