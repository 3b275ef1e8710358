"""What differs between the recipes of runs: their leaves, the varied keys, values as short texts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Value = float | str | bool | None

NOT_RESULTS = (
    *("out", "data.workers", "data.worker_kind", "log_every", "save_every", "keep", "trackers", "sweep", "launch"),
)
"""Keys that change no number of a run: where it is written, how it is fed, how often it is kept."""

LONGEST = 40
"""Letters of a value in a table."""


def leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a resolved recipe without NOT_RESULTS; a list of sections has one leaf, itself, and more
    below it: which are wanted, `varied` decides."""
    found: dict[str, Any] = {}
    _collect(tree, "", found)
    return {key: value for key, value in found.items() if not _below(key, NOT_RESULTS)}


def _collect(tree: Any, prefix: str, found: dict[str, Any]) -> None:
    if isinstance(tree, Mapping) and tree:
        if prefix:
            found[prefix] = tree
        for key, value in tree.items():
            _collect(value, f"{prefix}.{key}" if prefix else str(key), found)
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        found[prefix] = tree
        for n, value in enumerate(tree):
            _collect(value, f"{prefix}.{n}", found)
    else:
        found[prefix] = tree


def _below(key: str, roots: Iterable[str]) -> bool:
    return any(f"{key}.".startswith(f"{root}.") for root in roots)


def varied(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ between the recipes (of `leaves`), in the recipes' own order.

    A key that only some recipes have (an option of one kind of model) differs if it does among those. A section is a
    key itself where it is a section in some and a plain value in others (`augment: null`), or a list of other entries.
    """
    found = list(dict.fromkeys(key for recipe in recipes for key in recipe))
    sections = list(dict.fromkeys(key.partition(".")[0] for key in found))
    keys = sorted(found, key=lambda key: sections.index(key.partition(".")[0]))
    whole = {key for key in keys if _is_whole(key, recipes)}
    shown = []
    for key in keys:
        if _below_strictly(key, whole):
            continue
        values = [recipe[key] for recipe in recipes if key in recipe]
        if key not in whole and any(isinstance(value, Mapping | list) and _has_sections(value) for value in values):
            continue  # its leaves stand for it
        if any(value != values[0] for value in values[1:]):
            shown.append(key)
    return shown


def _is_whole(key: str, recipes: Sequence[Mapping[str, Any]]) -> bool:
    values = [recipe[key] for recipe in recipes if key in recipe]
    sections = [value for value in values if isinstance(value, Mapping | list) and _has_sections(value)]
    if not sections or (len(sections) == len(values) and isinstance(sections[0], Mapping)):
        return False
    if len(sections) < len(values):
        return True
    kinds = [[item.get("kind") if isinstance(item, Mapping) else item for item in value] for value in sections]
    return any(kind != kinds[0] for kind in kinds)


def _has_sections(value: Any) -> bool:
    return bool(value) and (isinstance(value, Mapping) or any(isinstance(item, Mapping) for item in value))


def _below_strictly(key: str, roots: Iterable[str]) -> bool:
    return any(key.startswith(f"{root}.") for root in roots)


def value_of(recipe: Mapping[str, Any], key: str) -> Value:
    """A recipe's value as a table shows it: numbers stay numbers, a section is told in a few words."""
    value = recipe.get(key)
    if isinstance(value, bool) or (value is None and key in recipe):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float) or value is None:
        return value
    text = described(value)
    number = _as_number(text) if isinstance(value, str) else None
    return text if number is None else number


def described(value: object) -> str:
    """`cross_entropy + tversky`, `exact height=256 width=256`, `0.75, 2.0`."""
    match value:
        case Mapping():
            kind = value.get("kind")
            rest = {key: item for key, item in value.items() if key != "kind" and item not in (None, [], {})}
            words = [f"{key}={described(item)}" for key, item in rest.items()]
            text = " ".join([*([] if kind is None else [str(kind)]), *words]) or "none"
        case list() | tuple():
            kinds = [item.get("kind") if isinstance(item, Mapping) else None for item in value]
            joint = " + " if any(kinds) else ", "
            texts = (str(kind or described(item)) for kind, item in zip(kinds, value, strict=True))
            text = joint.join(texts) or "none"
        case None:
            text = "null"
        case bool():
            text = str(value).lower()
        case _:
            text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _as_number(text: str) -> float | None:
    """PyYAML reads 1e-4 as a string."""
    try:
        return float(text) if "e" in text.lower() and any(letter.isdigit() for letter in text) else None
    except ValueError:
        return None


def same_but_seed(recipe: Mapping[str, Any]) -> str:
    """A text that is equal for two runs that differ in nothing but `seed` and where they were written."""
    return repr(sorted((key, value) for key, value in recipe.items() if not _is_section(value) and key != "seed"))


def section_text(recipe: Mapping[str, Any], *roots: str, but: Sequence[str] = ()) -> str:
    """Some sections of a recipe as one text, to be compared."""
    wanted = ((key, value) for key, value in recipe.items() if _below(key, roots) and not _below(key, but))
    return repr(sorted((key, value) for key, value in wanted if not _is_section(value)))


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping | list) and _has_sections(value)
