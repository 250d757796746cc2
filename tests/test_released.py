import math
from pathlib import Path

import torch
from test_canvas_vit import IMAGENET, close, draw, make, paint
from torch.nn import functional as F

from mvg.models import TwoConvHead
from mvg.models.block import Block
from mvg.weights import build

ROOT = Path(__file__).parents[1]


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_released_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = build(ROOT / "configs/network/mvg_released.yaml")
    assert count(network) == 370_721_155
    assert network.taps == (5, 11, 17, 23)


def test_block_of_the_released_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        block = Block(1024, 16, 4.0, 0.0, (56, 28))
    assert count(block) == 12_606_848


@torch.no_grad()
def plain_released(state, image, prompt, target, heads=2, patch=4):
    """The released network, written down slowly and once more: one canvas, dense scores, no shared code."""
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "std"))
    x = (torch.cat([prompt, image], -2) - mean) / std
    y = (torch.cat([target, torch.zeros_like(image)], -2) - mean) / std
    embed = lambda z: F.conv2d(z, state["stem.embed_image.weight"], state["stem.embed_image.bias"], patch)  # noqa: E731
    x, y = embed(x), embed(y)
    height, width = x.shape[2:]
    y[:, :, height // 2 :] = state["stem.mask_token"].view(1, -1, 1, 1)
    place = state["absolute"][:, 1:].transpose(1, 2).unflatten(2, (3, 3))
    place = F.interpolate(place, size=(height, width), mode="bicubic")
    x, y = (z + place + s.view(1, -1, 1, 1) for z, s in zip((x, y), state["segments"], strict=True))
    tokens = [z.flatten(2).transpose(1, 2) for z in (x, y)]
    taps, depth = [], 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for index in range(depth):
        tokens = [plain_block(z, state, f"blocks.{index}.", heads, height, width) for z in tokens]
        if index == 2:
            tokens = [(tokens[0] + tokens[1]) / 2]
        taps.append(tokens[0])
    quarters = [taps[depth * i // 4 - 1] for i in (1, 2, 3, 4)]
    return plain_head(quarters, state, height, width, patch) * std + mean


def norm(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[name + "weight"], state[name + "bias"], 1e-6)


def plain_block(x, state, name, heads, height, width):
    linear = lambda z, part: F.linear(z, state[name + part + ".weight"], state[name + part + ".bias"])  # noqa: E731
    q, k, v = linear(norm(x, state, name + "norm1."), "attn.qkv").chunk(3, -1)
    q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (q, k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    rows, columns = (state[f"{name}attn.tables.{axis}"] for axis in (0, 1))
    for a in range(height * width):
        for b in range(height * width):
            row, column = a // width - b // width + height - 1, a % width - b % width + width - 1
            scores[:, :, a, b] += q[:, :, a] @ rows[row] + q[:, :, a] @ columns[column]
    x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), "attn.proj")
    return x + linear(F.gelu(linear(norm(x, state, name + "norm2."), "mlp.fc1")), "mlp.fc2")


def plain_head(taps, state, height, width, patch):
    tokens = torch.cat([norm(tap, state, "decoder.norm.") for tap in taps], -1)
    cells = F.linear(tokens, state["decoder.expand.weight"], state["decoder.expand.bias"])
    pixels = torch.zeros(len(cells), 8, height * patch, width * patch)
    for number in range(cells.shape[1]):
        top, left = number // width * patch, number % width * patch
        cell = cells[:, number].view(-1, patch, patch, 8).permute(0, 3, 1, 2)
        pixels[:, :, top : top + patch, left : left + patch] = cell
    hidden = F.conv2d(pixels, state["decoder.refine.0.weight"], state["decoder.refine.0.bias"], padding=1)
    hidden = F.gelu(norm(hidden.movedim(1, -1), state, "decoder.refine.1.").movedim(-1, 1))
    return F.conv2d(hidden, state["decoder.refine.3.weight"], state["decoder.refine.3.bias"])[
        :, :, pixels.shape[2] // 2 :
    ]


def test_released_network_is_the_plain_one():
    network = make("released", image_size=(8, 12), depth=12, decoder=TwoConvHead(channels=8, number=4, joined=True))
    episode = draw(network, batch=2, context=1)
    plain = plain_released(
        network.state_dict(), episode.image, episode.context_images[:, 0], episode.context_targets[:, 0]
    )
    close(paint(network, episode), plain, 1e-5)
