"""The processes that train together. One process is a world of one: no branch elsewhere."""

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from terrazzo.base import InputError

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up; torch's default of 30 minutes wastes a cluster."""


@dataclass(frozen=True)
class World:
    """Rank of this process, number of processes, and the device it computes on."""

    rank: int
    size: int
    device: torch.device
    cpu_group: dist.ProcessGroup | None = None

    @classmethod
    def join(cls, device: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> "World":
        """From torchrun's environment; alone when there is none.

        Raises:
            InputError: the device asked for is not there.
        """
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if size == 1:
            return cls(rank, size, chosen)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
            # At exit, not at the end of a run: a program may train twice, and torch joins one group a process only.
            atexit.register(dist.destroy_process_group)
        votes = dist.new_group(backend="gloo", timeout=TIMEOUT)
        assert isinstance(votes, dist.ProcessGroup), "every rank is a member of the group of all"
        return cls(rank, size, chosen, votes)

    @property
    def main(self) -> bool:
        """True on the one process that writes files and talks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """True on every rank as soon as one says so."""
        return bool(self.most(int(flag)))

    def most(self, number: int) -> int:
        """The greatest number of all ranks. Host only: the accelerator is neither asked nor waited for."""
        if self.size == 1:
            return number
        votes = torch.tensor([number], dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.cpu_group)
        return int(votes.item())

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank rank 0's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.cpu_group)

    def alone(self) -> "World":
        """This process by itself, for what one rank does while the others are done."""
        return World(0, 1, self.device)


def choose_device(device: Literal["auto", "cpu", "cuda", "mps"], local_rank: int = 0) -> torch.device:
    """The torch device of a setting.

    Raises:
        InputError: it is not on this machine.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there[device]:
        usable = ", ".join(name for name, found in there.items() if found)
        raise InputError(
            f"device={device}: torch {torch.__version__} finds none on this machine; usable: {usable}, auto"
        )
    if device == "cuda":
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    return torch.device(device)
