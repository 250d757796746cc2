"""Batches of episodes: disjoint over ranks, and resumable in the middle of an epoch."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from mvg.data.episodes import EpisodeDataset
from mvg.episode import Episode

PATIENCE = 5.0
"""Seconds in which a process whose connection broke must have ended."""
CAUSES = {
    "SIGKILL": "most likely memory ran out",
    "SIGBUS": "most likely shared memory ran out, or a file was cut while it was read",
}
"""Signal to what most often sends it."""


class LostProcess(RuntimeError):
    """A process of a loader died."""


class EpisodeSampler(DistributedSampler[Episode]):
    """Deals whole batches of consecutive indices to the ranks in turn.

    It is a `DistributedSampler` so that Lightning leaves it in place. All ranks get equally many batches. Training
    drops what does not fill one batch on every rank; validation and test drop nothing, and give a rank that would go
    without a batch of the last round an episode that counts nowhere (index None).

    Args:
        dataset: What is sampled.
        ranks: Number of processes.
        rank: Number of this one.
    """

    def __init__(self, dataset: EpisodeDataset, ranks: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=ranks, rank=rank, shuffle=False)
        self.episodes = dataset
        self.skipped = 0
        self.resumed: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the episodes too; batches done before a resume are skipped in their own epoch only."""
        super().set_epoch(epoch)
        self.episodes.set_epoch(epoch)
        self.skipped = self.resumed[1] if self.resumed is not None and self.resumed[0] == epoch else 0
        self.resumed = None

    @property
    def rounds(self) -> int:
        """Number of batches of each rank."""
        together, length = self.episodes.batch_size * self.num_replicas, len(self.episodes)
        return length // together if self.episodes.training else -(-length // together)

    def batch(self, number: int) -> Sequence[int | None]:
        """Returns the indices of one batch of this rank."""
        size = self.episodes.batch_size
        start = (number * self.num_replicas + self.rank) * size
        return range(start, min(start + size, len(self.episodes))) or (None,)

    def __iter__(self) -> Iterator[Any]:
        skipped, self.skipped = self.skipped, 0
        for number in range(skipped, self.rounds):
            yield from self.batch(number)

    def __len__(self) -> int:
        return self.episodes.batch_size * (self.rounds - 1) + len(self.batch(self.rounds - 1)) if self.rounds else 0


class EpisodeLoader(DataLoader[Episode]):
    """A data loader of episodes that knows which batch comes next; Lightning stores it in checkpoints.

    The death of one of its processes is a `LostProcess` of the next batch. PyTorch alone raises whatever broke first,
    or an error out of a signal handler at any later moment, in the middle of a step.

    Args:
        dataset: What is loaded.
        ranks: Number of processes that train together.
        rank: Number of this one.
        workers: Processes that prepare batches.
        pin_memory: Copy batches to pinned memory.
        start_method: How these processes start: "fork", "spawn" or "forkserver"; None for the platform's own way.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        ranks: int = 1,
        rank: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        self.done = 0
        self.processes: list[BaseProcess] = []
        super().__init__(
            dataset,
            batch_size=dataset.batch_size,
            sampler=EpisodeSampler(dataset, ranks, rank),
            num_workers=workers,
            collate_fn=Episode.collate,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker if workers else None,
            multiprocessing_context=start_method if workers else None,
        )

    @property
    def _episodes(self) -> EpisodeSampler:
        return cast(EpisodeSampler, self.sampler)

    def __iter__(self) -> Iterator[Episode]:  # type: ignore[override]
        self.done = self._episodes.skipped
        others = multiprocessing.active_children()
        with self._watched():
            batches = super().__iter__()
        started = [child for child in multiprocessing.active_children() if child not in others]
        self.processes = self.processes or started
        while True:
            with self._watched():
                batch = next(batches, None)
            if batch is None:
                return
            self.done += 1
            yield batch

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Runs what waits for the processes.

        Raises:
            LostProcess: If one of them died, be it before.
        """
        try:
            with child_signals(self._check):
                self._check()
                yield
        except (EOFError, OSError, RuntimeError) as error:
            if isinstance(error, EOFError | OSError) and not str(error).startswith("Caught"):  # not its own words
                ended = wait([process.sentinel for process in self.processes], PATIENCE)
                for process in self.processes:
                    if process.sentinel in ended:
                        process.join(PATIENCE)  # its pipes close a moment before its status is known
            self._check()
            raise

    def _check(self) -> None:
        for process in self.processes:
            if not process.is_alive():
                raise LostProcess(obituary(process))

    def state_dict(self) -> dict[str, int]:
        """Returns the epoch and the number of its batches that were handed out."""
        return {"epoch": self._episodes.episodes.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues after the batches that were handed out; takes effect when the sampler is given that epoch."""
        self._episodes.resumed = (state["epoch"], state["done"])


@contextmanager
def child_signals(call: Callable[[], None]) -> Iterator[None]:
    """Calls a function whenever a child ends; then puts back the handler that was there, whatever was set meanwhile.

    Without effect where there are no such signals, or outside of the main thread.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def obituary(process: BaseProcess) -> str:
    """Says how a process ended, why that may be, and what helps."""
    status = process.exitcode or 0
    name = next((one.name for one in signal.Signals if one == -status), f"signal {-status}")
    how = f"was killed by {name}" if status < 0 else f"exited with status {status}"
    why = CAUSES.get(name, "what it wrote last stands above")
    return (
        f"process {process.pid} of the data loader {how}; {why}; take fewer processes (`data.workers`), or let each "
        "keep fewer subjects (`data.remembered`)"
    )


def _leave_when_told(parent: int | None) -> None:
    """Ends this process when the one that started it sends SIGTERM."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def start_worker(_: int) -> None:
    """Prepares a process of the loader.

    It keeps to one thread, so that such processes do not compete for the cores, says where it crashed, and leaves
    signals that end a run to the training process, which still needs batches for the step under way. Schedulers and
    `timeout` send SIGTERM to all processes of a run; from the training process alone it ends this one, if it was
    forked: in one that was spawned, threads of libraries may get the signal first.
    """
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if hasattr(signal, "sigwaitinfo") and parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_leave_when_told, args=(parent.pid,), daemon=True).start()
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
