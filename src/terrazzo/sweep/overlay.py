"""Keys laid over a recipe, dotted or nested; the recipe stays as it is."""

import copy
from collections.abc import Mapping
from typing import Any

from terrazzo.recipe import put

Tree = dict[str, Any]

UNITS = ({"steps", "epochs"}, {"per_step", "per_epoch"})
"""Keys of which a section has one: {steps: 500} or {epochs: 2}."""


def laid_over(tree: Tree, keys: Mapping[str, Any], where: str) -> Tree:
    """`keys` laid over a recipe: a dotted key sets that one value; sections are laid over each other key by key, and
    one of another kind or unit replaces what was there."""
    out = copy.deepcopy(tree)
    for key, value in copy.deepcopy(dict(keys)).items():  # the caller's stay as they are
        if "." not in key:
            out = merged(out, {key: value})
            continue
        put(out, key, value, f"{where}: {key}={value}")
        *parents, last = key.split(".")
        for others in (unit - {last} for unit in UNITS if last in unit):
            section: Any = out
            for parent in parents:
                section = section[int(parent) if isinstance(section, list) else parent]
            for other in others:
                section.pop(other, None)
    return out


def merged(tree: Tree, update: Mapping[str, Any]) -> Tree:
    """`update` laid over `tree`; a section of another kind or in another unit replaces what was there."""
    out = dict(tree)
    for key, new in update.items():
        old = out.get(key)
        out[key] = merged(old, new) if isinstance(old, dict) and isinstance(new, dict) and _fit(old, new) else new
    return out


def _fit(old: Tree, new: Tree) -> bool:
    kinds = {section["kind"] for section in (old, new) if "kind" in section}
    return len(kinds) < 2 and not any(unit <= old.keys() | new.keys() for unit in UNITS)
