"""What a run of a sweep is called: every value that varies, then the start of the hash of its resolved recipe."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from terrazzo.engine.rundir import MAY_DIFFER
from terrazzo.sweep.overlay import UNITS

LONGEST = 150
"""Characters of a name; file systems allow 255, and a state's temporary file adds some."""

NEUTRAL = tuple(key for key in MAY_DIFFER if key not in ("length", "validate_every"))
"""Keys that leave a run's results as they are, and so its hash."""


def recipe_hash(tree: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved recipe, in hex; where it is kept and computed does not count."""
    counted = _without(tree, "")
    return hashlib.sha256(json.dumps(counted, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _without(tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {key: _without(value, f"{prefix}{key}.") for key, value in tree.items() if f"{prefix}{key}" not in NEUTRAL}


def run_name(stem: str, digest: str) -> str:
    """The stem, cut where it would be too long for a file name, and the first 8 digits of the hash."""
    return f"{stem[: LONGEST - 9]}-{digest[:8]}" if stem else digest[:8]


def stem_of(varied: Mapping[str, str]) -> str:
    """ "model=unet_small-lr=0.01" of the axes' short names and the values' texts."""
    return "-".join(f"{key}={value}" for key, value in varied.items())


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last word of each dotted key that says what it is (lr of optim.lr, gamma of schedule.gamma.per_epoch).

    Keys whose words are the same keep more of them, from the right.
    """
    units = {"kind"}.union(*UNITS)
    parts = {key: key.split(".") for key in keys}
    parts = {key: words[:-1] if len(words) > 1 and words[-1] in units else words for key, words in parts.items()}
    if len({".".join(words) for words in parts.values()}) < len(parts):
        return {key: key for key in keys}
    short = {key: words[-1:] for key, words in parts.items()}
    while twice := [key for key in keys if [*short.values()].count(short[key]) > 1]:
        for key in twice:
            short[key] = parts[key][-len(short[key]) - 1 :]
    return {key: ".".join(words) for key, words in short.items()}


def value_text(value: Any, position: int) -> str:
    """A value as part of a file name; one that has no short text is named by its position among its axis's values."""
    match number(value):
        case bool() | None as plain:
            return {True: "True", False: "False", None: "null"}[plain]
        case float() as real:
            return _plain_float(real)
        case int() as whole:
            return str(whole)
        case str() as text:
            return file_text(text)
        case list() | tuple() as listed if all(isinstance(item, int | float | str) for item in listed):
            return "x".join(value_text(item, 0) for item in listed)
    return f"v{position + 1}"


def number(value: Any) -> Any:
    """YAML reads 1e-4 as text; here it is the number that the recipe's field will make of it."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    return value


def file_text(text: str) -> str:
    """Without what file systems or shells read as something else."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "_", text).strip("._") or "_"


def _plain_float(value: float) -> str:
    """0.0001 rather than 1e-04, up to where it would be long."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.10f}".rstrip("0")
    return text if 1e-7 <= abs(value) < 1e6 and float(text) == value else f"{value:g}"
