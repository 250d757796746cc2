"""Answers that need no network, and controls that show whether a network uses its examples."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mvg.episode import Episode

Paints = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What paints queries after examples, as a network does: see `InContextModel.forward`."""

TRIVIAL = ("query itself", "context target", "mean of targets")
CONTROLS = ("pair swap", "task swap", "task swap, scored as swapped")


def trivial_answers(episode: Episode) -> dict[str, Tensor]:
    """What can be painted without a network, each `(B, C_out, *S)`.

    The query image itself, the target of the first context pair, and the mean of all targets of the context. An image
    of several channels is their mean, or the channel that the spec names `identity` (the moving image of registration).
    """
    image = episode.image.mean(1, keepdim=True)
    for number, spec in enumerate(episode.specs):
        if "identity" in spec:
            image[number] = episode.image[number, spec["identity"]]
    image = image.expand_as(episode.target)
    return {
        TRIVIAL[0]: image,
        TRIVIAL[1]: episode.context_targets[:, 0],
        TRIVIAL[2]: episode.context_targets.mean(1),
    }


def control_answers(network: Paints, episode: Episode) -> dict[str, Tensor]:
    """Paints the query after a context that lies, each `(B, C_out, *S)`.

    Pair swap: the targets move on by one pair, so that none stays with its image (needs two pairs). Task swap: the
    same context images carry the targets of another structure or task; scored against the original target the answer
    must collapse, against the swapped target it must be as good as ever.
    """
    answers = {}
    if episode.context_size > 1:
        moved = episode.context_targets.roll(1, dims=1)
        answers[CONTROLS[0]] = network(episode.image, episode.context_images, moved)
    if episode.swap_targets is not None and episode.swappable is not None and bool(episode.swappable.any()):
        answers[CONTROLS[1]] = network(episode.image, episode.context_images, episode.swap_targets)
        answers[CONTROLS[2]] = answers[CONTROLS[1]]
    return answers
