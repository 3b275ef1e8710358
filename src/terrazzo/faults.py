"""What pydantic finds wrong, in the words of the recipe that was typed."""

import difflib
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

PLAIN = re.compile(r"(literal|tuple|list|dict|lax-or-strict)\[.*\]|(constrained-)?(int|float|str)|bool|path")
"""What pydantic calls the members of a union that are no sections."""
OTHER_KEYS, OTHER_FORM = 1, 2
"""How far a value is from one of the forms that it may have."""


def sentences(error: ValidationError, model: type[BaseModel], within: tuple[str, ...] = ()) -> str:
    """Every fault once, a line each; `within` is where the validated tree stands in `model`."""
    faults: list[Any] = [{**fault, "loc": (*within, *fault["loc"])} for fault in error.errors()]
    below = {fault["loc"][:-1] for fault in faults}
    faults = [f for f in faults if f["type"] != "too_short" or f["loc"] not in below]  # of entries that are wrong
    return "\n".join(dict.fromkeys(_sentence(fault, model) for fault in _of_nearest_forms(faults, model)))


def with_kinds(model: type[BaseModel], tree: dict[str, Any]) -> dict[str, Any]:
    """A section whose default has a kind may leave `kind` out: `optim: {lr: 1e-3}` is the default optimiser."""
    filled = dict(tree)
    for key, field in model.model_fields.items():
        value = filled.get(key)
        if not isinstance(value, dict):
            continue
        if (kind := getattr(field.default, "kind", None)) is not None:
            value = {"kind": kind, **value}
        members = [m for m in _members(field.annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
        chosen = _tagged(members, value["kind"]) if "kind" in value else members
        filled[key] = with_kinds(chosen[0], value) if len(chosen) == 1 else value
    return filled


def _of_nearest_forms(faults: list[Any], model: type[BaseModel]) -> list[Any]:
    """Where a value may have one of several forms, the faults of that which it is nearest to; of none, one for all."""
    for place in {fault["loc"][:at]: None for fault in faults for at in _labels(fault["loc"], model)}:
        depth = len(place)
        mine = [fault for fault in faults if fault["loc"][:depth] == place and len(fault["loc"]) > depth]
        far: dict[Any, int] = {}
        for fault in mine:
            form = fault["loc"][depth]
            far[form] = max(far.get(form, 0), _distance(fault["type"], len(fault["loc"]) - depth - 1))
        if len(far) < 2:
            continue
        least = min(far.values())
        kept = [fault for fault in mine if far[fault["loc"][depth]] == least]
        if least == OTHER_FORM or (least == OTHER_KEYS and [*far.values()].count(least) > 1):
            forms = [_form(form, _level(place, model)) for form in far]
            keys = {fault["loc"][-1]: fault["input"] for fault in kept if fault["type"] == "extra_forbidden"}
            found = keys or kept[0]["input"]
            kept = [{"loc": place, "type": "no_form", "input": found, "ctx": {"forms": forms}}]
        at = faults.index(mine[0])
        faults = [*faults[:at], *kept, *(fault for fault in faults[at:] if fault not in mine)]
    return faults


def _distance(kind: str, below: int) -> int:
    """How far a fault takes a value from a form: another type, other keys than those of the section, or a bad value."""
    if below == 0 and (kind.endswith(("_type", "_parsing")) or kind == "literal_error"):
        return OTHER_FORM
    return OTHER_KEYS if below == 1 and kind in ("missing", "extra_forbidden") else 0


def _form(label: Any, level: list[Any]) -> str:
    """How a value of this member of a union is written."""
    for section in _tagged(level, label):
        return _section(section)
    text = str(label)
    if text.startswith("literal["):
        return text.removeprefix("literal[").removesuffix("]").replace("'", "").replace(",", " or ")
    plain = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
    text = text.removeprefix("constrained-")
    return plain.get(text, "a list" if text.startswith(("tuple", "list")) else "a path" if "path" in text else "keys")


def _section(model: type[BaseModel]) -> str:
    keys = [field.alias or key for key, field in model.model_fields.items() if field.is_required()]
    return "{" + ", ".join(f"{key}: ..." for key in keys or [*model.model_fields][:1]) + "}"


def _sentence(fault: Any, model: type[BaseModel]) -> str:
    """One pydantic fault in the words of the recipe, with the nearest known key."""
    loc, kind = fault["loc"], fault["type"]
    if loc and loc[-1] == "[key]":
        where = ".".join(str(part) for part in _recipe_path(loc[:-2], model))
        return f"{where}: {str(fault['msg']).replace('Input', 'a key')} (found {fault['input']!r})"
    where = ".".join(str(part) for part in _recipe_path(loc, model))
    match kind:
        case "no_form":
            return f"{where}: found {fault['input']!r}; write {' or '.join(fault['ctx']['forms'])}"
        case "model_type":
            section = next(
                (m for m in _level(loc, model) if getattr(m, "__name__", "") == fault["ctx"]["class_name"]), None
            )
            wanted = "keys" if section is None else _section(section)
            return f"{where}: found {fault['input']!r}; write {wanted}"
        case "model_attributes_type":
            example = f": {{kind: {fault['input']}}}" if isinstance(fault["input"], str) else ""
            return f"{where}: found {fault['input']!r}, where a section with keys stands{example}"
        case "tuple_type":
            example = f": [{fault['input']}]" if isinstance(fault["input"], str) else ""
            return f"{where}: found {fault['input']!r}; write a list{example}"
        case "extra_forbidden":
            known = _keys_at(model, loc[:-1])
            near = did_you_mean(str(loc[-1]), known)
            return f"{where}: there is no such key{near}. Known keys here: {', '.join(sorted(known))}"
        case "missing":
            return f"{where}: this key is missing and has no default"
        case "union_tag_invalid":
            tags = [tag.strip(" '") for tag in fault["ctx"]["expected_tags"].split(",")]
            near = did_you_mean(str(fault["ctx"]["tag"]), tags)
            return f"{where}.kind: {fault['ctx']['tag']!r} is not one of {', '.join(tags)}{near}"
        case "union_tag_not_found":
            return f"{where}.kind: this key is missing; it chooses what the section is"
        case "value_error":
            message = str(fault["msg"]).removeprefix("Value error, ")
            return message if not where or message.startswith(where) else f"{where}: {message}"
        case _:
            return f"{where}: {fault['msg']} (found {fault['input']!r})"


def did_you_mean(word: str, known: Sequence[str] | set[str]) -> str:
    """The nearest known word, in brackets; nothing if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _recipe_path(loc: tuple[int | str, ...], model: type[BaseModel]) -> list[int | str]:
    """Pydantic's location without the union tags and class names that no recipe shows."""
    labels = _labels(loc, model)
    return [part for at, part in enumerate(loc) if at not in labels]


def _labels(loc: tuple[int | str, ...], model: type[BaseModel]) -> list[int]:
    """Where a location names a member of a union, which no recipe shows."""
    return [at for at, part in enumerate(loc) if _is_label(part, _level(loc[:at], model))]


def _is_label(part: int | str, level: list[Any]) -> bool:
    if isinstance(part, int) or part in _fields(level):
        return False
    return bool(_tagged(level, part)) or (len(level) > 1 and PLAIN.fullmatch(part) is not None)


def _level(loc: tuple[int | str, ...], model: type[BaseModel]) -> list[Any]:
    """The types that a value at this location may have."""
    level: list[Any] = [model]
    for part in loc:
        known = _fields(level)
        if part in known:
            level = _members(known[part])
        elif not _is_label(part, level):
            level = _items(level)
        else:
            level = _tagged(level, part) or [t for t in level if _is_called(t, str(part))]
    return level


def _is_called(member: Any, label: str) -> bool:
    origin = get_origin(member)
    return (origin or member).__name__ == label.split("[")[0] if origin in (tuple, list, dict, None) else False


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    return set(_fields(_level(loc, model)))


def _fields(level: list[Any]) -> dict[Any, Any]:
    models = [t for t in level if isinstance(t, type) and issubclass(t, BaseModel)]
    return {field.alias or key: field.annotation for model in models for key, field in model.model_fields.items()}


def _tagged(level: list[Any], tag: int | str) -> list[Any]:
    """The members of a union that pydantic means by this entry of a location: by kind, or by class name."""
    models = [t for t in level if isinstance(t, type) and issubclass(t, BaseModel)]
    return [m for m in models if tag in (m.__name__, getattr(m.model_fields.get("kind"), "default", None))]


def _members(annotation: Any) -> list[Any]:
    """The plain types inside Annotated, unions and optionals; a tuple stays for `_items`."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def _items(level: list[Any]) -> list[Any]:
    """What a list's entries, or a dict's values, may be."""
    lists = [get_args(t)[0] for t in level if get_origin(t) in (tuple, list)]
    return [
        member for t in (*lists, *(get_args(t)[1] for t in level if get_origin(t) is dict)) for member in _members(t)
    ]
