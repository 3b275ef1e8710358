"""A training step of LoRA, by terrazzo and by peft on the same layers, and of the whole network learning.

python benchmarks/low_rank.py       one thread; rank 8 beside every linear layer and every convolution of one group
                                    (of the ViT its linear layers), which are those that peft can train and fold
Memory is what the forward pass holds for the backward one, parameters left out.
"""

import copy
import functools

import peft
import timm
import torch
from torch import Tensor, nn

import measure
from terrazzo.adapt import Lora, adapt
from terrazzo.base import IMAGENET
from terrazzo.models import Segmenter

RANK = 8
NETWORKS = {
    "vit_small_patch16_224": ((2, 3, 224, 224), nn.Linear),
    "convnext_tiny": ((1, 3, 512, 512), (nn.Linear, nn.Conv2d)),
    "resnet50": ((1, 3, 512, 512), (nn.Linear, nn.Conv2d)),
}


def step(net: nn.Module, images: Tensor) -> None:
    net(images).square().mean().backward()
    net.zero_grad()


def held(net: nn.Module, images: Tensor) -> int:
    """Bytes kept between the passes, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = net(images)
    size = sum(kept.values())
    del answer
    return size


def compare(name: str, shape: tuple[int, ...], kinds: type | tuple[type, ...]) -> None:
    torch.manual_seed(0)
    base = timm.create_model(name, num_classes=0).eval()
    targets = [
        key for key, layer in base.named_modules() if isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1
    ]
    ours = Segmenter(copy.deepcopy(base), normalization=IMAGENET, stride=1)
    adapt(ours, Lora(rank=RANK, alpha=16, targets=tuple(targets), also_train="none"))
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=targets)
    ).eval()
    nets = {"terrazzo": ours.eval().net, "peft": theirs, "everything learns": base}
    counts = {key: sum(p.numel() for p in net.parameters() if p.requires_grad) for key, net in nets.items()}
    assert counts["terrazzo"] == counts["peft"]
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    memory = {key: held(net, images) for key, net in nets.items()}
    times = measure.seconds({key: functools.partial(step, net, images) for key, net in nets.items()})
    measure.report(f"{name} {list(shape)}, {len(targets)} layers", times, "terrazzo")
    for key, size in memory.items():
        print(f"  {key:34s} {size / 2**20:9.1f} MiB  {size / memory['terrazzo']:6.2f} x ours")


if __name__ == "__main__":
    measure.one_thread()
    for name, (shape, kinds) in NETWORKS.items():
        compare(name, shape, kinds)
