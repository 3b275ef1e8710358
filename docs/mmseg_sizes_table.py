"""How src/terrazzo/published/mmseg_sizes.json was made: `python docs/mmseg_sizes_table.py CONFIGS > ...json`.

CONFIGS is the folder of MMSegmentation 1.2.2's configs. The defaults of its classes are read off their signatures, for
which mmseg must be importable; with `--defaults FILE` those of an earlier table are kept.
"""

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from terrazzo.published import mmseg_sizes
from terrazzo.published.mmseg_config import parse_config

OTHER_HEADS = ("Mask2FormerHead", "MaskFormerHead", "SideAdapterCLIPHead", "VPDDepthHead")
"""Of networks that are far from any of terrazzo's; an unknown head is said to be one without them."""

MISNAMED = {"twins_pcpvt-l_uperhead_8xb2-160k_ade20k-512x512": "twins_pcpvt-l_uperhead"}
"""Configs under whose name another network's weights are published."""


def main(folder: Path, defaults: dict[str, dict[str, Any]] | None) -> None:
    """Print the table."""
    models = {
        path.stem: parse_config(path.read_text(encoding="utf-8"), folder=path.parent)["model"]
        for path in sorted(folder.rglob("*.py"))
        if not {"_base_", "dsdl"} & {*path.parts}
    }
    raw = {name: _without_defaults(model) for name, model in models.items()}
    kinds = sorted({kind for sizes in raw.values() for kind in _all_kinds(sizes)})
    table = {"defaults": defaults or {kind: found for kind in kinds if (found := _defaults(kind))}}
    parts: list[Any] = []
    networks: dict[str, dict[str, Any]] = {}
    seen: list[dict[str, Any]] = []
    for name in sorted(raw, key=lambda name: (len(name), name)):
        sizes = {part: mmseg_sizes.plain(value, table["defaults"]) for part, value in raw[name].items()}
        head = sizes.get("decode_head")
        if sizes in seen or (isinstance(head, dict) and head.get("type") in OTHER_HEADS):
            continue
        seen.append(sizes)
        networks[MISNAMED.get(name, name)] = {part: _placed(value, parts) for part, value in sizes.items()}
    table |= {"networks": networks, "parts": parts}
    lines = [f' "{key}": {_lines(value)}' for key, value in table.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


def _lines(value: Any) -> str:
    """JSON with one entry a line."""
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in sorted(value.items())) + "\n }"
    return "[\n" + ",\n".join(f"  {json.dumps(each)}" for each in value) + "\n ]"


def _without_defaults(model: dict[str, Any]) -> dict[str, Any]:
    return {part: mmseg_sizes.plain(model[part], {}) for part in mmseg_sizes.PARTS if model.get(part) is not None}


def _placed(value: Any, parts: list[Any]) -> Any:
    """The place of a part in the list of parts; each stands there once."""
    if isinstance(value, list):
        return [_placed(each, parts) for each in value]
    if not isinstance(value, dict):
        return value
    if value not in parts:
        parts.append(value)
    return parts.index(value)


def _all_kinds(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _all_kinds(each)


def _defaults(kind: str) -> dict[str, Any]:
    """What MMSegmentation takes for the keys that a config leaves out."""
    import mmseg.models  # noqa: F401  # registers its classes
    from mmseg.registry import MODELS

    found: dict[str, Any] = {}
    for each in reversed(inspect.getmro(MODELS.get(kind) or object)):
        if each.__module__.partition(".")[0] not in ("mmseg", "mmcv", "mmengine"):
            continue
        for name, parameter in inspect.signature(each.__init__).parameters.items():
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is inspect.Parameter.empty:
                found.pop(name, None)
            elif parameter.default is not inspect.Parameter.empty:
                found[name] = parameter.default
    given = {name: value for name, value in mmseg_sizes.plain(found, {}).items() if value is not None}
    return {name: value for name, value in given.items() if name != "type" and _is_data(value)}


def _is_data(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


if __name__ == "__main__":
    kept = Path(sys.argv[3]) if "--defaults" in sys.argv else None
    main(Path(sys.argv[1]), json.loads(kept.read_text(encoding="utf-8"))["defaults"] if kept else None)
