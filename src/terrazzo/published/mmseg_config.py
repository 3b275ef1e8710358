"""A configuration of MMSegmentation as data: read with all that it builds on, and what it says about testing.

Which published network a configuration describes is in `mmseg_sizes`.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from terrazzo.base import InputError
from terrazzo.published.mmseg_expressions import BASE, Imported, Values
from terrazzo.published.mmseg_python import MOST_TEXT, Reader, Skipped, parsed
from terrazzo.published.mmseg_sizes import architecture_name
from terrazzo.published.mmseg_values import Unreadable, Work, copied, one_line

__all__ = ["ParsedConfig", "TestFacts", "architecture_name", "parse_config", "read_config", "test_facts"]

DELETE = "_delete_"
"""In a dict: replace what the base says, do not merge."""
DEEPEST = 20
"""Configs that build on one another."""


@dataclass
class ParsedConfig:
    """What a config sets, and what of it could not be taken over."""

    values: dict[str, Any]
    skipped: list[tuple[str, Skipped]] = field(default_factory=list)
    """(file, statement)"""


def parse_config(text: str, *, folder: Path | None) -> dict[str, Any]:
    """What a config's Python text sets, with all files that it builds on. Nothing is executed, statements that are no
    plain data are left out.

    Args:
        folder: where the text's file lies; None for a text alone, which then must not build on files.

    Raises:
        InputError: it is no Python, builds on what cannot be read, or asks for too much.
    """
    return read_config(text, folder=folder).values


def read_config(text: str, *, folder: Path | None, source: str = "config") -> ParsedConfig:
    """As `parse_config`, with the statements that were left out."""
    parsed_config = ParsedConfig({})
    try:
        parsed_config.values = _read(text, folder, source, (), Work(), parsed_config.skipped)
    except InputError as error:
        raise InputError(one_line(str(error))) from None
    except RecursionError:
        raise InputError(f"{source}: its values lie too deep in one another for a config") from None
    return parsed_config


def _read(
    text: str,
    folder: Path | None,
    source: str,
    above: tuple[Path, ...],
    work: Work,
    skipped: list[tuple[str, Skipped]],
) -> dict[str, Any]:
    """One text, merged over what it builds on; `above` are the files that build on it."""
    module = parsed(text, source)

    def file(path: Path) -> dict[str, Any]:
        path = path.resolve()
        if path in above or len(above) > DEEPEST:
            raise InputError(f"{source}: builds on {path}, which builds on it")
        return _read(_text(path, source), path.parent, str(path), (*above, path), work, skipped)

    def imported(level: int, name: str) -> dict[str, Any]:
        if folder is None:
            raise Unreadable(f"nothing says where {'.' * level}{name} lies")
        start = folder if level == 1 else folder.joinpath(*[".."] * (level - 1))
        return file(start.joinpath(*name.split(".")).with_suffix(".py"))

    base: dict[str, Any] = {}
    reader = Reader({}, work, imports=imported)
    for statement in module.body:
        for name in _bases(statement, reader, source):
            if folder is None:
                raise InputError(f"{source}: builds on {name}, and nothing says where that lies; give its file")
            _add(base, file(folder / _below(name, source)), source, name)
    reader.base = base
    reader.run(module, text)
    skipped += [(source, each) for each in reader.skipped]
    own = {name: value for name, value in reader.names.items() if not name.startswith("__")}
    own = {name: value for name, value in own.items() if name != BASE and not isinstance(value, Imported)}
    return _merged(base, own, work, source)


def _bases(statement: ast.stmt, reader: Values, source: str) -> list[str]:
    """The files that `_base_ = ...` names; none for another statement."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == BASE:
            try:
                given = reader.value(value)
            except Unreadable as reason:
                raise InputError(f"{source}, line {statement.lineno}: _base_ is no list of files: {reason}") from None
            names = [given] if isinstance(given, str) else given
            if isinstance(names, list | tuple) and all(isinstance(each, str) for each in names):
                return [*names]
            raise InputError(f"{source}, line {statement.lineno}: _base_ is no list of files, but {given!r:.60}")
        case _:
            return []


def _below(name: str, source: str) -> str:
    if "::" in name or "://" in name:
        raise InputError(f"{source}: builds on {name}, which is no file; copy it beside the config")
    return name


def _text(path: Path, source: str) -> str:
    if not path.is_file():
        raise InputError(f"{source}: builds on {path}, and there is no such file")
    if path.suffix != ".py":
        raise InputError(f"{source}: builds on {path}; only Python configs (.py) are read")
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(MOST_TEXT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def _add(base: dict[str, Any], more: Mapping[str, Any], source: str, name: str) -> None:
    if twice := sorted(base.keys() & more.keys()):
        raise InputError(f"{source}: {name} sets {', '.join(twice)}, which another of its bases sets too")
    base |= more


def _merged(base: Any, own: Mapping[Any, Any], work: Work, where: str) -> dict[Any, Any]:
    """A dict laid over another, key by key; `_delete_=True` in one takes the base's away first."""
    found: dict[Any, Any] = dict(base)
    for key, value in own.items():
        if key == DELETE:
            continue
        work.spend()
        old = found.get(key)
        if not isinstance(value, dict):
            found[key] = value
        elif value.get(DELETE) is True or key not in found:
            found[key] = _merged({}, value, work, where)
        elif isinstance(old, dict):
            found[key] = _merged(old, value, work, where)
        elif isinstance(old, list) and all(isinstance(place, str) and place.isdigit() for place in value):
            found[key] = _in_list(old, value, work, f"{where}: {key}")
        else:
            raise InputError(
                f"{where}: {key} is a dict, and the base's {key} is {old!r:.40}; say {DELETE}=True in the dict"
            )
    return found


def _in_list(old: list[Any], own: Mapping[str, Any], work: Work, where: str) -> list[Any]:
    """A list in which some places are laid over: `{"0": {...}}`."""
    found = copied(old, work)
    for place, value in own.items():
        if int(place) >= len(found):
            raise InputError(f"{where} has no place {place}, only {len(found)}")
        found[int(place)] = _merged({"": found[int(place)]}, {"": value}, work, where)[""]
    return list(found)


class TestFacts(NamedTuple):
    """How a published network was tested; None where the config does not say."""

    scale: tuple[int, int] | None
    """(width, height) of the resized images, as MMSegmentation writes it: with `keep_ratio` images become as large as
    fits into long side x short side, whichever way they lie."""
    keep_ratio: bool
    crop: tuple[int, int] | None
    """(height, width) of a sliding window; None: the whole image at once."""
    stride: tuple[int, int] | None
    """(rows, columns) between two windows."""


def test_facts(config: Mapping[str, Any]) -> TestFacts:
    """How a config, of MMSegmentation 1.x or 0.x, tests."""
    resize = next((step for step in test_steps(config) if last_part(step.get("type")) == "Resize"), {})
    scale = resize.get("scale", resize.get("img_scale"))
    old = next((step for step in test_steps(config) if last_part(step.get("type")) == "MultiScaleFlipAug"), None)
    if old is not None:
        scale = scale_of(old)
        resize = next((step for step in steps_of(old.get("transforms")) if last_part(step.get("type")) == "Resize"), {})
    testing = section(section(config, "model"), "test_cfg") or (
        section(config, "test_cfg") if "mode" in section(config, "test_cfg") else {}
    )
    slides = testing.get("mode") == "slide"
    return TestFacts(
        scale=pair(scale),
        keep_ratio=resize.get("keep_ratio", old is not None) is True,
        crop=pair(testing.get("crop_size")) if slides else None,
        stride=pair(testing.get("stride")) if slides else None,
    )


def scale_of(step: Mapping[str, Any]) -> tuple[int, int] | None:
    """(width, height) of a MultiScaleFlipAug of 0.x; with several ratios that of its `img_scale`."""
    scale, ratios = pair(step.get("img_scale")), step.get("img_ratios")
    match ratios:
        case [int() | float() as ratio] if scale is not None and 0 < ratio < 100:
            return int(scale[0] * ratio), int(scale[1] * ratio)
        case _:
            return scale


def test_steps(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps that an image goes through in testing."""
    loader = section(config, "test_dataloader") or section(config, "val_dataloader")
    data = section(loader, "dataset") or section(section(config, "data"), "test")
    while not data.get("pipeline") and isinstance(data.get("dataset"), dict):
        data = section(data, "dataset")  # within a wrapper
    return steps_of(data.get("pipeline")) or steps_of(config.get("test_pipeline"))


def steps_of(value: object) -> list[dict[str, Any]]:
    """The dicts of a pipeline."""
    return [step for step in value if isinstance(step, dict)] if isinstance(value, list | tuple) else []


def section(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A part of a config; empty if it is no dict."""
    part = config.get(key)
    return part if isinstance(part, dict) else {}


def last_part(kind: object) -> str:
    """The name of a class without its module: new configs write both."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else ""


def pair(value: object) -> tuple[int, int] | None:
    """Two whole numbers; one stands for both."""
    match value:
        case bool():
            return None
        case int():
            return value, value
        case [int(first), int(second)]:
            return first, second
        case [[int(first), int(second)], *_]:
            return first, second
        case _:
            return None
