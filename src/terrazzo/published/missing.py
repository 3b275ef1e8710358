"""What terrazzo lacks of the published networks that it cannot run: one part a family. Data only, no torch."""

from terrazzo.published.catalog import Entry

PARTS: dict[str, str] = {
    "mask2former": "MMDetection's pixel decoder (the hub's Mask2Former runs as kind: huggingface)",
    "maskformer": "MMDetection's MaskFormer head",
    "san": "SAN's side adapter over CLIP, which answers from texts",
    "vpd": "depth estimation: this entry is no segmentation network",
}
"""By config folder."""


def missing_part(entry: Entry) -> str:
    """A noun: what would have to be written for `entry` to run."""
    return PARTS.get(entry.family, f"a part of {entry.family}")


def cannot_run(entry: Entry) -> str:
    """The sentence for a user who asked for `entry`."""
    return (
        f"{entry.name} cannot run: terrazzo lacks {missing_part(entry)}; `terrazzo models list --runnable` shows what "
        "runs"
    )
