"""How much memory a network needs, found without computing anything: it is run on tensors that have shapes alone."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvg.episode import Pair
from mvg.models.base import InContextModel
from mvg.prediction.passes import bytes_of

log = logging.getLogger(__name__)

GIB = 1 << 30
KERNELS = 64 << 20
"""Bytes of libraries that are loaded, and of kernels that are compiled, only while the network works."""
SLACK = 1.3
"""What a process takes for each byte of tensors: freed pieces are not all used again, and kernels copy what they read.
`python -m benchmarks.prediction_memory` measures it."""


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all tensors that operators make while it is entered, and the most held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and notes what it makes."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value)
        return result

    def _note(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        size = storage.nbytes()

        def forget(_: Any, key: int = key, size: int = size) -> None:
            self._known.pop(key, None)
            self.held -= size

        self._known[key] = weakref.ref(storage, forget)
        self.held += size
        self.peak = max(self.peak, self.held)


@dataclass(frozen=True)
class Need:
    """Bytes that a network needs.

    Attributes:
        weights: Its parameters and buffers.
        memory: What it keeps of one context.
        remember: The most that reading a context holds.
        answer: The most that answering one image holds, beside the memory.
        each: How much more each further image of a batch adds.
    """

    weights: int
    memory: int
    remember: int
    answer: int
    each: int

    def peak(self, batch: int) -> int:
        """The most held while a context is read or a batch is answered; weights and memories are not counted."""
        return max(self.remember, self.answer + (batch - 1) * self.each)


@torch.inference_mode()
def need_of(network: InContextModel, examples: int, led: bool = False) -> Need | None:
    """Finds what a network needs with so many examples; None if it cannot be run without values.

    Args:
        network: The network; a copy is run, on the CPU.
        examples: Number of pairs in its context.
        led: Its answers are led by a coarser scale.
    """
    weights = sum(map(bytes_of, network.state_dict().values()))
    try:
        shadow, size, peaks = copy.deepcopy(network).cpu(), tuple(network.image_size), list[int]()
        with FakeTensorMode(allow_non_fake_inputs=True):
            images = torch.empty(1, examples, network.in_channels, *size)
            targets = torch.empty(1, examples, network.out_channels, *size)
            with LiveBytes() as reading:
                memory = shadow.remember(images, targets)
            for batch in (1, 2):
                query = torch.empty(batch, network.in_channels, *size)
                coarse = Pair(query, torch.empty(batch, network.out_channels, *size)) if led else None
                with LiveBytes() as answering:
                    shadow.answer(query, memory, coarse)
                peaks.append(answering.peak)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        log.info("the memory of %s is not estimated: it looks at values (%s)", type(network).__name__, type(error))
        return None
    return Need(weights, bytes_of(memory), reading.peak, peaks[0], max(0, peaks[1] - peaks[0]))


def resident() -> int:
    """Bytes that this process holds now; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS")), 0)


def fit_batch(need: Need, batch: int, room: int) -> int:
    """Returns the largest batch, at most `batch`, that so many bytes hold; 0 if not even one image fits."""
    fitting = [size for size in range(1, batch + 1) if need.memory + need.peak(size) <= room]
    return max(fitting, default=0)


def whole_need(tensors: int) -> int:
    """Bytes that a process takes, beside what it holds before, to work with so many bytes of tensors."""
    return KERNELS + int(SLACK * tensors)


def in_gib(count: float) -> str:
    """Writes bytes in GiB.

    >>> in_gib(1 << 29)
    '0.50 GiB'
    """
    return f"{count / GIB:.2f} GiB"


def voxels_of(shape: Sequence[int]) -> int:
    """Returns the number of voxels of a volume."""
    count = 1
    for extent in shape:
        count *= extent
    return count
