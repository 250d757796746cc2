"""Unpairing: context targets change places, so that a network cannot copy one of them and reads what they share.

A network that is trained on matched pairs alone borrows places and sizes from the context targets. One that sees them
unpaired late in training learns to use what the pairs agree on; unpaired from the start, it learns less from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mvg.episode import Episode


def check_shares(shares: Sequence[float] | None) -> tuple[float, float] | None:
    """Checks the shares of training between which pairs are taken apart.

    Raises:
        ValueError: If they are no two ascending shares.
    """
    if shares is None:
        return None
    if len(shares) != 2 or not 0 <= shares[0] < shares[1] <= 1:
        raise ValueError(f"`unpairing` takes two ascending shares of training such as [0.5, 1], got {list(shares)}")
    return shares[0], shares[1]


def unpair(episode: Episode) -> Episode:
    """Gives every context image the target of another pair of its episode, as the seed of the episode decides.

    Targets of context images no longer belong to them, so that they have weight 0: only the query is learnt. Episodes
    of one pair stay as they are.

    Args:
        episode: With L pairs.
    """
    number = episode.context_size
    if number < 2:
        return episode
    device = episode.context_targets.device
    steps = 1 + episode.seed.to(device) % (number - 1)
    places = (torch.arange(number, device=device) + steps[:, None]) % number
    rows = torch.arange(len(episode), device=device)[:, None]
    return replace(
        episode,
        context_targets=episode.context_targets[rows, places],
        context_weights=torch.zeros_like(episode.context_weights),
    )
