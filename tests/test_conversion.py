"""Weights of other code: names, shapes, safety; and outputs against that code, where checkouts of it are named."""

import argparse
import importlib
import os
import sys
import types
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_medverse_import import public_state
from torch import nn

import mvg
from mvg.cli import main
from mvg.configuration import from_config, to_config
from mvg.conversion import FORMATS, convert, fingerprint
from mvg.models import CanvasViT, SegGPT, UniverSeg, ViTEncoder
from mvg.models.initialise import initialise
from mvg.saving import SaveWeights
from mvg.weights import MODEL, build, describe, load, save
from tasks import Segmentation

ROOT = Path(__file__).parents[1]


def block(width):
    shapes = {f"norm{k}.{part}": (width,) for k in (1, 2) for part in ("weight", "bias")}
    shapes |= {"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,)}
    shapes |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,), "mlp.fc1.weight": (4 * width, width)}
    return shapes | {"mlp.fc1.bias": (4 * width,), "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,)}


def painter(width=16, depth=4, heads=2, patch=4, canvas=(8, 4), inner=8, side=3, kinds=()):
    """Names and shapes of the public MVG and Painter networks; SegGPT has two more tokens."""
    tokens = ["mask_token", "segment_token_x", "segment_token_y", *kinds]
    shapes = {name: (1, 1, 1, width) for name in tokens} | {"pos_embed": (1, side**2 + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"decoder_embed.weight": (inner * patch**2, 4 * width), "decoder_embed.bias": (inner * patch**2,)}
    shapes |= {"decoder_pred.0.weight": (inner, inner, 3, 3), "decoder_pred.0.bias": (inner,)}
    shapes |= {"decoder_pred.1.weight": (inner,), "decoder_pred.1.bias": (inner,)}
    shapes |= {"decoder_pred.3.weight": (3, inner, 1, 1), "decoder_pred.3.bias": (3,)}
    tables = {f"attn.rel_pos_{name}": (2 * n - 1, width // heads) for name, n in zip("hw", canvas, strict=True)}
    for number in range(depth):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in (block(width) | tables).items()}
    return shapes


def universeg(width=8, depth=3):
    shapes = {"out_conv.conv.weight": (1, width, 1, 1), "out_conv.conv.bias": (1,)}
    for kind, number, inputs in [("enc", 0, 3), *[("enc", i, 2 * width) for i in range(1, depth)]] + [
        ("dec", i, 4 * width) for i in range(depth - 1)
    ]:
        parts = {"cross.cross_conv": inputs, "target.vmapped.conv": width, "support.vmapped.conv": width}
        for part, channels in parts.items():
            shapes[f"{kind}_blocks.{number}.{part}.weight"] = (width, channels, 3, 3)
            shapes[f"{kind}_blocks.{number}.{part}.bias"] = (width,)
    return shapes


def mae(width=64, depth=2, patch=4, side=4, decoder=False):
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, side**2 + 1, width), "norm.weight": (width,)}
    shapes |= {"norm.bias": (width,), "patch_embed.proj.weight": (width, 3, patch, patch)}
    shapes |= {"patch_embed.proj.bias": (width,)}
    for number in range(depth):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block(width).items()}
    return shapes | ({"mask_token": (1, 1, 8), "decoder_embed.weight": (8, width)} if decoder else {})


TYPES = ("type_token_cls", "type_token_ins")
PUBLIC = {
    "mae": mae,
    "mvg": painter,
    "painter": painter,
    "seggpt": partial(painter, kinds=TYPES),
    "universeg": universeg,
}
CLASSES = {"mae": ViTEncoder, "mvg": CanvasViT, "painter": CanvasViT, "seggpt": SegGPT, "universeg": UniverSeg}
UNUSED = {"universeg": ["dec_blocks.1.support.vmapped.conv.weight", "dec_blocks.1.support.vmapped.conv.bias"]}
formats = pytest.mark.parametrize("name", PUBLIC)


def fill(shapes, scale=0.1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng) for name, shape in shapes.items()}


@pytest.fixture
def written(tmp_path):
    def write(state, name="weights.pth"):
        save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
        return tmp_path / name

    return write


class TestConvert:
    @formats
    def test_every_published_tensor_arrives(self, name, written, tmp_path):
        state = fill(PUBLIC[name]())
        folder = convert(written({"model": state, "epoch": 3}), tmp_path / "out", name)
        kept = torch.cat([value.flatten() for value in mvg.weights.read(folder).values()])
        for key, value in state.items():
            assert torch.isin(value.flatten(), kept).all() == (key not in UNUSED.get(name, [])), key

    @formats
    def test_folder_opens_as_its_network(self, name, written, tmp_path):
        folder = convert(written(fill(PUBLIC[name]()), "a.safetensors"), tmp_path / "out", name)
        if name == "mae":
            with pytest.raises(ValueError, match=r"no network, but a ViTEncoder; start another.*--model.pretrained"):
                load(folder)
            return
        network = load(folder)
        assert type(network) is CLASSES[name]
        channels, side = network.in_channels, network.image_size
        image, context = torch.rand(2, channels, *side), torch.rand(2, 3, channels, *side)
        with torch.inference_mode():
            assert torch.isfinite(network(image, context, context)).all()

    @formats
    def test_origin_and_terms_are_on_the_card(self, name, written, tmp_path):
        file = written(fill(PUBLIC[name]()))
        folder = convert(file, tmp_path / "out", name, sha256=fingerprint(file).upper())
        origin = describe(folder)["origin"]
        assert origin["licence"] == FORMATS[name].licence
        assert origin["sha256"] == fingerprint(file)
        card = (folder / "README.md").read_text()
        assert all(str(value) in card for value in origin.values())
        assert str(tmp_path) not in card + (folder / "config.json").read_text()

    @pytest.mark.parametrize("name", ["painter", "mvg", "seggpt"])
    def test_full_size_is_the_shipped_configuration(self, name):
        sizes = {"width": 1024, "depth": 24, "heads": 16, "patch": 16, "canvas": (56, 28), "inner": 64, "side": 14}
        state = {key: torch.empty(shape, device="meta") for key, shape in PUBLIC[name](**sizes).items()}
        config, converted = FORMATS[name].convert(state)
        file = ROOT / "configs/network" / {"mvg": "mvg_released.yaml"}.get(name, f"{name}.yaml")
        with torch.device("meta"):
            shipped, made = build(file), from_config(config)
        assert to_config(shipped) == to_config(made)
        assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in converted.items()}

    def test_universeg_of_full_size_is_the_shipped_configuration(self):
        config, _ = FORMATS["universeg"].convert(fill(universeg(width=64, depth=4)))
        shipped = build(ROOT / "configs/network/universeg.yaml")
        assert to_config(shipped) == to_config(from_config(config))
        with_unread = sum(p.numel() for p in shipped.parameters()) + 64 * 64 * 9 + 64
        assert with_unread == 1_182_785

    def test_encoder_starts_a_network(self, written, tmp_path):
        state = fill(mae(decoder=True))
        folder = convert(written({"model": state}), tmp_path / "out", "mae")
        network = CanvasViT((16, 16), width=64, depth=2, heads=1, absolute=4)
        initialise(network, str(folder))
        assert all(torch.equal(network.state_dict()[key], state[key]) for key in state if key.startswith("blocks."))
        assert torch.equal(network.absolute, state["pos_embed"])

    def test_what_starts_from_an_encoder_inherits_its_terms(self, written, tmp_path):
        folder, saver = convert(written(fill(mae())), tmp_path / "out", "mae"), SaveWeights()
        saver.on_fit_start(types.SimpleNamespace(is_global_zero=False), types.SimpleNamespace(pretrained=str(folder)))
        assert saver.inherited == {FORMATS["mae"].origin: {"licence": "CC-BY-NC-4.0", "commercial": False}}

    def test_half_precision_and_wrapped_names_are_understood(self, written, tmp_path):
        state = {f"module.{key}": value.half() for key, value in fill(universeg()).items()}
        network = load(convert(written({"state_dict": state}), tmp_path / "out", "universeg"))
        assert {value.dtype for value in network.state_dict().values()} == {torch.float32}

    @pytest.mark.parametrize("name", ["medverse", "neuroverse3d"])
    def test_networks_for_volumes_are_converted(self, name, written, tmp_path):
        folder = convert(written({"state_dict": public_state(name, "net.")}, "a.ckpt"), tmp_path / "out", name)
        assert load(folder).image_size == (128, 128, 128)
        assert describe(folder)["origin"]["format"] == name

    def test_options_of_a_training_script_do_no_harm(self, written, tmp_path):
        checkpoint = {"model": fill(universeg()), "args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {}}}
        assert load(convert(written(checkpoint), tmp_path / "out", "universeg"))


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestRefusals:
    @formats
    def test_missing_extra_and_misshaped_keys_are_named(self, name, written, tmp_path):
        state = fill(PUBLIC[name]())
        *_, gone, odd = [key for key in state if key.endswith("bias")]
        state["visitor.weight"], state[odd] = torch.zeros(1), torch.zeros(5)
        del state[gone]
        with pytest.raises(ValueError, match="do not fit the format") as caught:
            convert(written(state), tmp_path / "out", name)
        said = str(caught.value)
        assert f"lack {gone}" in said
        assert "hold visitor.weight" in said
        assert f"{odd} (5,) instead of {tuple(PUBLIC[name]()[odd])}" in said
        assert not (tmp_path / "out").exists()

    @formats
    def test_other_formats_are_refused(self, name, written, tmp_path):
        same = {"mvg", "painter"}
        for other in PUBLIC:
            if other != name and {name, other} != same:
                with pytest.raises(ValueError, match=r"lack|hold|shape|axes"):
                    convert(written(fill(PUBLIC[other]())), tmp_path / "out", name)

    def test_pickled_code_is_not_run(self, written, tmp_path):
        file = written({"model": fill(universeg()), "extra": Touch(tmp_path / "touched")})
        with pytest.raises(ValueError, match="holds more than weights, which is not run"):
            convert(file, tmp_path / "out", "universeg")
        assert not (tmp_path / "touched").exists()

    def test_other_hash_is_refused(self, written, tmp_path):
        with pytest.raises(ValueError, match=r"weights.pth hashes to [0-9a-f]{64}, not to 00"):
            convert(written(fill(universeg())), tmp_path / "out", "universeg", sha256="00")

    def test_values_that_are_not_finite_are_named(self, written, tmp_path):
        state = fill(universeg())
        state["out_conv.conv.bias"][0] = float("nan")
        with pytest.raises(ValueError, match=r"out_conv.conv.bias holds values that are not finite"):
            convert(written(state), tmp_path / "out", "universeg")

    def test_tensor_larger_than_its_file_is_refused(self, written, tmp_path):
        state = fill(universeg()) | {"out_conv.conv.bias": torch.zeros(1).expand(10**9)}
        with pytest.raises(ValueError, match="stores fewer"):
            convert(written(state), tmp_path / "out", "universeg")

    def test_compressed_archive_is_refused(self, written, tmp_path):
        with (
            zipfile.ZipFile(written(fill(universeg()))) as plain,
            zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for entry in plain.namelist():
                packed.writestr(entry, plain.read(entry))
        with pytest.raises(ValueError, match="compressed archive"):
            convert(tmp_path / "bomb.pth", tmp_path / "out", "universeg")

    @pytest.mark.parametrize("content", [{}, {"model": {}}, {"lr": 0.1}, [1, 2]])
    def test_what_is_no_state_dictionary_is_refused(self, content, written, tmp_path):
        with pytest.raises(ValueError, match=r"no tensors|more than tensors: lr|not a state dictionary"):
            convert(written(content), tmp_path / "out", "universeg")

    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
    def test_damaged_file_is_named(self, name, written, tmp_path):
        file = written(fill(universeg()), name)
        file.write_bytes(file.read_bytes()[:-900])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            convert(file, tmp_path / "out", "universeg")

    def test_missing_file_and_unknown_format_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing.pth; download"):
            convert("nothing.pth", tmp_path / "out", "universeg")
        with pytest.raises(ValueError, match="mae, medverse, mvg, neuroverse3d, painter, seggpt, universeg"):
            convert("nothing.pth", tmp_path / "out", "other")


def checkout(variable):
    root = os.environ.get(variable)
    if not root:
        pytest.skip(f"set {variable} to a checkout of the public code")
    return root


@pytest.fixture
def public(monkeypatch):
    """Imports a module of a checkout, without what it imports but does not need, and forgets it afterwards."""
    before = set(sys.modules)

    def bring(variable, folder, module):
        monkeypatch.syspath_prepend(os.path.join(checkout(variable), folder))
        absent = types.SimpleNamespace(CNNBlockBase=nn.Module, Conv2d=nn.Conv2d, get_norm=None, checkpoint_wrapper=None)
        for name in ("fvcore", "fvcore.nn", "fvcore.nn.weight_init", "detectron2.layers", "fairscale.nn.checkpoint"):
            monkeypatch.setitem(sys.modules, name, absent)
        absent.nn = absent.weight_init = absent
        for name in ("detectron2", "fairscale", "fairscale.nn"):
            monkeypatch.setitem(sys.modules, name, absent)
        return importlib.import_module(module)

    yield bring
    for name in set(sys.modules) - before:
        if name.split(".")[0] in (
            "models_mvg",
            "models_painter",
            "models_seggpt",
            "models_mae",
            "util",
            "utils",
            "universeg",
        ):
            del sys.modules[name]


def stir(network, scale=0.05):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return network.eval()


def normalise(values):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (values - mean.view(3, 1, 1)) / std.view(3, 1, 1)


SIZES = {"img_size": (64, 32), "patch_size": 8, "embed_dim": 32, "depth": 24, "num_heads": 2, "decoder_embed_dim": 8}
SIZES |= {"norm_layer": partial(nn.LayerNorm, eps=1e-6), "use_rel_pos": True, "pretrain_img_size": 24}


def stacks(images, targets, query):
    """The two canvases of the public code, each example above the query, and the mask over the lower half."""
    upper = [torch.cat([part, query.expand_as(part)], -2) for part in images]
    below = [torch.cat([part, part], -2) for part in targets]
    mask = torch.zeros(1, 8, 4)
    mask[:, 4:] = 1
    return normalise(torch.stack(upper)), normalise(torch.stack(below)), mask.flatten(1).bool()


def compare(network, paint, context=1):
    """Largest difference of ours to the public output, which is in normalised units."""
    torch.manual_seed(1)
    query, images, targets = torch.rand(3, 32, 32), torch.rand(context, 3, 32, 32), torch.rand(context, 3, 32, 32)
    with torch.no_grad():
        theirs = paint(*stacks(images, targets, query))[0, :, 32:]
        ours = normalise(network(query[None], images[None], targets[None])[0])
    assert theirs.std() > 0.01
    return (theirs - ours).abs().max()


class TestAgainstPublicCode:
    @pytest.mark.parametrize(
        ("variable", "folder", "module", "kind", "name"),
        [
            ("MVG_REFERENCE", "", "models_mvg", "MVG", "mvg"),
            ("PAINTER_REFERENCE", "Painter", "models_painter", "Painter", "painter"),
        ],
    )
    def test_mvg_and_painter(self, public, variable, folder, module, kind, name, written, tmp_path):
        theirs = stir(getattr(public(variable, folder, module), kind)(**SIZES))
        network = load(convert(written(theirs.state_dict()), tmp_path / "out", name))
        assert compare(network, lambda *inputs: theirs.forward_decoder(theirs.forward_encoder(*inputs))) < 1e-4

    @pytest.mark.parametrize("context", [1, 3])
    @pytest.mark.parametrize("kind", ["semantic", "instance"])
    def test_seggpt(self, public, kind, context, written, tmp_path):
        module = public("PAINTER_REFERENCE", "SegGPT/SegGPT_inference", "models_seggpt")
        theirs = stir(module.SegGPT(**SIZES))
        config = load(convert(written(theirs.state_dict()), tmp_path / "out", "seggpt"))
        network = SegGPT(**{**config.init_args, "kind": kind}).eval()
        network.load_state_dict(config.state_dict())

        def paint(images, targets, mask):
            chosen = torch.full((context, 1), float(kind == "instance"))
            seen = theirs.forward_encoder(images, targets, mask.expand(context, -1), chosen, 0 if context > 1 else -1)
            return theirs.forward_decoder(seen)

        assert compare(network, paint, context) < 1e-4

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("chunk", [0, 2])
    def test_universeg(self, public, chunk, written, tmp_path):
        pytest.importorskip("einops")
        theirs = stir(public("UNIVERSEG_REFERENCE", "", "universeg").UniverSeg(encoder_blocks=[8, 8, 8]))
        loaded = load(convert(written(theirs.state_dict()), tmp_path / "out", "universeg"))
        network = UniverSeg(**{**loaded.init_args, "image_size": (32, 24), "chunk": chunk})
        network.load_state_dict(loaded.state_dict())
        image, context, targets = torch.rand(2, 1, 32, 24), torch.rand(2, 5, 1, 32, 24), torch.rand(2, 5, 1, 32, 24)
        with torch.no_grad():
            expected = theirs(image, context, targets)
            found = network.logits(image, network.remember(context, targets))
        assert expected.std() > 0.01
        assert (expected - found).abs().max() < 1e-4

    def test_mae_features(self, public, monkeypatch, written, tmp_path):
        import numpy as np

        monkeypatch.setattr(np, "float", float, raising=False)
        module = public("MAE_REFERENCE", "", "models_mae")
        plain = module.Block
        monkeypatch.setattr(module, "Block", lambda *a, qk_scale=None, **options: plain(*a, **options))
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2}
        norm = partial(nn.LayerNorm, eps=1e-6)
        theirs = stir(module.MaskedAutoencoderViT(**sizes, decoder_depth=1, norm_layer=norm))
        folder = convert(written({"model": theirs.state_dict()}), tmp_path / "out", "mae")
        encoder = from_config(describe(folder)["network"])
        encoder.load_state_dict(mvg.weights.read(folder))
        image = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            shuffled, _, order = theirs.forward_encoder(image, 0.0)
            found = encoder(image)
        restored = shuffled[:, 1:].gather(1, order[..., None].expand(-1, -1, 128))
        assert (restored - found[:, 1:]).abs().max() < 1e-4
        assert (shuffled[:, 0] - found[:, 0]).abs().max() < 1e-4


class TestCommand:
    def test_converted_weights_show_what_they_are(self, written, tmp_path, capsys):
        file, folder = written(fill(universeg())), tmp_path / "out"
        main(["weights", "convert", str(file), str(folder), "--format", "universeg", "--sha256", fingerprint(file)])
        main(["weights", "show", str(folder)])
        shown = capsys.readouterr().out
        count = sum(parameter.numel() for parameter in load(folder).parameters())
        assert f"parameters  {count:,}" in shown
        assert all(text in shown for text in ("OpenRAIL++-M", "128x128", "1 in, 1 out", fingerprint(folder / MODEL)))

    def test_trained_weights_show_sources_tasks_and_metrics(self, tmp_path, capsys):
        sources = {"abdomen": {"licence": "CC-BY-4.0", "modality": "CT"}}
        network = from_config(FORMATS["universeg"].convert(fill(universeg()))[0])
        save(tmp_path / "a", network, {"organs": Segmentation()}, sources, {"val/score": 0.5})
        main(["weights", "show", str(tmp_path / "a")])
        shown = capsys.readouterr().out
        texts = ("organs: tasks.segmentation.Segmentation", "abdomen: licence CC-BY-4.0, CT", "val/score: 0.5000")
        assert all(text in shown for text in texts)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["convert", "{file}", "{there}", "--format", "universeg"], "add --overwrite to replace it"),
            (["convert", "{file}", "{new}", "--format", "other"], "invalid choice: 'other'"),
            (["convert", "{new}", "{new}", "--format", "mae"], "download the weights first"),
            (["show", "{new}"], "no config.json"),
        ],
    )
    def test_what_can_be_mended_is_one_sentence(self, words, said, written, tmp_path, capsys):
        places = {"file": written(fill(universeg())), "there": tmp_path, "new": tmp_path / "new"}
        with pytest.raises(SystemExit) as stopped:
            main(["weights", *(word.format(**places) for word in words)])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
