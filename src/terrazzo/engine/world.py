"""The processes that train together. One process is a world of one: no branch elsewhere."""

import atexit
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # not in its __all__

from terrazzo.base import InputError
from terrazzo.engine.place import Place

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up; torch's default of 30 minutes wastes a cluster."""

BEAT = timedelta(seconds=5)
"""Between the signs of life of a rank that the others wait for; a third of the timeout if that is less."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class World:
    """Rank of this process, number of processes, and the device it computes on."""

    rank: int
    size: int
    device: torch.device
    cpu_group: dist.ProcessGroup | None = None
    store: Store | None = None
    """Where ranks leave each other notes, outside of the collectives; None in a world of one."""
    timeout: timedelta = TIMEOUT

    @classmethod
    def join(cls, device: Literal["auto", "cpu", "cuda", "mps"] = "auto", timeout: timedelta = TIMEOUT) -> "World":
        """From the environment that torchrun or srun made; alone when there is none.

        `timeout` is that of the first call in a process: torch joins one group only.

        Raises:
            InputError: the device asked for is not there, or the other processes do not come.
        """
        place = Place.of(os.environ)
        chosen = choose_device(device, place)
        if place.size == 1:
            return cls(0, 1, chosen)
        store = _meet(place, timeout)
        if chosen.type == "cuda":
            claim_gpu(store, str(torch.cuda.get_device_properties(chosen).uuid), place.rank)
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
            group = PrefixStore("group", store)
            dist.init_process_group(backend, store=group, rank=place.rank, world_size=place.size, timeout=timeout)
            # At exit, not at the end of a run: a program may train twice, and torch joins one group a process only.
            atexit.register(dist.destroy_process_group)
        votes = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(votes, dist.ProcessGroup), "every rank is a member of the group of all"
        return cls(place.rank, place.size, chosen, votes, store, timeout)

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

    def collect(self, items: list[_Item]) -> list[_Item]:
        """The items of all ranks, those of rank 0 first, on every rank. They travel pickled, among these ranks only."""
        if self.size == 1:
            return items
        everyone: list[list[_Item]] = [[] for _ in range(self.size)]
        dist.all_gather_object(everyone, items, group=self.cpu_group)
        return [item for each in everyone for item in each]

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank rank 0's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.cpu_group)

    def main_does(self, work: Callable[[], None]) -> None:
        """Rank 0 works while the others wait, for longer than any timeout if it takes so long."""
        if self.size == 1:
            work()
            return
        if not self.main:
            while not self.any(False):
                pass
            return
        over, beat = threading.Event(), min(BEAT, self.timeout / 3).total_seconds()

        def live() -> None:
            while not over.wait(beat):
                self.any(False)

        signs = threading.Thread(target=live, name="terrazzo-beat", daemon=True)
        signs.start()
        try:
            work()
        finally:
            over.set()
            signs.join()
        self.any(True)

    def alone(self) -> "World":
        """This process by itself, for what one rank does while the others are done."""
        return World(0, 1, self.device)


_stores: dict[Place, Store] = {}
"""The store of each group that this process met; a second server could not have the same port."""


def _meet(place: Place, timeout: timedelta) -> Store:
    """The store of all ranks: torchrun's own where it keeps one, else rank 0's.

    Raises:
        InputError: nobody is at the address.
    """
    if place not in _stores:
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        serves = place.rank == 0 and not hosted
        try:
            store = TCPStore(place.address, place.port, None, serves, timeout, wait_for_workers=False)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"rank {place.rank} of {place.size} cannot meet the others at {place.address}:{place.port} ({reason}); "
                "set MASTER_ADDR and MASTER_PORT to an address of rank 0's machine that all can reach"
            ) from error
        _stores[place] = PrefixStore(f"terrazzo-{place.life}", store)
    return _stores[place]


def claim_gpu(store: Store, name: str, rank: int) -> None:
    """Say that this GPU is the rank's own.

    Raises:
        InputError: another rank has it, which NCCL would answer with an error that names no setting.
    """
    owner = int(store.compare_set(f"gpu-{name}", "", str(rank)).decode())
    if owner != rank:
        raise InputError(
            f"ranks {owner} and {rank} were given the same GPU: start one process for each GPU "
            "(torchrun --nproc-per-node GPUS; srun --gpus-per-task=1 or --gres=gpu:GPUS --ntasks-per-node=GPUS)"
        )


def choose_device(device: Literal["auto", "cpu", "cuda", "mps"], place: Place | None = None) -> torch.device:
    """The torch device of a setting, for a process of a group.

    Raises:
        InputError: it is not on this machine, or there are fewer than processes.
    """
    place = place or Place()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = "cuda" if there["cuda"] else "mps" if there["mps"] and place.size == 1 else "cpu"
    if device not in there:
        raise InputError(f"device={device} is not one of auto, {', '.join(there)}")
    if not there[device]:
        usable = ", ".join(name for name, found in there.items() if found)
        raise InputError(
            f"device={device}: torch {torch.__version__} finds none on this machine; usable: {usable}, auto"
        )
    if device == "mps" and place.size > 1:
        raise InputError("device=mps: torch cannot train with several processes there; start one, or say device=cpu")
    if device == "cuda":
        index = cuda_index(place, torch.cuda.device_count())
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return torch.device(device)


def cuda_index(place: Place, visible: int) -> int:
    """Which of the GPUs that this process sees is its own.

    Raises:
        InputError: it sees several and still fewer than there are processes on this machine.
    """
    if visible == 1:
        return 0  # SLURM may show each task its own GPU only
    if place.local_rank >= visible:
        raise InputError(
            f"{place.local_size} processes on this machine and {visible} GPUs: start one process for each GPU "
            f"(torchrun --nproc-per-node {visible}), or say device=cpu"
        )
    return place.local_rank
