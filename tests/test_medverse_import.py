"""Released weights of Medverse and Neuroverse3D: names, shapes, and outputs against plain re-implementations."""

import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mvg import conversion, weights
from mvg.episode import Pair
from mvg.models.blockwise import sincos_position
from mvg.models.medverse_import import convert, from_medverse, from_neuroverse3d
from mvg.weights import build

WIDTHS, BLOCKS, CODE = (3, 4, 6), 2, 12
KINDS = ["medverse", "neuroverse3d"]


def public_shapes(medverse, widths=WIDTHS):
    """Names and shapes of the tensors of a checkpoint, without biases."""
    shapes = {
        "target_encoder.target_embedding": (widths[0], 1, 1, 1, 1),
        "context_unet.context_embedding.module": (widths[0], 2, 1, 1, 1),
        "target_decoder.output_block.block.1": (1, widths[0], 1, 1, 1),
    }
    units, fusions = {"target_decoder.output_block.block.0": widths[0]}, {}
    for i, (fine, coarse) in enumerate(pairwise(widths)):
        shapes[f"target_encoder.downsample_blocks.{i}.target_linear_layer"] = (coarse, fine, 4, 4, 4)
        shapes[f"context_unet.downsample_blocks.{i}.context_linear_layer.module"] = (coarse, fine, 4, 4, 4)
        fusions[f"context_unet.enc_blocks.{i}", "combine_conv_context.module", "final_conv.module"] = fine
        units[f"target_encoder.enc_blocks.{i}.target_conv"] = fine
    back = widths[::-1]
    for i, (coarse, fine) in enumerate(pairwise(back)):
        for name in ("context_unet.{}.context_conv_layer.module", "target_decoder.{}.target_conv_layer"):
            shapes[name.format(f"upsample_blocks.{i}")] = (fine, coarse + fine, 1, 1, 1)
        units[f"context_unet.dec_blocks.{i}.context_conv.module"] = fine
    for i, width in enumerate(widths):
        units[f"context_unet.enc_blocks.{i}.context_conv.module"] = width
    for i, width in enumerate(back):
        block = f"target_decoder.dec_blocks.{i - 1}" if i else "target_decoder.enc_blocks.0"
        units[f"{block}.target_conv"] = width
        fusions[block, "combine_conv_target.module", "final_conv"] = width
    for name, width in units.items():
        shapes |= {f"{name}.layers.{i}": (width, width, 3, 3, 3) for i in (0, 2)}
    for (block, neuroverse3d, final), width in fusions.items():
        shapes[f"{block}.{final if medverse else neuroverse3d}"] = (width, 2 * width, 1, 1, 1)
        if medverse:
            shapes |= {f"{block}.cross_attention.{part}_proj": (CODE, width) for part in "qk"}
    return shapes


def public_state(kind, prefix="", seed=0):
    """A checkpoint's tensors with random weights."""
    rng, state = torch.Generator().manual_seed(seed), {}
    for name, shape in public_shapes(kind == "medverse").items():
        fan = torch.tensor(shape[1:]).prod()
        state[f"{name}.weight"] = 1.2 * torch.randn(shape, generator=rng) / fan.sqrt()
        state[f"{name}.bias"] = 0.3 * torch.randn(shape[0], generator=rng)
    if kind == "medverse":
        state["sincos_pos_embed"] = sincos_position(BLOCKS, CODE, 3)[None]
        for name, width in (
            ("target_code", CODE),
            ("image_context_code", CODE),
            ("image_context_embedding", WIDTHS[0]),
        ):
            state[name] = torch.randn(width, generator=rng)
    return {prefix + name: tensor for name, tensor in state.items()}


class Plain:
    """Both networks as they are written down, for one query, reading the names of a checkpoint."""

    def __init__(self, state):
        self.state, self.medverse = state, "target_code" in state
        self.stages = len(WIDTHS)

    def conv(self, name, x, **options):
        return F.conv3d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def unit(self, name, x):
        hidden = F.gelu(self.conv(f"{name}.layers.0", x, padding=1))
        return F.gelu(x + self.conv(f"{name}.layers.2", hidden, padding=1))

    def up(self, name, x, skip):
        large = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        return self.conv(name, torch.cat([large, skip], 1))

    def tokens(self, x):
        """Token t: all voxels whose coordinates have one remainder; `(T, voxels, C)`."""
        return torch.stack(
            [
                x[0, :, i::BLOCKS, j::BLOCKS, k::BLOCKS].flatten(1).T
                for i, j, k in torch.cartesian_prod(*[torch.arange(BLOCKS)] * 3)
            ]
        )

    def attend(self, name, own, others, place, places):
        def project(part, x):
            weight, bias = (self.state[f"{name}.cross_attention.{part}_proj.{kind}"] for kind in ("weight", "bias"))
            return F.linear(self.tokens(x).mean(1), weight, bias)

        keys = torch.cat([project("k", x) + where for x, where in zip(others, places, strict=True)])
        values = torch.cat([self.tokens(x).flatten(1) for x in others])
        read = F.scaled_dot_product_attention((project("q", own) + place)[None], keys[None], values[None])[0]
        out, read = torch.empty_like(own), read.unflatten(1, (-1, own.shape[1]))
        for token, (i, j, k) in zip(read, torch.cartesian_prod(*[torch.arange(BLOCKS)] * 3), strict=True):
            part = out[0, :, i::BLOCKS, j::BLOCKS, k::BLOCKS]
            part.copy_(token.T.unflatten(1, part.shape[1:]))
        return out

    def fuse(self, name, own, others, place, places, context):
        if self.medverse:
            read = self.attend(name, own, others, place, places)
            joined = "final_conv.module" if context else "final_conv"
        else:
            read, joined = others[0], f"combine_conv_{'context' if context else 'target'}.module"
        order = [own, read] if context else [read, own]
        return F.gelu(own + self.conv(f"{name}.{joined}", torch.cat(order, 1)))

    def encode(self, image):
        x, features = self.conv("target_encoder.target_embedding", image), []
        for i in range(self.stages - 1):
            features.append(self.unit(f"target_encoder.enc_blocks.{i}.target_conv", x))
            name = f"target_encoder.downsample_blocks.{i}.target_linear_layer"
            x = self.conv(name, features[-1], stride=2, padding=1)
        return features, x

    def read(self, image, target, features, place, asked, mark):
        x, skips = self.conv("context_unet.context_embedding.module", torch.cat([image, target], 1)), []
        for i in range(self.stages - 1):
            block = f"context_unet.enc_blocks.{i}"
            x = self.unit(f"{block}.context_conv.module", x)
            x = self.fuse(block, x, [features[i]], place, [asked], True)
            if mark is not None and i == 0:
                x = x + mark.view(1, -1, 1, 1, 1)
            skips.append(x)
            x = self.conv(f"context_unet.downsample_blocks.{i}.context_linear_layer.module", x, stride=2, padding=1)
        maps = [self.unit(f"context_unet.enc_blocks.{self.stages - 1}.context_conv.module", x)]
        for i in range(self.stages - 1):
            x = self.up(f"context_unet.upsample_blocks.{i}.context_conv_layer.module", maps[-1], skips.pop())
            maps.append(self.unit(f"context_unet.dec_blocks.{i}.context_conv.module", x))
        return maps

    def __call__(self, image, images, targets, coarse=None):
        place = self.state["sincos_pos_embed"][0] if self.medverse else 0
        asked = place + self.state["target_code"] if self.medverse else 0
        features, x = self.encode(image)
        all_maps = [
            self.read(images[:, i], targets[:, i], features, place, asked, None) for i in range(images.shape[1])
        ]
        streams, places = [[torch.stack(maps).mean(0) for maps in zip(*all_maps, strict=True)]], [place]
        if coarse is not None:
            places.append(place + self.state["image_context_code"])
            mark = self.state["image_context_embedding"]
            streams.append(self.read(coarse.image, coarse.target, features, places[1], asked, mark))
        for i in range(self.stages):
            block = f"target_decoder.dec_blocks.{i - 1}" if i else "target_decoder.enc_blocks.0"
            if i:
                x = self.up(f"target_decoder.upsample_blocks.{i - 1}.target_conv_layer", x, features.pop())
            x = self.unit(f"{block}.target_conv", x)
            x = self.fuse(block, x, [stream[i] for stream in streams], asked, places, False)
        return self.conv("target_decoder.output_block.block.1", self.unit("target_decoder.output_block.block.0", x))


def load(state):
    config, converted = convert(state)
    network = build(config)
    network.load_state_dict(converted)
    return network


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize(("kind", "led"), [("neuroverse3d", False), ("medverse", False), ("medverse", True)])
def test_converted_weights_paint_as_written_down(kind, led, prefix):
    network = load(public_state(kind, prefix))
    image, images, targets = torch.rand(1, 1, 8, 8, 16), torch.rand(1, 3, 1, 8, 8, 16), torch.rand(1, 3, 1, 8, 8, 16)
    coarse = Pair(torch.rand_like(image), torch.rand_like(image)) if led else None
    with torch.no_grad():
        expected = Plain(public_state(kind))(image, images, targets, coarse)
        painted = network.answer(image, network.remember(images, targets), coarse)
    assert expected.std() > 0.1
    torch.testing.assert_close(painted, expected, rtol=1e-4, atol=1e-4)


def test_the_configuration_is_read_off_the_shapes():
    arguments = from_medverse(public_state("medverse"))[0]["init_args"]
    assert arguments == {
        "image_size": [128, 128, 128],
        "in_channels": 1,
        "out_channels": 1,
        "widths": list(WIDTHS),
        "fusion": "blockwise",
        "grouping": "lattice",
        "blocks": BLOCKS,
        "code": CODE,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_named(kind):
    state, name = public_state(kind, "net."), "context_unet.dec_blocks.1.context_conv.module.layers.2.weight"
    changes = {
        "lack": {key: tensor for key, tensor in state.items() if key != f"net.{name}"},
        "other shapes": state | {f"net.{name}": torch.zeros(3, 3, 1, 1, 1)},
        "no place": state | {"net.context_unet.norm": torch.zeros(1)},
    }
    for message, changed in changes.items():
        with pytest.raises(ValueError, match=f"{message}.*{'' if message == 'no place' else name}"):
            convert(changed)


def test_other_weights_are_refused():
    for wrong in ({}, {"conv.weight": torch.zeros(1)}, public_state("neuroverse3d")):
        with pytest.raises(ValueError, match="lack"):
            from_medverse(wrong)
    with pytest.raises(ValueError, match=r"lack .*combine_conv"):
        from_neuroverse3d(public_state("medverse"))


@pytest.fixture
def public_network(monkeypatch):
    folder = os.environ.get("NEUROVERSE3D")
    if not folder or not Path(folder, "neuroverse3D").is_dir():
        pytest.skip("NEUROVERSE3D names no checkout of the public code (https://github.com/jiesihu/Neuroverse3D)")
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
    return pytest.importorskip("neuroverse3D.models.neuroverse3D").Neuroverse3D


@pytest.mark.filterwarnings("ignore")
def test_converted_weights_paint_as_the_public_neuroverse3d(public_network):
    torch.manual_seed(0)
    public = public_network(1, 1, 5, 3, [4, 8, 16, 32, 64], 2).eval()
    network = load({f"net.{name}": 1.5 * tensor for name, tensor in public.state_dict().items()})
    public.load_state_dict({name: 1.5 * tensor for name, tensor in public.state_dict().items()})
    image, images, targets = (
        torch.rand(2, 1, 32, 32, 32),
        torch.rand(2, 5, 1, 32, 32, 32),
        torch.rand(2, 5, 1, 32, 32, 32),
    )
    with torch.no_grad():
        expected = public(image, images, targets, l=2)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(image, images, targets), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_lightning_becomes_a_folder(kind, tmp_path):
    extra = {"epoch": 3, "hyper_parameters": {"lr": 1e-5, "nb_inner_channels": list(WIDTHS)}}
    torch.save({"state_dict": public_state(kind, "net."), **extra}, tmp_path / "released.ckpt")
    network = weights.load(conversion.convert(tmp_path / "released.ckpt", tmp_path / "weights", kind))
    inputs = torch.rand(1, 1, 8, 8, 8), torch.rand(1, 2, 1, 8, 8, 8), torch.rand(1, 2, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(*inputs), load(public_state(kind))(*inputs))
