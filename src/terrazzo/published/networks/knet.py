"""K-Net (Zhang et al. 2021) as MMSegmentation publishes it: an image updates the rows of its classifier, one a class.

A plain head classifies first. Then, three times, every class gathers the pixels that it was given, its row is updated
by what it gathered and by the other classes' rows, and the rows classify anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import InputError
from terrazzo.output import Output
from terrazzo.published.networks import swin_upernet
from terrazzo.published.networks.heads import AsppHead, FcnHead, PspHead, UperHead
from terrazzo.published.networks.necks import PlainConv
from terrazzo.published.networks.resnet_v1c import D8, D32, ResNet, ResnetSizes
from terrazzo.published.networks.swin_upernet import SwinSizes
from terrazzo.published.networks.transformer import SelfAttention

STAGES = 3
"""How often the rows are updated."""


@dataclass(frozen=True)
class KNetSizes:
    """Sizes of one published K-Net."""

    encoder: ResnetSizes | SwinSizes
    """What makes the maps."""
    head: Literal["fcn", "pspnet", "deeplabv3", "upernet"] = "upernet"
    """What classifies first."""
    width: int = 512
    """Channels of the head, and of a class's row."""
    groups: int = 2
    """Parts of a row that are updated each by itself, by the same layers."""
    heads: int = 8
    """Attention heads between the rows."""
    hidden: int = 2048
    """Channels inside the feed-forward parts."""
    aux_width: int = 256
    """Channels inside the auxiliary head."""
    dropout: float = 0.1
    """Share of channels dropped before the first classifier, and the auxiliary one, while training."""


SWIN_T, SWIN_L = (swin_upernet.VARIANTS[f"upernet_swin-{size}"] for size in "tl")

VARIANTS: Mapping[str, KNetSizes] = {
    "knet-s3_r50-d8_fcn": KNetSizes(D8, "fcn"),
    "knet-s3_r50-d8_pspnet": KNetSizes(D8, "pspnet"),
    "knet-s3_r50-d8_deeplabv3": KNetSizes(D8, "deeplabv3"),
    "knet-s3_r50-d8_upernet": KNetSizes(D32),
    "knet-s3_swin-t_upernet": KNetSizes(SWIN_T),
    "knet-s3_swin-l_upernet": KNetSizes(SWIN_L),
    "knet-s3_swin-l_upernet_8xb2-adamw-80k_ade20k-640x640": KNetSizes(replace(SWIN_L, drop_path=0.4)),
}


class KNet(nn.Module):
    """Images [B, 3, H, W] of any size to logits [B, K, h, w] at the first head's stride: 4 with UPerNet's, else 8.

    `aux` are the answers before the last update, the earliest first, and that of the auxiliary head.
    """

    def __init__(self, sizes: KNetSizes, classes: int):
        super().__init__()
        dims = sizes.encoder.dims
        self.backbone: nn.Module = (
            ResNet(sizes.encoder) if isinstance(sizes.encoder, ResnetSizes) else swin_upernet.Backbone(sizes.encoder)
        )
        self.decode_head = IterativeHead(sizes, classes)
        self.auxiliary_head = FcnHead(dims[2], sizes.aux_width, classes, dropout=sizes.dropout)

    def forward(self, images: Tensor) -> Output:
        maps = self.backbone(images)
        *earlier, logits = self.decode_head(maps)
        return Output(logits=logits, aux=(*earlier, self.auxiliary_head(maps[:3])))


class IterativeHead(nn.Module):
    """Maps to logits: the first head's, and those after each update."""

    def __init__(self, sizes: KNetSizes, classes: int):
        super().__init__()
        self.kernel_generate_head = first_head(sizes, classes)
        self.kernel_update_head = nn.ModuleList(UpdateHead(sizes) for _ in range(STAGES))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        features = self.kernel_generate_head.features(maps)
        answers = [self.kernel_generate_head.classify(features)]
        rows = self.kernel_generate_head.conv_seg.weight.flatten(1).expand(len(features), -1, -1)
        for update in self.kernel_update_head:
            logits, rows = update(features, rows, answers[-1])
            answers.append(logits)
        return answers


def first_head(sizes: KNetSizes, classes: int) -> FcnHead | PspHead | AsppHead | UperHead:
    """The head whose classifier's rows are the first."""
    dims, width, dropout = sizes.encoder.dims, sizes.width, sizes.dropout
    match sizes.head:
        case "fcn":
            return FcnHead(dims[3], width, classes, convs=2, concat_input=True, dropout=dropout)
        case "pspnet":
            return PspHead(dims[3], width, classes, dropout=dropout)
        case "deeplabv3":
            return AsppHead(dims[3], width, classes, dropout=dropout)
        case "upernet":
            return UperHead(dims, width, classes, dropout=dropout)
        case _:
            assert_never(sizes.head)


class UpdateHead(nn.Module):
    """One update: features [B, C, h, w], rows [B, K, C] and logits [B, K, h, w] to new logits and rows."""

    def __init__(self, sizes: KNetSizes):
        super().__init__()
        width = sizes.width
        self.feat_transform = PlainConv(width, width)
        self.kernel_update_conv = RowUpdate(width // sizes.groups)
        self.attention = SelfAttention(width, sizes.heads)
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, sizes.hidden)
        self.ffn_norm = nn.LayerNorm(width)
        self.mask_fcs = nn.Sequential(nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU())
        self.fc_mask = nn.Linear(width, width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.feat_transform(features)
        # [B, K, C]: the sum of the pixels' features by how much each is of the class
        gathered = logits.softmax(1).flatten(2) @ seen.flatten(2).transpose(1, 2)
        rows = self.kernel_update_conv(gathered, rows)
        rows = self.attention_norm(rows + self.attention(rows))
        rows = self.ffn_norm(rows + self.ffn(rows))
        kernels = self.fc_mask(self.mask_fcs(rows))
        return torch.einsum("bkc,bchw->bkhw", kernels, seen), rows


class RowUpdate(nn.Module):
    """Rows and what their classes gathered, both [B, K, C], mixed by two learned gates; each part of C by itself."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.dynamic_layer = nn.Linear(dim, 2 * dim)
        self.input_layer = nn.Linear(dim, 2 * dim)
        self.input_gate = nn.Linear(dim, dim)
        self.update_gate = nn.Linear(dim, dim)
        self.norm_in = nn.LayerNorm(dim)
        self.norm_out = nn.LayerNorm(dim)
        self.input_norm_in = nn.LayerNorm(dim)
        self.input_norm_out = nn.LayerNorm(dim)
        self.fc_layer = nn.Linear(dim, dim)
        self.fc_norm = nn.LayerNorm(dim)

    def forward(self, gathered: Tensor, rows: Tensor) -> Tensor:
        seen_gate, seen = self.dynamic_layer(gathered.reshape(-1, self.dim)).chunk(2, dim=-1)
        row_gate, row = self.input_layer(rows.reshape(-1, self.dim)).chunk(2, dim=-1)
        gates = row_gate * seen_gate
        keep = self.input_norm_in(self.input_gate(gates)).sigmoid()
        renew = self.norm_in(self.update_gate(gates)).sigmoid()
        mixed = renew * self.norm_out(seen) + keep * self.input_norm_out(row)
        return functional.relu(self.fc_norm(self.fc_layer(mixed))).view(rows.shape)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between them: `layers.0.0.*`, `layers.1.*`; [..., C] to the same."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), nn.ReLU()), nn.Linear(hidden, dim))

    def forward(self, rows: Tensor) -> Tensor:
        mixed: Tensor = self.layers(rows)
        return mixed


def build(name_or_sizes: str | KNetSizes, classes: int) -> KNet:
    """A published network by its name, or one of other sizes; with random weights.

    Raises:
        InputError: there is no such name.
    """
    if isinstance(name_or_sizes, KNetSizes):
        return KNet(name_or_sizes, classes)
    if name_or_sizes not in VARIANTS:
        raise InputError(f"no K-Net is called {name_or_sizes}; choose one of {', '.join(VARIANTS)}")
    return KNet(VARIANTS[name_or_sizes], classes)
