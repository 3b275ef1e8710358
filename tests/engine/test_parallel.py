"""What can be seen of training together from one process: norms, GPUs, and what is refused."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from terrazzo.base import InputError
from terrazzo.config import load_config
from terrazzo.engine.batchnorm import is_synced, sync_batchnorm
from terrazzo.engine.parallel import Ddp, Fsdp, check_shares, shared
from terrazzo.engine.place import Place
from terrazzo.engine.world import World, claim_gpu, cuda_index
from terrazzo.models import OwnModel, build_model

CPU = torch.device("cpu")
PAIR = World(0, 2, CPU)


@pytest.fixture
def group() -> Iterator[None]:
    """torch's group of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def timm_norm() -> nn.Module:
    from timm.layers.norm_act import BatchNormAct2d

    return BatchNormAct2d(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm2d(3),
        lambda: nn.BatchNorm2d(3, momentum=None),
        lambda: nn.BatchNorm2d(3, affine=False),
        lambda: nn.BatchNorm2d(3, track_running_stats=False),
        timm_norm,
    ],
    ids=["plain", "cumulative", "without weight", "without statistics", "timm"],
)
def test_a_synced_norm_is_torchs_norm_over_all_images(make: Any, group: None) -> None:
    """Forward, backward, statistics and eval mode, all images being on one rank; more ranks: test_distributed.py."""
    torch.manual_seed(0)
    plain = nn.Sequential(make()).double()
    if plain[0].affine:
        nn.init.normal_(plain[0].weight)
    synced = copy.deepcopy(plain)
    assert sync_batchnorm(synced, PAIR) == 1
    assert is_synced(synced[0])
    assert sync_batchnorm(synced, PAIR) == 1, "twice is once"
    for _ in range(2):
        images = torch.randn(4, 3, 5, 6, dtype=torch.float64)
        results = []
        for network in (plain, synced):
            seen = images.clone().requires_grad_()
            answer = network(seen)
            answer.square().mul(torch.arange(4).view(4, 1, 1, 1)).sum().backward()
            results.append([answer, seen.grad, *(p.grad for p in network.parameters())])
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    assert plain.state_dict().keys() == synced.state_dict().keys()
    torch.testing.assert_close(dict(plain.state_dict()), dict(synced.state_dict()), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(plain.eval()(images), synced.eval()(images))


def test_half_precision_stays_half(group: None) -> None:
    norm = nn.Sequential(nn.BatchNorm2d(3))
    sync_batchnorm(norm, PAIR)
    with torch.autocast("cpu", torch.bfloat16):
        answer = norm(torch.randn(2, 3, 4, 4).bfloat16())
    assert answer.dtype == torch.bfloat16
    assert norm[0].running_mean.dtype == torch.float32


def test_a_norm_of_an_unknown_kind_is_refused() -> None:
    class Special(nn.BatchNorm2d):
        pass

    with pytest.raises(InputError, match=r"parallel\.sync_batchnorm: 0 is a Special"):
        sync_batchnorm(nn.Sequential(Special(3)), PAIR)


def test_on_cuda_norms_are_torchs_own() -> None:
    norms = nn.Sequential(nn.BatchNorm2d(3), timm_norm())
    sync_batchnorm(norms, World(0, 2, torch.device("cuda")))  # needs no such device
    assert [type(norm).__name__ for norm in norms] == ["SyncBatchNorm", "SyncBatchNormAct"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["step.mode=compile"], r"step\.mode=compile \(say eager\)"),
        (["step.precision=float16"], "float16 .*bfloat16"),
        (["adapt={kind: staged, frozen: {steps: 1}}"], "adapt.kind=staged"),
        (["optim={kind: adamw_8bit}"], "adamw_8bit"),
    ],
)
def test_what_does_not_go_with_shares_is_refused_by_the_recipe(overrides: list[str], words: str) -> None:
    load_config("camvid_unet", overrides)
    with pytest.raises(InputError, match=f"parallel.kind=fsdp does not go with .*{words}"):
        load_config("camvid_unet", [*overrides, "parallel.kind=fsdp"])


class Odd(nn.Module):
    def __init__(self, *, scalar: bool) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)
        self.share = nn.Parameter(torch.tensor(1.0) if scalar else torch.ones(1, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(images) * self.share.float()
        return answer


@pytest.mark.parametrize(("scalar", "words"), [(True, "net.share: single numbers"), (False, "of several types")])
def test_a_network_that_cannot_be_shared_out_is_refused(scalar: bool, words: str) -> None:
    from terrazzo.engine.shards import share_out

    model = build_model(OwnModel(), 3, own=Odd(scalar=scalar))[0]
    with pytest.raises(InputError, match=words):
        share_out(model, Fsdp(), PAIR)


def test_a_network_without_batchnorm_is_told() -> None:
    model = build_model(OwnModel(), 3, own=nn.Conv2d(3, 3, 1))[0]
    with pytest.raises(InputError, match=r"parallel\.sync_batchnorm: this network has no BatchNorm"):
        shared(model, Ddp(sync_batchnorm=True), None, PAIR)


def test_shares_come_out_even() -> None:
    check_shares(8, 2, World(0, 4, CPU))
    check_shares(7, 7, World(0, 1, CPU))
    with pytest.raises(InputError, match=r"batch=8 .* by 3 processes; say batch=9"):
        check_shares(8, 1, World(0, 3, CPU))
    with pytest.raises(InputError, match=r"step\.accumulate=4 does not divide the 2 of 8 .* step\.accumulate=2"):
        check_shares(8, 4, World(0, 4, CPU))


def test_a_process_takes_its_own_gpu() -> None:
    assert cuda_index(Place(3, 4, local_rank=3, local_size=4), visible=4) == 3
    assert cuda_index(Place(3, 4, local_rank=3, local_size=4), visible=1) == 0, "SLURM shows a task its own only"
    with pytest.raises(InputError, match=r"4 processes on this machine and 2 GPUs: .*--nproc-per-node 2"):
        cuda_index(Place(3, 4, local_rank=3, local_size=4), visible=2)


def test_a_gpu_is_one_ranks_own() -> None:
    store = torch.distributed.HashStore()
    claim_gpu(store, "GPU-1", 0)
    claim_gpu(store, "GPU-1", 0)  # a program may train twice
    claim_gpu(store, "GPU-2", 1)
    with pytest.raises(InputError, match="ranks 1 and 2 were given the same GPU"):
        claim_gpu(store, "GPU-2", 2)
