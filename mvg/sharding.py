"""Fully sharded training (FSDP2): every process holds a share of weights, gradients and optimizer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from mvg.models.base import InContextModel
from mvg.run_folder import HERE, replace_text

CALLS = ("loss", "remember", "answer", "answer_after")
"""Methods by which a network is called, besides `forward`."""
MARK = "sharded"
"""Stands in checkpoints of sharded training."""


class Sharded(ModelParallelStrategy):
    """Shards the network of a `Generalist` over all processes.

    A checkpoint is one file that any number of processes may continue, with or without sharding; one that was written
    without it cannot be continued with it. A network may name parts that are gathered one
    at a time by a method `units`; without it, all of it is gathered for each step, which still shards gradients and
    optimizer. Weights cannot be averaged, nor adapters trained.

    Args:
        process_group_backend: How processes talk; by default "nccl" on GPUs, "gloo" on CPUs.
        timeout: How long a process waits for the others.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = default_pg_timeout) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Joins the processes, and lets the trainer shard the network once it has its starting weights.

        Raises:
            ValueError: If the run averages weights or trains an adapter.
        """
        module: Any = self.lightning_module
        if any(isinstance(callback, WeightAveraging) for callback in module.trainer.callbacks):
            raise ValueError(
                "weights that are sharded cannot be averaged; remove EMAWeightAveraging, or use strategy ddp"
            )
        if getattr(module, "adaptation", None) is not None:
            raise ValueError("an adaptation has nothing to shard; use --trainer.strategy ddp")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        module.configure_model = partial(shard, module.network, self.device_mesh["data_parallel"])

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes one file, gathered from all processes, that says how its optimizer is numbered."""
        super().save_checkpoint({**checkpoint, MARK: True}, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint without running code; its paths are those of the folder that it lies in now.

        Raises:
            ValueError: If it was not written by sharded training, which numbers the parameters otherwise.
        """
        if not torch.load(checkpoint_path, mmap=True, map_location="cpu", weights_only=True).get(MARK):
            raise ValueError(
                f"{checkpoint_path} was written without sharding, and cannot be continued with it; start a new run "
                "from its weights by --model.weights"
            )
        loaded = super().load_checkpoint(checkpoint_path, weights_only is not False)
        folder = os.path.realpath(Path(checkpoint_path).parent)
        return dict(replace_text(loaded, lambda text: text.replace(HERE, folder)))


def shard(network: InContextModel, mesh: DeviceMesh) -> None:
    """Shards a network in place over a mesh of processes: its `units` each, then what is left."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # those of 2D convolutions may have their channels last
    units: Mapping[str, Sequence[str]] = getattr(network, "units", dict)()
    for name, calls in units.items():
        _shard(network.get_submodule(name), mesh, calls)
    _shard(network, mesh, CALLS)


def _shard(module: nn.Module, mesh: DeviceMesh, calls: Sequence[str]) -> None:
    kind = type(module)
    fully_shard(module, mesh=mesh)
    made: Any = type(module)
    made.__module__, made.__qualname__ = kind.__module__, kind.__qualname__  # the name that configurations know
    for call in calls:
        register_fsdp_forward_method(module, call)


def whole(tensor: Tensor) -> Tensor:
    """Gathers a tensor that is sharded, on all processes together; returns others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns the state of a module on the CPU, gathered by all processes together if it is sharded."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in module.state_dict().items()}
