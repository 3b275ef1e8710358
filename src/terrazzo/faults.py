"""What pydantic finds wrong, in the words of the recipe that was typed."""

import difflib
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def sentences(error: ValidationError, model: type[BaseModel], within: tuple[str, ...] = ()) -> str:
    """Every fault once, a line each; `within` is where the validated tree stands in `model`."""
    lines = [_sentence({**fault, "loc": (*within, *fault["loc"])}, model) for fault in error.errors()]
    return "\n".join(dict.fromkeys(lines))


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


def _sentence(fault: Any, model: type[BaseModel]) -> str:
    """One pydantic fault in the words of the recipe, with the nearest known key."""
    loc, kind = fault["loc"], fault["type"]
    where = ".".join(str(part) for part in _recipe_path(loc, model))
    match kind:
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
    path: list[int | str] = []
    level: list[Any] = [model]
    for part in loc:
        known = _fields(level)
        if isinstance(part, int) or part in known or not _tagged(level, part):
            path.append(part)
            level = _members(known[part]) if part in known else _items(level)
        else:
            level = _tagged(level, part)
    return path


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    level: list[Any] = [model]
    for part in loc:
        known = _fields(level)
        if part in known:
            level = _members(known[str(part)])
        elif isinstance(part, int):
            level = _items(level)
        else:
            level = _tagged(level, part) or level
    return set(_fields(level))


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
    return [member for t in level if get_origin(t) in (tuple, list) for member in _members(get_args(t)[0])]
