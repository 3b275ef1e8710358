"""Networks of transformers as ours: images in, an answer at the network's own stride out, no loss, no dictionary.

Each wraps the library's module in the attribute `model` and calls its parts, because the library's own call enlarges
logits to the image's size, leaves auxiliary heads out, knows square images only, or hides earlier layers' answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from terrazzo.base import IMAGENET, InputError, Normalization
from terrazzo.models.segmenter import Role
from terrazzo.output import Output, Queries

HALF = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
UNTOUCHED = Normalization(mean=(0, 0, 0), std=(1, 1, 1), channel_order="bgr")


class Made:
    """What a function made of its arguments, kept for the last few. The library keeps such tensors too, but those made
    in inference mode, as validation runs, cannot be trained with afterwards."""

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function
        self.made: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, *arguments: Any) -> Tensor:
        if arguments not in self.made:
            if len(self.made) >= 4:
                self.made.clear()
            with torch.inference_mode(False):
                self.made[arguments] = self.function(*arguments)
        return self.made[arguments]


def keep_in(model: nn.Module, name: str) -> None:
    """Put a `Made` in place of the static method of that name, which the library keeps the answers of."""
    made: Made | None = None
    for module in model.modules():
        method = getattr(type(module), name, None)
        if method is not None:
            made = made or Made(method.__wrapped__)
            object.__setattr__(module, name, made)


class Plain(nn.Module):
    """The library's logits as they are: SegFormer at stride 4, MobileViT at its output stride."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Output:
        return Output(self.model(images).logits)


class UperNet(nn.Module):
    """Images [B, C, H, W] to logits and, where it has one, the auxiliary head's, each at its features' stride."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Output:
        features = self.model.backbone(images).feature_maps
        auxiliary = self.model.auxiliary_head
        logits = self.model.decode_head(features)
        return Output(logits, () if auxiliary is None else (auxiliary(features),))


class Beit(nn.Module):
    """As `UperNet`, over four layers of a plain transformer; positions are interpolated to the image's size."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        keep_in(model, "generate_relative_position_index")

    def forward(self, images: Tensor) -> Output:
        model, patch = self.model, self.model.config.patch_size
        hidden = model.beit(images, output_hidden_states=True).hidden_states
        grid = images.shape[2] // patch, images.shape[3] // patch
        chosen = (hidden[layer - 1][:, 1:].transpose(1, 2) for layer in model.config.out_indices)
        features = model.fpn(tuple(tokens.reshape(len(images), -1, *grid) for tokens in chosen))
        logits = model.decode_head(features)
        return Output(logits, () if model.auxiliary_head is None else (model.auxiliary_head(features),))


class Dpt(nn.Module):
    """Logits and the auxiliary head's, at half the image's size; positions are interpolated, sides may differ."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        model.head.head = model.head.head[:-1]  # enlarges to the image's size, by corners

    def forward(self, images: Tensor) -> Output:
        model, patch = self.model, self.model.config.patch_size
        hidden = model.dpt(images, output_hidden_states=True).hidden_states[1:]
        chosen = [hidden[layer] for layer in model.config.backbone_out_indices]
        features = model.neck(chosen, images.shape[2] // patch, images.shape[3] // patch)
        logits = model.head(features)
        auxiliary = () if model.auxiliary_head is None else (model.auxiliary_head(features[-1]),)
        return Output(logits, auxiliary, align_corners=True)


def _of_queries(layers: list[Queries]) -> Output:
    """The last layer's answer, the earlier ones beside it."""
    queries = layers[-1]._replace(aux=tuple(layers[:-1]))
    return Output(queries.scores(), queries=queries, are_scores=True)


class Mask2Former(nn.Module):
    """Images to queries, with those of every earlier decoder layer."""

    def __init__(self, model: Any):
        super().__init__()
        del model.criterion  # the library's loss, whose weights count the classes
        self.model = model
        keep_in(model, "build_sine_position_embedding")
        self.train(model.training)

    def train(self, mode: bool = True) -> Self:
        """As always, but the pixel decoder's layers stay out of train mode: all they do there, without dropout, is to
        ask the device whether a number is infinite, which makes the host wait and a graph break."""
        super().train(mode)
        for layer in self.model.model.pixel_level_module.decoder.encoder.layers:
            layer.training = mode and layer.dropout + layer.activation_dropout > 0
        return self

    def forward(self, images: Tensor) -> Output:
        answer = self.model.model(images, output_hidden_states=True)
        classes = [
            self.model.class_predictor(state.transpose(0, 1))
            for state in answer.transformer_decoder_intermediate_states
        ]
        layers = [Queries(*pair) for pair in zip(classes, answer.masks_queries_logits, strict=True)]
        return _of_queries(layers)


class Eomt(nn.Module):
    """Images to queries, with the answers before each of the last blocks; over DINOv2 or DINOv3 (rotated positions).

    The sides may differ from the trained ones: DINOv2's positions are interpolated, DINOv3's follow the size by
    themselves. Whether a query sees only the patches of its own mask in a block is the buffer `attn_mask_probs`, as the
    weights bring it: 1 in a network from scratch, 0 after training that faded the masks out. Between the two a query is
    masked at random in training, and from 0.5 up in eval mode.
    """

    def __init__(self, model: Any):
        super().__init__()
        del model.criterion  # the library's loss, whose weights count the classes
        self.model = model

    def forward(self, images: Tensor) -> Output:
        model = self.model
        grid = images.shape[2] // model.config.patch_size, images.shape[3] // model.config.patch_size
        tokens, options = self._embedded(images, grid)
        first = model.num_hidden_layers - model.config.num_blocks
        layers: list[Queries] = []
        for place, layer in enumerate(model.layers):
            mask = None
            if place == first:
                tokens = torch.cat([model.query.weight.expand(len(images), -1, -1), tokens], 1)
            if place >= first:
                layers.append(self._answer(tokens, grid))
                mask = self._mask(layers[-1].masks, grid, tokens, model.attn_mask_probs[place - first])
            tokens = layer(tokens, attention_mask=mask, **options)
        return _of_queries([*layers, self._answer(tokens, grid)])

    def _embedded(self, images: Tensor, grid: tuple[int, int]) -> tuple[Tensor, dict[str, Any]]:
        """Tokens [B, prefix + h w, C] of an image, and what the layers are told besides."""
        model, parts = self.model, self.model.embeddings
        if model.config.model_type == "eomt_dinov3":
            return model.dropout(parts(images)), {"position_embeddings": model.rope_embeddings(images)}
        positions = parts.position_embeddings.weight
        if grid != model.grid_size:
            plane = positions.T.reshape(1, -1, *model.grid_size)
            plane = functional.interpolate(plane, grid, mode="bicubic", align_corners=False)
            positions = plane.flatten(2)[0].T
        prefix = (parts.cls_token, parts.register_tokens)
        patches = parts.patch_embeddings(images) + positions
        return parts.dropout(torch.cat([*(each.expand(len(images), -1, -1) for each in prefix), patches], 1)), {}

    def _answer(self, tokens: Tensor, grid: tuple[int, int]) -> Queries:
        model = self.model
        seen = model.layernorm(tokens)
        queries = seen[:, : model.config.num_queries]
        patches = seen[:, model.config.num_queries + model.embeddings.num_prefix_tokens :]
        plane = model.upscale_block(patches.transpose(1, 2).reshape(len(tokens), -1, *grid))
        masks = torch.einsum("bqc,bchw->bqhw", model.mask_head(queries), plane)
        return Queries(model.class_predictor(queries), masks)

    def _mask(self, masks: Tensor, grid: tuple[int, int], tokens: Tensor, share: Tensor) -> Tensor:
        """What is added to the attention [B, 1, tokens, tokens]: nothing, or a lot less where a query must not look."""
        count = masks.shape[1]
        inside = functional.interpolate(masks, grid, mode="bilinear", align_corners=False).flatten(2) > 0
        masked = torch.rand(len(masks), count, 1, device=masks.device) < share if self.training else share >= 0.5
        hidden = ~inside & masked
        least = torch.finfo(tokens.dtype).min if tokens.dtype != torch.float16 else -1e4
        block = tokens.new_zeros(()).masked_fill(hidden, least).to(tokens.dtype)
        block = functional.pad(block, (tokens.shape[1] - block.shape[2], 0, 0, tokens.shape[1] - count))
        return block[:, None]


@dataclass(frozen=True)
class Family:
    """What must be known of a kind of network of the library."""

    library_class: str
    """Its name in transformers."""
    net: type[nn.Module]
    roles: Mapping[str, Role]
    """Of parts of `model`."""
    normalization: Normalization = IMAGENET
    """Of the library's image processor, where no file says another."""
    stride: int | None = None
    """None: the patch's side."""
    smallest: int = 32


UPER_ROLES: dict[str, Role] = {
    "model.decode_head": "decoder",
    "model.decode_head.classifier": "head",
    "model.auxiliary_head": "decoder",
    "model.auxiliary_head.classifier": "head",
}
EOMT_ROLES: dict[str, Role] = {
    "model.embeddings": "encoder",
    "model.layers": "encoder",
    "model.layernorm": "encoder",
    "model.class_predictor": "head",
}
FAMILIES: dict[str, Family] = {
    "segformer": Family(
        "SegformerForSemanticSegmentation",
        Plain,
        {"model.segformer": "encoder", "model.decode_head": "decoder", "model.decode_head.classifier": "head"},
        stride=4,
    ),
    "upernet": Family(
        "UperNetForSemanticSegmentation", UperNet, {**UPER_ROLES, "model.backbone": "encoder"}, stride=32
    ),
    "beit": Family("BeitForSemanticSegmentation", Beit, {**UPER_ROLES, "model.beit": "encoder"}, HALF),
    "dpt": Family(
        "DPTForSemanticSegmentation",
        Dpt,
        {
            "model.dpt": "encoder",
            "model.head": "decoder",
            "model.head.head.4": "head",
            "model.auxiliary_head": "decoder",
            "model.auxiliary_head.head.4": "head",
        },
        HALF,
        stride=32,
    ),
    "mobilevit": Family(
        "MobileViTForSemanticSegmentation",
        Plain,
        {
            "model.mobilevit": "encoder",
            "model.segmentation_head": "decoder",
            "model.segmentation_head.classifier": "head",
        },
        UNTOUCHED,
        stride=32,
    ),
    "mask2former": Family(
        "Mask2FormerForUniversalSegmentation",
        Mask2Former,
        {
            "model.model.pixel_level_module.encoder": "encoder",
            "model.model.pixel_level_module.decoder": "decoder",
            "model.class_predictor": "head",
        },
        stride=32,
    ),
    "eomt": Family("EomtForUniversalSegmentation", Eomt, EOMT_ROLES),
    "eomt_dinov3": Family("EomtDinov3ForUniversalSegmentation", Eomt, EOMT_ROLES),
}
"""By the library's `model_type`."""

QUERY_FAMILIES = ("mask2former", "eomt", "eomt_dinov3")
"""Those that answer queries."""


def family_of(model_type: object) -> Family:
    """What is known of a `model_type`; InputError if nothing is."""
    if model_type in FAMILIES:
        return FAMILIES[str(model_type)]
    raise InputError(
        f"model: transformers' model_type {model_type!r} is no network for semantic segmentation that is known here; "
        f"known are {', '.join(FAMILIES)}"
    )
