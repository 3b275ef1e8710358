"""Networks of an encoder, one head and an auxiliary head: FCN, PSPNet, DeepLabV3(+), UPerNet, and those that attend.

The encoder is a ResNet, a ResNeSt or a MobileNetV2. The published configurations differ in the ResNet's depth and stem,
in its strides and dilations ("d8", "d16", "d32" say the stride of the last map), and in which corners are aligned when
maps are enlarged.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never, get_args

from torch import Tensor, nn

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks.code_heads import EmaHead, EncHead
from terrazzo.published.networks.context_heads import ContextKind, context_head
from terrazzo.published.networks.heads import AsppHead, DeepLabPlusHead, FcnHead, Head, PspHead, UperHead
from terrazzo.published.networks.mobilenet_v2 import MobileNetV2, MobileNetV2Sizes
from terrazzo.published.networks.psanet import PsaHead
from terrazzo.published.networks.resnest import ResNeSt, ResNeStSizes
from terrazzo.published.networks.resnet_v1c import D8, D16, D32, Depth, ResNet, ResnetSizes

HeadKind = Literal["fcn", "pspnet", "deeplabv3", "deeplabv3plus", "upernet", "encnet", "emanet", "psanet"] | ContextKind
"""`ContextKind` are the heads that attend."""


@dataclass(frozen=True)
class DilatedSizes:
    """One published configuration."""

    head: HeadKind
    backbone: ResnetSizes | ResNeStSizes | MobileNetV2Sizes = D8
    channels: int = 512
    """Inside the head."""
    aux_channels: int = 256
    """Inside the auxiliary head, which reads the third map."""
    fine_channels: int = 48
    """What DeepLabV3+ reduces the finest map to."""
    aspp_dilations: tuple[int, ...] = (1, 12, 24, 36)
    fcn_dilation: int = 1
    """Of the convolutions of FCN's head and of its auxiliary head."""
    window: tuple[int, int] = (97, 97)
    """Of the places around a pixel that PSANet's head knows; its tensors depend on it."""
    align_corners: bool = False
    """How maps and logits are enlarged. True for what was published with crops of 769 pixels."""
    dropout: float = 0.1
    """Share of a head's channels dropped before its last convolution while training."""


class DilatedNet(nn.Module):
    """Normalised images [B, 3, H, W] of any size to logits at the head's stride, and the auxiliary head's.

    The logits have the size of the last map, with DeepLabV3+ and UPerNet that of the first. DANet's head has two more
    answers; they stand before the auxiliary head's.
    """

    def __init__(self, sizes: DilatedSizes, classes: int):
        super().__init__()
        self.align_corners = sizes.align_corners
        self.backbone = encoder(sizes.backbone)
        self.decode_head = decode_head(sizes, classes)
        self.auxiliary_head = FcnHead(
            sizes.backbone.dims[2],
            sizes.aux_channels,
            classes,
            dilation=sizes.fcn_dilation,
            dropout=sizes.dropout,
        )

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images)
        answer = self.decode_head(maps)
        logits, *others = answer if isinstance(answer, tuple) else (answer,)
        return Output(logits=logits, aux=(*others, self.auxiliary_head(maps[:3])), align_corners=self.align_corners)


def encoder(sizes: ResnetSizes | ResNeStSizes | MobileNetV2Sizes) -> ResNet | ResNeSt | MobileNetV2:
    """Images to four maps, the first at stride 4."""
    match sizes:
        case ResnetSizes():
            return ResNet(sizes)
        case ResNeStSizes():
            return ResNeSt(sizes)
        case MobileNetV2Sizes():
            return MobileNetV2(sizes)
        case _:
            assert_never(sizes)


def decode_head(sizes: DilatedSizes, classes: int) -> Head:
    """The head that answers the logits."""
    fine, *_, last = sizes.backbone.dims
    channels, corners, dropout = sizes.channels, sizes.align_corners, sizes.dropout
    match sizes.head:
        case "fcn":
            return FcnHead(
                last, channels, classes, convs=2, dilation=sizes.fcn_dilation, concat_input=True, dropout=dropout
            )
        case "pspnet":
            return PspHead(last, channels, classes, align_corners=corners, dropout=dropout)
        case "deeplabv3":
            return AsppHead(
                last, channels, classes, dilations=sizes.aspp_dilations, align_corners=corners, dropout=dropout
            )
        case "deeplabv3plus":
            return DeepLabPlusHead(
                last,
                channels,
                classes,
                fine_in=fine,
                fine_channels=sizes.fine_channels,
                dilations=sizes.aspp_dilations,
                align_corners=corners,
                dropout=dropout,
            )
        case "upernet":
            return UperHead(sizes.backbone.dims, channels, classes, align_corners=corners, dropout=dropout)
        case "encnet":
            return EncHead(last, channels, classes, dropout=dropout)
        case "emanet":
            return EmaHead(last, channels, classes, dropout=dropout)
        case "psanet":
            return PsaHead(last, channels, classes, window=sizes.window, dropout=dropout)
        case _:
            return context_head(sizes.head, sizes.backbone.dims, channels, classes, dropout=dropout)


def of_depth(depth: Depth, sizes: DilatedSizes) -> DilatedSizes:
    """The same on a deeper or shallower ResNet."""
    assert isinstance(sizes.backbone, ResnetSizes)
    return replace(sizes, backbone=replace(sizes.backbone, depth=depth))


def of_depth_18(sizes: DilatedSizes) -> DilatedSizes:
    """The same on a ResNet-18, whose heads are a quarter as wide."""
    return replace(of_depth(18, sizes), channels=128, aux_channels=64, fine_channels=12)


def plain(sizes: DilatedSizes) -> DilatedSizes:
    """The same with the stem of torchvision's weights; published names say "r50b"."""
    assert isinstance(sizes.backbone, ResnetSizes)
    return replace(sizes, backbone=replace(sizes.backbone, stem="plain"))


def variants() -> dict[str, DilatedSizes]:
    """Every published configuration by its name, without schedule and data set."""
    found: dict[str, DilatedSizes] = {}
    heads: tuple[HeadKind, ...] = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")
    for head in heads:
        sizes = DilatedSizes(head)
        for depth, deep in (("r18", of_depth_18(sizes)), ("r50", sizes), ("r101", of_depth(101, sizes))):
            found |= {f"{head}_{depth}-d8": deep, f"{head}_{depth}b-d8": plain(deep)}
        found[f"mobilenet-v2-d8_{head}"] = replace(sizes, backbone=MobileNetV2Sizes())
        found[f"resnest_s101-d8_{head}"] = replace(sizes, backbone=ResNeStSizes())
    others: tuple[HeadKind, ...] = ("encnet", "emanet", "psanet", *get_args(ContextKind))
    for head in others:
        sizes = DilatedSizes(head, channels=256 if head == "emanet" else 512)
        found |= {f"{head}_r50-d8": sizes, f"{head}_r101-d8": of_depth(101, sizes)}
    fcn_d6 = DilatedSizes("fcn", D16, fcn_dilation=6)
    for depth, deep in (("r50", fcn_d6), ("r101", of_depth(101, fcn_d6))):
        found |= {f"fcn-d6_{depth}-d16": deep, f"fcn-d6_{depth}b-d16": plain(deep)}
    multi_grid = replace(D16, depth=101, last_dilations=(1, 2, 4))
    for head in heads[2:]:
        found[f"{head}_r101-d16-mg124"] = DilatedSizes(head, multi_grid, aspp_dilations=(1, 6, 12, 18))
    for depth in ("r50", "r101"):
        ade20k = replace(found[f"psanet_{depth}-d8"], window=(66, 66))
        found |= {f"psanet_{depth}-d8_4xb4-{steps}_ade20k": ade20k for steps in ("80k", "160k")}
    # As two published results are spelled.
    found["ddeeplabv3plus_r101-d16-mg124"] = found["deeplabv3plus_r101-d16-mg124"]
    found["eemanet_r50-d8"] = found["emanet_r50-d8"]
    # These two published configs bring the strides back and keep the dilations.
    coarse = plain(DilatedSizes("pspnet", replace(D32, dilations=(1, 1, 2, 4))))
    found |= {"pspnet_r50b-d32": coarse, "pspnet_r50-d32_rsb": coarse, "pspnet_r50-d8-rsb": found["pspnet_r50b-d8"]}
    upernet = DilatedSizes("upernet", D32)
    # UPerNet keeps its head's width on a ResNet-18.
    found["upernet_r18"] = of_depth(18, upernet)
    return found | {"upernet_r50": upernet, "upernet_r101": of_depth(101, upernet)}


VARIANTS = variants()


def build(sizes: str | DilatedSizes, classes: int) -> DilatedNet:
    """The network with random numbers; a published configuration by its name, or of other sizes.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(sizes, DilatedSizes):
        return DilatedNet(sizes, classes)
    if sizes not in VARIANTS:
        raise InputError(f"there is no published configuration {sizes}; choose one of {', '.join(sorted(VARIANTS))}")
    return DilatedNet(VARIANTS[sizes], classes)
