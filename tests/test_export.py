"""Networks as programs: the file paints what the network does."""

import json

import pytest
import torch
from test_canvas_vit import PRESETS, make
from test_peers import make as make_peer

from mvg.cli import main
from mvg.export import INPUTS, example, export_file
from mvg.models import CanvasViT
from mvg.weights import save

NETWORKS = {
    "joined": lambda: make("joined", depth=2, merge=1),
    "paper": lambda: make("paper", depth=1),
    "codes": lambda: make("codes", depth=1),
    "seggpt": lambda: make_peer("seggpt", depth=1, merge=1),
    "universeg": lambda: make_peer("universeg", depth=2),
}


@pytest.fixture
def folder(tmp_path):
    return lambda name: save(tmp_path / "weights", NETWORKS[name](), sources={"a": {"licence": "CC-BY-4.0"}})


def others(network, context, batch):
    """Other values than those that the program was made with."""
    return tuple(1 - values for values in example(network, context, batch))


@pytest.mark.parametrize("name", ["joined", "codes", "seggpt", "universeg"])
def test_onnx_program_paints_the_same(name, folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    main(["export", "--weights", str(folder(name)), "--output", str(tmp_path / "a.onnx"), "--context-size", "2"])
    network = NETWORKS[name]()
    inputs = others(network, 2, 1)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (painted,) = session.run(None, {key: value.numpy() for key, value in zip(INPUTS, inputs, strict=True)})
    with torch.no_grad():
        assert (torch.from_numpy(painted) - network(*inputs)).abs().max() < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json", "weights"]


@pytest.mark.parametrize("name", ["paper", "universeg"])
def test_torch_program_paints_the_same(name, folder, tmp_path):
    export_file(folder(name), tmp_path / "a.pt2", context_size=3, batch=2)
    network = NETWORKS[name]()
    inputs = others(network, 3, 2)
    with torch.no_grad():
        painted = torch.export.load(tmp_path / "a.pt2").module()(*inputs)
        assert (painted - network(*inputs)).abs().max() < 1e-4


def test_description_names_shapes_and_terms(folder, tmp_path):
    export_file(folder("paper"), tmp_path / "a.pt2", context_size=2)
    about = json.loads((tmp_path / "a.pt2.json").read_text())
    assert about["inputs"]["context_images"] == [1, 2, 1, 16, 16]
    assert about["outputs"] == {"painted": [1, 1, 16, 16]}
    assert about["sources"] == {"a": {"licence": "CC-BY-4.0"}}
    assert str(tmp_path) not in json.dumps(about)


class TestRefusals:
    @pytest.mark.parametrize(
        ("output", "options", "said"),
        [
            ("a.txt", {}, "neither in .onnx nor in .pt2"),
            ("a.pt2", {"context_size": 0}, "`context_size` must be at least 1, got 0"),
            ("a.pt2", {"batch": 0}, "`batch` must be at least 1, got 0"),
            ("there.pt2", {}, "exists; name another file, or add --overwrite"),
        ],
    )
    def test_options_are_checked(self, output, options, said, folder, tmp_path):
        (tmp_path / "there.pt2").touch()
        with pytest.raises(ValueError, match=said):
            export_file(folder("paper"), tmp_path / output, **options)

    def test_networks_for_volumes_are_refused(self, tmp_path):
        weights = save(tmp_path / "weights", CanvasViT(**PRESETS["codes 3D"]))
        with pytest.raises(ValueError, match="2D networks alone"):
            export_file(weights, tmp_path / "a.pt2")

    def test_a_program_that_differs_is_not_written(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("mvg.export.write_torch", lambda *_: float("nan"))
        with pytest.raises(ValueError, match="nothing was written"):
            export_file(folder("paper"), tmp_path / "a.pt2")
        assert [path.name for path in tmp_path.iterdir()] == ["weights"]
