"""Write docs/reference/ from the schema: python docs/generate.py. A test fails when the files are not as it writes."""

import json
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from terrazzo.sweep.plan import SweepRecipe

REFERENCE = Path(__file__).parent / "reference"

HEAD = """# Recipe reference

Generated from the schema by `docs/generate.py`; do not edit. A recipe is a YAML file of these keys; on the command line
every key can be given as `key=value` (`optim.lr=1e-3`), which replaces the whole value at that key. A section that has
`kind` is one of several: `kind` chooses.
"""


def reference() -> str:
    """The page: one table per section, in the order a reader meets them."""
    sections: dict[type[BaseModel], str] = {}
    collect(SweepRecipe, "", sections)
    return HEAD + "".join(table(model, where) for model, where in sections.items())


def collect(model: type[BaseModel], where: str, sections: dict[type[BaseModel], str]) -> None:
    if model in sections:
        return
    sections[model] = where
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            collect(inner, f"{where}.{name}".removeprefix("."), sections)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in models_in(arg)]


def keys(model: type[BaseModel]) -> list[str]:
    """As a recipe writes them: `from`, though Python's attribute is `from_`."""
    return [field.alias or name for name, field in model.model_fields.items()]


def table(model: type[BaseModel], where: str) -> str:
    kind = model.model_fields.get("kind")
    title = f"`{where}`" if where else "The whole recipe"
    if kind is not None:
        title += f" of kind `{kind.default}`"
    elif where and set(model.model_fields) <= {"steps", "epochs"}:
        title = f"A length or an interval: `{{{next(iter(model.model_fields))}: N}}`"
    lines = [
        f"\n## {title}\n",
        f"{(model.__doc__ or '').strip()}\n" if model.__doc__ else "",
        "| key | value | default | meaning |",
    ]
    lines.append("|---|---|---|---|")
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(
            f"| `{field.alias or name}` | {shown_type(field.annotation)} | {shown_default(field)} | {meaning} |"
        )
    return "\n".join(line for line in lines if line) + "\n"


def shown_default(field: Any) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    value = field.default_factory() if field.default_factory else field.default
    return f"`{as_yaml(value)}`"


def as_yaml(value: Any) -> str:
    match value:
        case BaseModel():
            kind = getattr(value, "kind", None)
            changed = {"kind": kind} if kind else {}
            changed |= {k: v for k, v in value.model_dump(mode="json").items() if k != "kind" and is_length(value)}
            return "{" + ", ".join(f"{k}: {as_yaml(v)}" for k, v in changed.items()) + "}"
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return "[" + ", ".join(as_yaml(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{as_yaml(k)}: {as_yaml(v)}" for k, v in value.items()) + "}"
        case Path():
            return value.as_posix()
        case _:
            return str(value)


def is_length(value: BaseModel) -> bool:
    return set(type(value).model_fields) <= {"steps", "epochs"}


def shown_type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shown_type(args[0])
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(shown_type(arg) for arg in args))
    if origin in (tuple, list):
        inner = [shown_type(arg) for arg in args if arg is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in args or origin is list else "[" + ", ".join(inner) + "]"
    if origin is dict:
        return f"{shown_type(args[0])} to {shown_type(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        return f"`{kind.default}`" if kind else "{" + ", ".join(keys(annotation)) + "}"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.md").write_text(reference(), encoding="utf-8")
    schema = json.dumps(SweepRecipe.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
    (folder / "recipe.schema.json").write_text(schema, encoding="utf-8")


if __name__ == "__main__":
    write(REFERENCE)
