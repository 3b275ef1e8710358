"""Of every network of transformers a tiny one: what its config must say beside the library's defaults."""

from typing import Any

SWIN = {
    "model_type": "swin",
    "embed_dim": 12,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
VIT = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
FOUR = VIT | {"num_hidden_layers": 4, "intermediate_size": 32}
QUERIES = {"num_hidden_layers": 3, "num_blocks": 2, "num_queries": 8}

TINY: dict[str, dict[str, Any]] = {
    "segformer": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "upernet": {"backbone_config": SWIN, "hidden_size": 16, "auxiliary_channels": 8},
    "beit": FOUR | {"out_indices": [1, 2, 3, 4], "auxiliary_channels": 8, "use_relative_position_bias": True},
    "dpt": FOUR | {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16},
    "mobilevit": {
        "hidden_sizes": [16, 16, 16],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
        "num_attention_heads": 2,
        "aspp_out_channels": 16,
        "output_stride": 16,
    },
    "mask2former": {
        "backbone_config": SWIN,
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 2,
        "dim_feedforward": 32,
        "num_queries": 8,
    },
    "eomt": VIT | QUERIES,
    "eomt_dinov3": VIT | QUERIES | {"intermediate_size": 32},
}


def config(kind: str, **more: Any) -> dict[str, Any]:
    return {"model_type": kind} | TINY[kind] | more


def section(kind: str, **more: Any) -> dict[str, Any]:
    """Of a recipe: the network from scratch."""
    return {"kind": "huggingface", "config": config(kind, **more), "weights": "none"}
