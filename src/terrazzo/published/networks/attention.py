"""Pixels that ask other pixels: the blocks that segmentation heads put between two convolutions.

Each keeps the shape [B, C, h, w]. Where a paper starts a block as the identity, with its last weight at 0, it starts
near it here: at 0 the block's other parameters would get no gradient at the first step.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.published.networks.blocks import ConvBNAct, size_of

START = 0.1
"""First value of the weights that let a block's answer in."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, scale: float | None = None) -> Tensor:
    """Each pixel's average of `values`, weighted by a softmax of how well `keys` match its query.

    Args:
        queries: [B, C, h, w].
        keys: [B, C, ...], of as many places as `values`.
        values: [B, D, ...].
        scale: of the products before the softmax; 1 / sqrt(C) if left out.

    Returns:
        [B, D, h, w]; the matrix of all pairs is not kept where torch can do without it.
    """
    asked, offered, given = (part.flatten(2).transpose(1, 2).unsqueeze(1) for part in (queries, keys, values))
    answer = functional.scaled_dot_product_attention(asked, offered, given, scale=scale)
    return answer.squeeze(1).transpose(1, 2).reshape(*values.shape[:2], *size_of(queries))


class Gate(nn.Module):
    """A learned factor of a whole map: `scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(START))

    def forward(self, current: Tensor) -> Tensor:
        return current * self.scale


def bare_conv(fan_in: int, fan_out: int) -> nn.Sequential:
    """A 1x1 convolution with bias and nothing behind it: `conv.weight`, `conv.bias`."""
    conv = nn.Conv2d(fan_in, fan_out, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
    return nn.Sequential(OrderedDict(conv=conv))


class NonLocal(nn.Module):
    """Every pixel asks all others (Wang et al. 2018), in half the channels."""

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.g = bare_conv(channels, inner)
        self.conv_out = ConvBNAct(inner, channels, act=False)
        self.theta = bare_conv(channels, inner)
        self.phi = bare_conv(channels, inner)
        nn.init.constant_(self.conv_out.bn.weight, START)

    def forward(self, current: Tensor) -> Tensor:
        answer: Tensor = self.conv_out(attend(self.theta(current), self.phi(current), self.g(current)))
        return current + answer


class DisentangledNonLocal(nn.Module):
    """The same (Yin et al. 2020) with what makes a pair alike apart from what makes a pixel matter to all.

    Queries and keys lose their means; one softmax over the image, `conv_mask`, is added for every pixel alike.
    """

    def __init__(self, channels: int, *, temperature: float = 0.05):
        super().__init__()
        inner = channels // 2
        self.scale = inner**-0.5 / temperature
        self.g = bare_conv(channels, inner)
        self.conv_out = ConvBNAct(inner, channels, act=False)
        self.theta = bare_conv(channels, inner)
        self.phi = bare_conv(channels, inner)
        nn.init.constant_(self.conv_out.bn.weight, START)
        self.conv_mask = nn.Conv2d(channels, 1, 1)

    def forward(self, current: Tensor) -> Tensor:
        queries, keys, values = self.theta(current), self.phi(current), self.g(current)
        queries = queries - queries.mean((2, 3), keepdim=True)
        keys = keys - keys.mean((2, 3), keepdim=True)
        pairs = attend(queries, keys, values, scale=self.scale)
        answer: Tensor = self.conv_out(pairs + weighted_mean(values, self.conv_mask(current)))
        return current + answer


class GlobalContext(nn.Module):
    """One weighted mean of the image for all pixels, through a bottleneck (Cao et al. 2019)."""

    def __init__(self, channels: int, *, share: int = 4):
        super().__init__()
        inner = channels // share
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.LayerNorm((inner, 1, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
        )

    def forward(self, current: Tensor) -> Tensor:
        added: Tensor = self.channel_add_conv(weighted_mean(current, self.conv_mask(current)))
        return current + added


def weighted_mean(current: Tensor, weights: Tensor) -> Tensor:
    """The mean of a map [B, C, h, w], weighted by a softmax of [B, 1, h, w] over the image: [B, C, 1, 1]."""
    shares = weights.flatten(2).softmax(2).transpose(1, 2)  # [B, h * w, 1]
    return (current.flatten(2) @ shares).unsqueeze(3)


class CrissCross(nn.Module):
    """Every pixel asks those of its row and its column (Huang et al. 2019), itself once."""

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = Gate()

    def forward(self, current: Tensor) -> Tensor:
        height = current.shape[2]
        queries, keys, values = self.query_conv(current), self.key_conv(current), self.value_conv(current)
        itself = torch.eye(height, dtype=torch.bool, device=current.device).unsqueeze(1)  # [h, 1, h]: row, column
        column = torch.einsum("bchw,bciw->bhwi", queries, keys).masked_fill(itself, float("-inf"))
        row = torch.einsum("bchw,bchj->bhwj", queries, keys)
        shares = torch.cat([column, row], dim=3).softmax(3)
        answer = torch.einsum("bciw,bhwi->bchw", values, shares[..., :height])
        answer = answer + torch.einsum("bchj,bhwj->bchw", values, shares[..., height:])
        gated: Tensor = self.gamma(answer)
        return gated + current


class PositionAttention(nn.Module):
    """Every pixel asks all others, unscaled (Fu et al. 2019)."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.key_project = nn.Conv2d(channels, inner, 1)
        self.query_project = nn.Conv2d(channels, inner, 1)
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.gamma = Gate()

    def forward(self, current: Tensor) -> Tensor:
        answer = attend(self.query_project(current), self.key_project(current), self.value_project(current), scale=1.0)
        gated: Tensor = self.gamma(answer)
        return gated + current


class ChannelAttention(nn.Module):
    """Every channel asks those that are least like it (Fu et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = Gate()

    def forward(self, current: Tensor) -> Tensor:
        channels = current.flatten(2)
        alike = channels @ channels.transpose(1, 2)  # [B, C, C]
        # From the largest of each row down, so that numbers of any size stay finite in half precision too.
        shares = (alike.amax(2, keepdim=True) - alike).softmax(2)
        gated: Tensor = self.gamma((shares @ channels).view_as(current))
        return gated + current


class KeyedAttention(nn.Module):
    """Attention through projections to `inner` channels; keys and queries are normalised after each of `convs`."""

    def __init__(self, channels: int, inner: int, *, convs: int):
        super().__init__()
        inputs = [channels, *[inner] * (convs - 1)]
        self.key_project = nn.Sequential(*(ConvBNAct(fan_in, inner) for fan_in in inputs))
        self.query_project = nn.Sequential(*(ConvBNAct(fan_in, inner) for fan_in in inputs))
        self.value_project = nn.Conv2d(channels, channels, 1)
        self.output_project = ConvBNAct(channels, channels)

    def forward(self, current: Tensor) -> Tensor:
        context = attend(self.query_project(current), self.key_project(current), self.value_project(current))
        answer: Tensor = self.output_project(context)
        return answer


def pooled_places(current: Tensor, scales: Sequence[int]) -> Tensor:
    """Averages over grids of `scales` x `scales` cells in a row: [B, C, h, w] to [B, C, sum of squares]."""
    return torch.cat([functional.adaptive_avg_pool2d(current, scale).flatten(2) for scale in scales], dim=2)


class PooledAttention(nn.Module):
    """The pixels of one map ask averages of another over grids (Zhu et al. 2019, asymmetric non-local).

    `shared`: one map asks itself, and queries are projected as keys are; files hold that projection under both names.
    """

    def __init__(
        self,
        low: int,
        high: int,
        inner: int,
        fan_out: int,
        *,
        shared: bool,
        scales: Sequence[int] = (1, 3, 6, 8),
    ):
        super().__init__()
        self.scales = tuple(scales)
        self.key_project = ConvBNAct(low, inner)
        self.query_project = self.key_project if shared else ConvBNAct(high, inner)
        self.value_project = nn.Conv2d(low, inner, 1)
        self.out_project = nn.Conv2d(inner, fan_out, 1)
        if shared:
            self.register_state_dict_post_hook(untied)  # type: ignore[no-untyped-call]  # torch's own lack of types

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        keys = pooled_places(self.key_project(low), self.scales)
        values = pooled_places(self.value_project(low), self.scales)
        answer: Tensor = self.out_project(attend(self.query_project(high), keys, values))
        return answer


def untied(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Give the second name of a shared tensor a copy: files cannot hold one tensor twice."""
    for key in module.query_project.state_dict():  # type: ignore[union-attr]  # a module, as above
        state[f"{prefix}query_project.{key}"] = state[f"{prefix}query_project.{key}"].clone()
