"""Every architecture has the tensors that MMSegmentation's own network of a published config has, by name and shape.

`mmseg_manifests.json`, made with MMSegmentation 1.2.2: by architecture, a published result, its number of classes, how
many tensors its network has (without counters, derived tables and SegNeXt's bases), and the beginning of the SHA-256 of
their sorted lines "name shape".
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from terrazzo.published.loading import find_architecture

KNOWN = json.loads((Path(__file__).parent / "mmseg_manifests.json").read_text(encoding="utf-8"))
LEFT_OUT = ("num_batches_tracked", "relative_position_index", "bases")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(KNOWN))
def test_names_and_shapes_are_those_of_the_published_network(architecture: str) -> None:
    name, classes, count, digest = KNOWN[architecture]
    found = find_architecture(name)
    assert found.name == architecture
    with torch.device("meta"):
        tensors = found.build(classes).state_dict()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in tensors.items() if not key.endswith(LEFT_OUT))
    assert len(lines) == count
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest().startswith(digest)


def test_two_published_configs_keep_their_dilations_at_stride_32() -> None:
    """Compared with MMSegmentation 1.2.2 by their answers; no shape tells."""
    for name in ("pspnet_r50b-d32", "pspnet_r50-d32_rsb"):
        backbone = find_architecture(name).build(19).get_submodule("backbone")
        blocks = (backbone.get_submodule(f"layer{stage}.1.conv2") for stage in (1, 2, 3, 4))
        assert [convolution.dilation for convolution in blocks] == [(1, 1), (1, 1), (2, 2), (4, 4)]
        first = (backbone.get_submodule(f"layer{stage}.0.conv2") for stage in (1, 2, 3, 4))
        assert [(one.stride[0], one.dilation[0]) for one in first] == [(1, 1), (2, 1), (2, 1), (2, 2)]
