"""LVM: images as words of a code book, and a causal transformer that continues image, target, image, target, ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.canvas import to_map
from mvg.episode import Episode, Pair
from mvg.models.attention import KeyValue
from mvg.models.base import InContextModel
from mvg.models.block import Attention, Block
from mvg.models.position import rotate
from mvg.objective import Objective

Kept = tuple[KeyValue, ...]
"""Keys and values of every block, `(B, heads, T, head_dim)` each."""


class Tokenizer(nn.Module):
    """Turns images into grids of whole numbers and back, by finite scalar quantisation.

    Each of a few channels is bounded and rounded to a fixed number of levels; the combination of levels is the word.
    Nothing has to be learned to keep the code book in use, and no loss of its own is needed (Mentzer et al., "Finite
    Scalar Quantization", arXiv 2309.15505).

    Args:
        channels: Channels of an image.
        stride: Pixels along each axis of a word, a power of two.
        width: Channels inside.
        levels: Levels of each channel of the code, odd numbers; their product is the number of words.

    Attributes:
        words: Number of words.
    """

    levels: Tensor
    places: Tensor

    def __init__(self, channels: int, stride: int, width: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.words = math.prod(levels)
        steps = stride.bit_length() - 1
        down: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(len(levels), width, 3, padding=1)]
        for _ in range(steps):
            down += [nn.GELU(), nn.Conv2d(width, width, 4, 2, 1), nn.GroupNorm(1, width)]
            up += [nn.GELU(), nn.ConvTranspose2d(width, width, 4, 2, 1), nn.GroupNorm(1, width)]
        self.encoder = nn.Sequential(*down, nn.GELU(), nn.Conv2d(width, len(levels), 1))
        self.decoder = nn.Sequential(*up, nn.GELU(), nn.Conv2d(width, channels, 3, padding=1))
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        places = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def codes(self, image: Tensor) -> Tensor:
        """Rounds the encoded image `(B, C, H, W)` to levels in [-1, 1], `(B, channels, h, w)`; gradients pass."""
        half = (self.levels.view(-1, 1, 1) - 1) / 2
        bounded = torch.tanh(self.encoder(image).float()) * half
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / half

    def number(self, codes: Tensor) -> Tensor:
        """Numbers the words of codes, `(B, h * w)`."""
        half = (self.levels.view(-1, 1, 1) - 1) / 2
        digits = (codes * half + half).round().long()
        return (digits * self.places.view(-1, 1, 1)).sum(1).flatten(1)

    def look_up(self, words: Tensor, grid: Sequence[int]) -> Tensor:
        """Undoes `number`: `(B, h * w)` to `(B, channels, h, w)`."""
        digits = words[..., None] // self.places % self.levels
        half = (self.levels - 1) / 2
        return to_map((digits - half) / half, grid)

    def draw(self, codes: Tensor) -> Tensor:
        """Paints codes, `(B, C, H, W)`."""
        painted: Tensor = self.decoder(codes)
        return painted.float()


class LVM(InContextModel):
    """A large vision model, small: next-word prediction over images and targets as one sentence.

    All images and targets are written in the same words. The transformer reads example, target, example, target, ...,
    query, each word seeing those before it, and says the target of the query word by word, the likeliest first. A
    context is read once. Tokenizer and transformer are trained together: the tokenizer by the objective on what it
    paints again, the transformer by cross-entropy of all words after the first image; no gradient passes between them.

    Differs from the published model (7 billion parameters, a code book trained beforehand): finite scalar quantisation
    instead of learned codes, tokens placed by an angle of their position in the sentence, and joint training.

    Source: Bai et al., "Sequential Modeling Enables Scalable Learning for Large Vision Models", arXiv 2312.00785.

    Args:
        image_size: Size of one image, `(H, W)`, multiples of `stride`.
        in_channels: Channels of images; those of targets, as both are written in the same words.
        out_channels: Channels of targets.
        width: Numbers in a token.
        depth: Transformer blocks.
        heads: Attention heads.
        stride: Pixels along each axis of a word, a power of two.
        code_width: Channels inside of the tokenizer.
        levels: Levels of each channel of the code, odd numbers; their product is the number of words.
        objective: What painted pixels cost.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (64, 64),
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        stride: int = 8,
        code_width: int = 64,
        levels: Sequence[int] = (7, 5, 5, 5),
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        if len(image_size) != 2 or any(side < stride or side % stride for side in image_size):
            raise ValueError(f"`image_size` must be (H, W), multiples of {stride}, got {tuple(image_size)}")
        if in_channels != out_channels:
            raise ValueError(
                f"images and targets share their words: `in_channels` and `out_channels` must agree, "
                f"got {in_channels} and {out_channels}"
            )
        if stride < 2 or stride & (stride - 1):
            raise ValueError(f"`stride` must be a power of two, got {stride}")
        if not levels or any(level < 3 or level % 2 == 0 for level in levels):
            raise ValueError(f"`levels` must be odd numbers of at least 3, got {tuple(levels)}")
        if width % (2 * heads):
            raise ValueError(f"`width` must be a multiple of twice `heads`, got {width} and {heads}")
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        self.grid = tuple(side // stride for side in self.image_size)
        self.length = math.prod(self.grid)
        self.objective = objective or Objective()
        self.tokenizer = Tokenizer(in_channels, stride, code_width, levels)
        self.embedding = nn.Embedding(self.tokenizer.words, width)
        self.place = nn.Parameter(torch.empty(2 * self.length, width).normal_(std=0.02))
        self.blocks = nn.ModuleList(Block(width, heads, 4.0, 0.0, None) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.tokenizer.words)
        self.head_dim = width // heads
        nn.init.normal_(self.embedding.weight, std=0.02)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Tells timm's layer-wise learning-rate decay the depth of each parameter; the head comes last."""
        return {"stem": r"^(?:tokenizer|embedding|place)", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that weight decay leaves alone: places and words."""
        return {"place", "embedding.weight"}

    def head_names(self) -> tuple[str, ...]:
        """Names the layer that chooses words, and what paints them."""
        return ("head", "tokenizer.decoder")

    # ------------------------------------------------------------------ reading

    def remember(self, context_images: Tensor, context_targets: Tensor) -> Kept:
        """Reads the examples in order; keeps keys and values of all their words."""
        if context_images.shape[1] < 1:
            raise ValueError("a context needs at least 1 pair, got 0")
        return self._read(self._sentence(context_images, context_targets), None)[1]

    def _sentence(self, images: Tensor, targets: Tensor) -> Tensor:
        """Writes pairs `(B, L, C, H, W)` as words, `(B, L * 2 * length)`: image, target, image, target, ..."""
        self._check(images)
        self._check(targets)
        words = [self._write(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in (images, targets)]
        return torch.stack(words, 2).flatten(1)

    def _write(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.tokenizer.number(self.tokenizer.codes(image))

    def _read(self, words: Tensor, past: Kept | None) -> tuple[Tensor, Kept]:
        """Reads words `(B, T)` after a past; returns their tokens `(B, T, width)`, and all keys and values."""
        before = 0 if past is None else past[0][0].shape[2]
        steps = torch.arange(before, before + words.shape[1], device=words.device)
        tokens = self.embedding(words) + self.place[steps % (2 * self.length)]
        angles, kept = self._angles(steps), []
        for number, block in enumerate(self.blocks):
            tokens, key_value = _causal(cast(Block, block), tokens, angles, None if past is None else past[number])
            kept.append(key_value)
        return tokens, tuple(kept)

    def _angles(self, steps: Tensor) -> Tensor:
        """Angles of the steps of a sentence, `(T, 2 * head_dim)`: sines, then cosines."""
        half = self.head_dim // 2
        speed = 10_000.0 ** (-torch.arange(half, device=steps.device) / half)
        turned = (steps[:, None] * speed).repeat(1, 2)
        return torch.cat([turned.sin(), turned.cos()], -1)

    def _check(self, images: Tensor) -> None:
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(f"the network was built for images of {self.image_size}, got {tuple(images.shape[-2:])}")
        if images.shape[-3] != self.in_channels:
            raise ValueError(f"the network takes {self.in_channels} channels, got {images.shape[-3]}")

    # ------------------------------------------------------------------ saying

    def answer(self, image: Tensor, memory: Kept, coarse: Pair | None = None) -> Tensor:
        """Says the target of each query, the likeliest word first to last, and paints it.

        A coarse answer counts as one more example.
        """
        self._check(image)
        batch = len(image)
        past: Kept = tuple((k.expand(batch, *k.shape[1:]), v.expand(batch, *v.shape[1:])) for k, v in memory)
        if coarse is not None and coarse.target is not None:
            past = self._read(self._sentence(coarse.image[:, None], coarse.target[:, None]), past)[1]
        tokens, past = self._read(self._write(image), past)
        said = []
        for _ in range(self.length):
            said.append(self.head(self.norm(tokens[:, -1])).argmax(-1, keepdim=True))
            if len(said) < self.length:
                tokens, past = self._read(said[-1], past)
        return self.tokenizer.draw(self.tokenizer.look_up(torch.cat(said, 1), self.grid))

    def loss(self, episode: Episode) -> dict[str, Tensor]:
        """Cross-entropy of the next word, and the objective on what the tokenizer paints of images and targets.

        Masked episodes are read like the others.
        """
        images = torch.cat([episode.context_images, episode.image[:, None]], 1)
        targets = torch.cat([episode.context_targets, episode.target[:, None]], 1)
        words = self._sentence(images, targets)
        tokens, _ = self._read(words[:, :-1], None)
        first = self.length - 1
        logits = self.head(self.norm(tokens[:, first:])).float()
        next_word = F.cross_entropy(logits.flatten(0, 1), words[:, first + 1 :].flatten(), reduction="none")
        each = next_word.view(len(words), -1).mean(1)
        painted = self._paint_again(images, torch.zeros_like(episode.is_label))
        again = self._paint_again(targets, episode.is_label)
        total = each + painted + again
        return {
            "loss": total.mean(),
            "episodes": total.detach(),
            "next_word": each.mean().detach(),
            "tokenizer": (painted + again).mean().detach(),
        }

    def _paint_again(self, images: Tensor, is_label: Tensor) -> Tensor:
        """The objective between images `(B, T, C, H, W)` and what remains of them after the tokenizer, `(B,)`."""
        flat = images.flatten(0, 1)
        painted = self.tokenizer.draw(self.tokenizer.codes(flat))
        weight = torch.ones_like(flat[:, :1])
        labels = is_label.repeat_interleave(images.shape[1])
        return self.objective(painted, flat, weight, labels).view(len(images), -1).mean(1)


def _causal(block: Block, tokens: Tensor, angles: Tensor, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
    """Runs tokens `(B, T, width)` through a block, each seeing the past and those up to itself."""
    attention: Attention = block.attn
    q, k, v = attention.project(block.norm1(tokens), None)
    turned = angles.to(q.dtype)
    q, k = rotate(q, turned), rotate(k, turned)
    if past is not None:
        k, v = torch.cat([past[0].to(k.dtype), k], 2), torch.cat([past[1].to(v.dtype), v], 2)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if q.shape[2] == 1 else mask)
    return block.finish(tokens, attention.merge(attended)), (k, v)
