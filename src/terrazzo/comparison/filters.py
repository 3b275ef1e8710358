"""Conditions on rows: `model.kind=unet`, `miou>0.5`, `run~resnet`."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from terrazzo.base import InputError
from terrazzo.comparison.columns import Column
from terrazzo.comparison.recipes import Value

_CONDITION = re.compile(r"\s*([^=<>!~]+?)\s*(!=|>=|<=|=|>|<|~)\s*(.*?)\s*$")


def matcher(text: str, columns: Sequence[Column]) -> Callable[[Mapping[str, Value]], bool]:
    """A condition as a function of a row's values by key. A row without the value meets only `!=`.

    Raises:
        InputError: it is no condition, or compares a word by size.
    """
    found = _CONDITION.match(text)
    if found is None:
        raise InputError(f"where {text!r}: give a key, one of = != > < >= <= ~, and a value: miou>0.5, model.kind=unet")
    key, sign, wanted = found.groups()
    titles = {column.title.lower(): column.key for column in columns}
    key = titles.get(key.lower(), key)
    limit = _number(wanted)
    if sign in (">", "<", ">=", "<=") and limit is None:
        raise InputError(f"where {text!r}: {wanted!r} is no number, and {sign} compares numbers")

    def test(values: Mapping[str, Value]) -> bool:
        if key not in values and any(column.key == key for column in columns):
            return sign == "!="
        if key not in values:
            return _unknown(key, values, columns, sign)
        value = values[key]
        if value is None:
            return sign == "!=" or (sign == "=" and wanted in ("", "-", "none"))
        match sign:
            case "=":
                return _equal(value, wanted, limit)
            case "!=":
                return not _equal(value, wanted, limit)
            case "~":
                return wanted.lower() in str(value).lower()
            case _:
                return isinstance(value, int | float) and _by_size(float(value), sign, limit or 0.0)

    return test


def _unknown(key: str, values: Mapping[str, Value], columns: Sequence[Column], sign: str) -> bool:
    """A key that this row's recipe does not have may be another's; one that resembles nothing is a slip."""
    parents = {known.rpartition(".")[0] for known in values}
    if key.rpartition(".")[0] in parents and "." in key:
        return sign == "!="
    known_key(key, columns, values)
    return sign == "!="


def known_key(key: str, columns: Sequence[Column], recipe: Iterable[str]) -> str:
    """The column's key that is meant by a key or a title.

    Raises:
        InputError: there is no such column; the nearest are named.
    """
    known = {column.key: column.key for column in columns} | {name: name for name in recipe}
    titles = {column.title.lower(): column.key for column in columns}
    if key in known:
        return key
    if key.lower() in titles:
        return titles[key.lower()]
    near = difflib.get_close_matches(key, [*known, *titles], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    raise InputError(f"there is no column {key!r}; {hint}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _equal(value: Value, wanted: str, limit: float | None) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return limit is not None and float(value) == limit
    return str(value).lower() == wanted.lower()


def _by_size(value: float, sign: str, limit: float) -> bool:
    return {">": value > limit, "<": value < limit, ">=": value >= limit, "<=": value <= limit}[sign]
