"""Networks for volumes that start from networks for pictures."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file

from mvg import weights
from mvg.models import CanvasViT, ConvStem, PatchStem, UNetDecoder
from mvg.models.decoder import unfold
from mvg.models.inflate import inflate
from mvg.models.initialise import initialise


def make(size, stem=None, **options):
    options = {"width": 32, "depth": 2, "heads": 2} | options
    return CanvasViT(size, stem=stem or PatchStem(4), **options).eval()


def conv(size):
    return make(size, ConvStem(widths=[16, 32]), decoder=UNetDecoder(skips="codes", supervision=0.5))


@pytest.mark.parametrize("build", [make, conv])
@torch.no_grad()
def test_equal_slices_give_the_maps_of_the_picture(build):
    flat, deep = build((16, 16)), build((8, 16, 16))
    inflate(deep, flat.state_dict())
    picture = torch.rand(1, 1, 16, 16)
    expected, found = flat.stem.image(picture), deep.stem.image(picture[:, :, None].expand(-1, -1, 8, -1, -1))
    for one, many in zip((expected.tokens, *expected.maps), (found.tokens, *found.maps), strict=True):
        assert torch.allclose(many, one[:, :, None].expand_as(many), atol=1e-5)


@pytest.mark.parametrize("build", [make, conv])
@torch.no_grad()
def test_each_slice_of_a_token_is_painted_alike(build):
    flat, deep = build((16, 16)), build((8, 16, 16))
    inflate(deep, flat.state_dict())
    paint = [getattr(network.decoder, "expand" if build is make else "sketch") for network in (flat, deep)]
    tokens = torch.rand(1, 4, paint[0].in_features)
    side = 4 if build is make else 2
    one = unfold(paint[0](tokens), (2, 2), side, paint[0].out_features // side**2)
    many = unfold(paint[1](tokens), (1, 2, 2), side, paint[1].out_features // side**3)
    assert torch.allclose(many, one[:, :, None].expand_as(many), atol=1e-6)


def test_a_folder_of_a_2d_network_starts_a_3d_one(tmp_path, caplog):
    flat, deep = conv((16, 16)), conv((8, 16, 16))
    weights.save(tmp_path / "w", flat)
    with caplog.at_level(logging.INFO):
        initialise(deep, weights=str(tmp_path / "w"))
    own, given = deep.state_dict(), flat.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in given if name.startswith("blocks."))
    assert "start from the 2D network; not: none" in caplog.text


def test_a_plain_vit_starts_the_blocks_and_patches_of_a_3d_network(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    deep = make((8, 32, 32), PatchStem(8), width=192, depth=12, heads=3, mlp_ratio=4.0)
    initialise(deep, pretrained=str(tmp_path / "vit.safetensors"))
    kernel = deep.stem.embed_image.weight
    assert torch.equal(deep.blocks[3].state_dict()["attn.qkv.weight"], vit.blocks[3].attn.qkv.weight)
    assert torch.allclose(kernel[:, :, 0], kernel[:, :, 7])
    assert kernel.abs().sum() > 0


def test_a_stranger_is_refused():
    with pytest.raises(ValueError, match="share no tensor"):
        inflate(make((8, 16, 16)), {"other": torch.zeros(1)})
