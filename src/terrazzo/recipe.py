"""Recipes as they are typed: found by path or name, read as a tree, with `key=value` laid over it."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from terrazzo.base import InputError
from terrazzo.faults import did_you_mean

RECIPES = files("terrazzo") / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with terrazzo."""
    return sorted(path.name.removesuffix(".yaml") for path in RECIPES.iterdir() if path.name.endswith(".yaml"))


def read_recipe(recipe: str | Path) -> tuple[str, str]:
    """Name and YAML text of a recipe given as a path (an existing path wins) or as the name of a shipped one."""
    path = Path(recipe)
    if path.is_file():
        try:
            return path.stem, path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a YAML recipe (not UTF-8 text: {error.reason})") from None
    if str(recipe) in recipe_names():
        return str(recipe), (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    if path.is_dir():
        raise InputError(f"{path} is a folder; a recipe is a YAML file or one of {', '.join(recipe_names())}")
    near = did_you_mean(str(recipe), recipe_names())
    raise InputError(
        f"recipe {str(recipe)!r} is neither a file nor a shipped recipe{near}: {', '.join(recipe_names())}"
    )


def read_tree(recipe: str | Path, overrides: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Name and tree of a recipe with `a.b.c=value` laid over it; nothing is validated.

    Raises:
        InputError: there is no such recipe, it is no YAML, or an override is none.
    """
    name, text = read_recipe(recipe)
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{recipe}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{recipe}: a recipe is a list of `key: value` lines, found {type(tree).__name__}")
    for item in overrides:
        override(tree, item)
    return name, tree


def override(tree: dict[str, Any], item: str) -> None:
    """Lay one `a.b.c=value` over a tree, in place; the value is YAML.

    Raises:
        InputError: it has another form, or the tree has no place for it.
    """
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        raise InputError(f"{item!r} is not of the form key=value (for example optim.lr=1e-3)")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{item!r}: the value is not valid YAML; quote it if it holds `:` or brackets") from None
    put(tree, dotted, value, item)


def put(tree: dict[str, Any], dotted: str, value: Any, item: str) -> None:
    """Set the key a.b.c of a tree, in place; sections on the way are made. `item` is what the user typed.

    Raises:
        InputError: something on the way has no keys.
    """
    *parents, last = dotted.split(".")
    node: Any = tree
    for depth, key in enumerate(parents):
        if isinstance(node, list):
            node = node[_index(node, key, item)]
        else:
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
        if not isinstance(node, dict | list):
            raise InputError(f"{item!r}: {'.'.join(parents[: depth + 1])} is {node!r} in the recipe and has no keys")
    if isinstance(node, list):
        node[_index(node, last, item)] = value
    else:
        node[last] = value


def _index(node: list[Any], key: str, item: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise InputError(f"{item!r}: {key!r} is not an index of this list of {len(node)} entries (they count from 0)")
    return int(key)
