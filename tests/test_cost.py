"""What a network costs: counts against known ones and against W2's published table, time and size of real passes."""

import time

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo import cost
from terrazzo.models import SmpModel, build_model


class Sleeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(0.01)
        return images


class Branches(nn.Module):
    """Reads `used`, and `direct` without running a module; never `idle`. `twice` runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.twice = nn.Conv2d(8, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.direct = nn.Parameter(torch.ones(5, 8))
        self.idle = nn.Linear(1000, 1000)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.twice(self.norm(self.twice(self.used(images))))
        return functional.linear(hidden.permute(0, 2, 3, 1), self.direct)


def test_parameters_true_and_executed_size_and_macs_of_a_known_network() -> None:
    model, images = Branches(), torch.zeros(2, 3, 10, 12)
    used, twice, norm, direct = 3 * 8 * 9 + 8, 64, 16, 40
    assert cost.executed_parameters(model, images) == used + twice + norm + direct
    assert cost.parameters(model) == used + twice + norm + direct + 1000 * 1001
    buffers = 8 + 8  # running mean and variance; and the count of batches, 64 bits
    assert cost.size_in_bytes(model) == 4 * (cost.parameters(model) + buffers) + 8
    assert cost.macs(model, images) == 2 * 10 * 12 * (3 * 8 * 9 + 2 * 64 + 40)


def test_attention_is_counted_however_it_is_computed() -> None:
    tokens, width = 16, 32
    layer = nn.TransformerEncoderLayer(width, 4, dim_feedforward=64, batch_first=True)
    linear = tokens * width * (3 * width + width + 64 + 64)
    attention = 2 * tokens * tokens * width
    images = torch.randn(1, tokens, width)
    assert cost.macs(layer, images) == linear + attention
    assert cost.executed_parameters(layer, images) == cost.parameters(layer)


def test_shared_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert cost.parameters(model) == cost.executed_parameters(model, torch.zeros(1, 4)) == 16 + 8
    assert cost.size_in_bytes(model) == 4 * 24


@pytest.mark.parametrize(
    ("arch", "encoder", "mebibytes", "millions", "giga"),
    [
        ("unet", "resnet50", 124.288, 32.526, 10.953),
        ("manet", "resnet50", 562.702, 147.445, 18.898),
        ("fpn", "resnet50", 99.845, 26.120, 7.804),
        ("unetplusplus", "resnet50", 187.114, 48.991, 57.762),
        ("unet", "resnext50_32x4d", 122.331, 31.998, 11.138),
        ("pspnet", "resnet50", 93.509, 24.458, 3.074),
    ],
)
def test_the_table_of_the_architecture_comparison(
    arch: str, encoder: str, mebibytes: float, millions: float, giga: float
) -> None:
    """35 classes at 1x3x256x256 (spec: W2). Tensors without storage are enough to count."""
    with torch.device("meta"):
        model = smp.create_model(arch, encoder, encoder_weights=None, classes=35)
        images = torch.empty(1, 3, 256, 256)
    assert round(cost.size_in_bytes(model) / 2**20, 3) == mebibytes
    assert round(cost.parameters(model) / 1e6, 3) == millions
    assert round(cost.macs(model, images) / 1e9, 3) == giga
    executed = round(cost.executed_parameters(model, images) / 1e6, 3)
    assert executed == (2.395 if arch == "pspnet" else millions)


def test_the_segmenter_of_a_recipe_costs_what_its_network_costs() -> None:
    segmenter, _ = build_model(SmpModel(arch="pspnet", encoder="resnet50", weights="none"), 35)
    images = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    bill = cost.measure(segmenter, images, runs=3)
    assert bill.shape == (1, 3, 256, 256)
    assert round(bill.macs / 1e9, 3) == 3.074
    assert round(bill.executed / 1e6, 3) == 2.395
    assert bill.latency.low <= bill.latency.median <= bill.latency.high
    assert (bill.latency.runs, bill.latency.batch, bill.latency.device) == (3, 1, "cpu")
    assert bill.latency.threads == torch.get_num_threads()
    assert bill.latency.images_per_second == 1 / bill.latency.median
    assert bill.flops == 2 * bill.macs
    assert bill.trainable == bill.parameters, "what no logit depends on is taken out"
    assert 0 < bill.peak < bill.kept


def test_latency_is_of_single_runs_after_warm_ones() -> None:
    model = Sleeping()
    found = cost.latency(model, torch.zeros(4, 1), runs=5, warm=2)
    assert model.calls == 7
    assert (found.runs, found.batch) == (5, 4)
    assert 0.01 <= found.low <= found.median <= found.high
    model.calls = 0
    assert cost.latency(model, torch.zeros(1, 1), runs=100, warm=0, seconds=0.015).runs == cost.LEAST_RUNS


def test_measuring_changes_nothing() -> None:
    model = Branches()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost.measure(model, torch.randn(2, 3, 8, 8), runs=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model.norm.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_memory_is_what_lives_at_a_time_and_what_the_backward_pass_reads() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU(inplace=True))
    images, plane = torch.zeros(2, 3, 10, 12), 4 * 2 * 10 * 12
    assert cost.peak_memory(model, images) == (16 + 16) * plane, "the first convolution's answer beside its ReLU's"
    assert cost.kept_memory(model, images) == (16 + 8) * plane, "both ReLUs' answers; the image is no part of it"
    meta = model.to("meta"), images.to("meta")
    assert (cost.peak_memory(*meta), cost.kept_memory(*meta)) == ((16 + 16) * plane, (16 + 8) * plane)


def test_memory_that_is_shared_counts_once_and_freed_memory_no_longer() -> None:
    class Views(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            for _ in range(5):
                hidden = images + 1  # the one before is freed only after this is made
            return hidden.view(-1)[1:].view_as(hidden.view(-1)[1:]).detach()

    images = torch.zeros(1, 3, 8, 8)
    assert cost.peak_memory(Views(), images) == 2 * 3 * 8 * 8 * 4
    assert cost.kept_memory(Views(), images) == 0


def test_nothing_is_timed_on_the_meta_device() -> None:
    segmenter, _ = build_model(SmpModel(arch="segformer", encoder="mit_b0", weights="none"), 5)
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    computed = cost.measure(segmenter, images, runs=1)
    counted = cost.measure(segmenter.to("meta"), images.to("meta"), runs=0)
    assert counted.latency is None
    for name in ("parameters", "trainable", "executed", "size", "macs"):
        assert getattr(counted, name) == getattr(computed, name), name
    assert counted.kept == pytest.approx(computed.kept, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_on_cuda_is_what_the_pass_holds() -> None:
    images = torch.zeros(1, 3, 512, 512, device="cuda")
    peak = cost.peak_memory(nn.Conv2d(3, 16, 1).cuda(), images)
    assert peak is not None
    assert peak >= 16 * 512 * 512 * 4
