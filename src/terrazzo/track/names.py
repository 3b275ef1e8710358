"""Names of runs in trackers: `{model.arch}_{model.encoder}` becomes what the recipe says."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from terrazzo.base import InputError

PLACE = re.compile(r"\{([^{}]*)\}")


def filled(text: str, recipe: Mapping[str, Any], where: str) -> str:
    """The text with `{dotted.key}` replaced by the resolved recipe's value.

    Raises:
        InputError: there is no such key, or it is a section; `where` is the setting that holds the text.
    """
    result = PLACE.sub(lambda found: _shown(recipe, found[1], where), text)
    if not result.strip():
        raise InputError(f"{where}: the name is empty; leave the key out, or give a name")
    return result


def _shown(recipe: Mapping[str, Any], key: str, where: str) -> str:
    node: Any = recipe
    for part in key.split("."):
        known = _keys(node)
        if part not in known:
            near = difflib.get_close_matches(part, known, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            there = f"; known keys there: {', '.join(known)}" if known else ""
            raise InputError(f"{where}: {{{key}}} names no key of this recipe{hint}{there}")
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
    if _keys(node):
        raise InputError(f"{where}: {{{key}}} is a whole section; name one of its keys: {', '.join(_keys(node))}")
    match node:
        case bool() | None:
            return str(node).lower()
        case float():
            return f"{node:g}"
        case _:
            return str(node)


def _keys(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [str(at) for at in range(len(node))]
    return []
