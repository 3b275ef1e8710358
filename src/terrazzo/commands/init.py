"""`terrazzo data init`: from a folder of images and label maps to a commented recipe that trains as it stands."""

import shlex
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from pydantic import BaseModel

from terrazzo.base import SPLITS, InputError, Split
from terrazzo.config import config_of
from terrazzo.data import DataConfig, available_splits, build_dataset
from terrazzo.data.augment import Fit, Keep
from terrazzo.data.colors import hex_of
from terrazzo.data.folder import FolderData
from terrazzo.data.paths import is_folder
from terrazzo.discover.discovery import Discovery, Progress, discover
from terrazzo.discover.findings import Finding
from terrazzo.files import write_text
from terrazzo.prepare.section import write_ids, write_pairs

WIDTH = 110
LARGEST = 600_000
"""Pixels of an image up to which it is used at its own size: two CPU cores look at it in half a second."""
SHORT_SIDE = 512
"""Of larger ones, after they were made smaller; the long side gets up to twice as much."""
CROP = 320
"""Pixels of a training sample's side, where images are large enough."""
SAMPLES = 8000
"""Training samples that a network needs to learn something, roughly; and the passes over the data that give them."""
PASSES = (5, 100)
MANY_CLASSES = 40
"""Up to so many, each class stands on a line of its own."""


@dataclass(frozen=True)
class Found:
    """What a folder was taken for, and the recipe that says so."""

    recipe: Path
    findings: tuple[Finding, ...]
    """Layout, encoding, splits."""
    remarks: tuple[str, ...]
    """What else should be known."""
    lists: tuple[Path, ...]
    """List files that were written beside the recipe."""

    def __str__(self) -> str:
        lines = []
        for each in self.findings:
            lines += [f"{each.topic:<9} {each.answer} ({each.confidence})", f"{'':<9} {each.evidence}"]
            lines += [f"{'':<9} else: {each.alternative}"] if each.alternative else []
        lines += [f"note      {remark}" for remark in self.remarks]
        return "\n".join([*lines, *(f"list      {path}" for path in self.lists)])


def init(root: Path, out: Path, *, progress: Progress | None = None) -> Found:
    """Look at a folder, write a recipe for it, and say how sure each part of it is.

    Args:
        root: the folder; stands in the recipe as it is given here.
        out: the recipe. List files are written beside it where nothing in the folder says who goes where.
        progress: called with the label files that were read, and all that will be.

    Raises:
        InputError: there is nothing to train on, or `out` exists.
    """
    root = root.expanduser()
    listed = {split: out.absolute().with_name(f"{out.stem}_{split}.txt") for split in SPLITS}
    if not is_folder(root):
        raise InputError(f"{root} is no folder; give one that holds images and label maps")
    _check_new(out)
    found = discover(root, {split: str(path) for split, path in listed.items()}, progress=progress)
    lists = tuple(listed[split] for split in found.lists)
    for path in lists:
        _check_new(path)
    try:
        _write_lists(found, listed)
        remarks = (*found.remarks, *_faults(recipe_text(found, root, out, ())))
        write_text(out, recipe_text(found, root, out, remarks))
    except BaseException as error:
        for path in lists:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{out}: cannot be written ({error.strerror}); give another place with --out") from error
        raise
    return Found(out, found.findings, remarks, lists)


def _write_lists(found: Discovery, listed: dict[Split, Path]) -> None:
    """Lists of ids where templates say where the files are, else of pairs."""
    pairs = isinstance(found.data, FolderData) and found.data.images is None
    for split, matches in found.lists.items():
        if pairs:
            write_pairs(listed[split], [match.pair for match in matches])
        else:
            write_ids(listed[split], [match.key for match in matches])


def _check_new(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the recipe a name with --out, for example {path / 'mine.yaml'}")
    if path.exists():
        raise InputError(
            f"{path} is there already and is not overwritten; give another name with --out, or move it away"
        )


def _faults(text: str) -> tuple[str, ...]:
    """What would stop a run of a recipe, as far as a few samples of each split show."""
    data = config_of(yaml.safe_load(text)).data
    try:
        for split in available_splits(data):
            _read_some(data, split)
    except InputError as error:
        return (f"as it stands a run stops: {error}",)
    return ()


def _read_some(data: DataConfig, split: Split) -> None:
    dataset = build_dataset(data, split)
    if not len(dataset):
        raise InputError(f"the {split} split is empty")
    for index in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        dataset[index]


# --- the recipe -------------------------------------------------------------------------------------------------------


def recipe_text(found: Discovery, root: Path, out: Path, remarks: Sequence[str]) -> str:
    """The recipe with what was found as comments beside the lines that say it."""
    typed = shlex.quote(str(out))
    head = [
        f"What `terrazzo data init` took {root} for: how sure each part of `data` is, why, and what else to write.",
        f"It trains as it stands: `terrazzo train {typed}`. What it reaches is not known.",
        f"A trial of a minute: `terrazzo train {typed} length='{{steps: 2}}' data.limit=8`",
    ]
    notes = [line for remark in remarks for line in _comment(f"- {remark}", "#   ")]
    lines = [*(f"# {line}" for line in head), *(["#", "# To know:", *notes] if notes else []), "data:"]
    lines += _indented(_data_lines(found))
    return "\n".join(lines) + "\n" + _rest(found)


def _data_lines(found: Discovery) -> list[str]:
    """The data section, each finding above the lines that it is about."""
    data = found.data
    layout, encoding, splits = (_finding(each) for each in found.findings)
    given = _plain(data)
    lines = [*_yaml("kind", given.pop("kind")), *_yaml("root", str(given.pop("root")))]
    if not isinstance(data, FolderData):
        own = [line for name, value in given.items() for line in _yaml(name, value)]
        return [*layout, *encoding, *splits, *lines, *own]
    files = [
        line for name in ("images", "labels", "exclude", "exif") if name in given for line in _yaml(name, given[name])
    ]
    if found.templates:
        images, labels = found.templates
        files = ["# The lists name both files. Without lists:", *_yaml("# images", images), *_yaml("# labels", labels)]
    meaning = [*encoding, *_class_lines(data, found.notes), *_yaml("decode", _plain(data.decode))]
    return [*layout, *lines, *files, *meaning, *splits, *_yaml("splits", _split_section(data))]


def _split_section(data: FolderData) -> dict[str, Any]:
    """Every split by name; the seed where something is drawn."""
    tree = {name: value for name, value in data.splits.model_dump().items() if value not in (None, 0)}
    drawn = tree["kind"] == "ratio" or "val_fraction" in tree
    nothing = {"val": None} if "val_fraction" in tree else {}
    return tree | nothing | ({"seed": data.splits.seed} if drawn else {})


def _finding(found: Finding) -> list[str]:
    lines = _comment(f"{found.topic}: {found.answer} ({found.confidence})", "# ")
    lines += _comment(f"why: {found.evidence}", "#   ")
    return lines + (_comment(f"else: {found.alternative}", "#   ") if found.alternative else [])


def _class_lines(data: FolderData, notes: dict[str, str]) -> list[str]:
    """The classes, with their share of the pixels where they stand on lines of their own."""
    named = {name: hex_of(color) for name, color in data.classes.items()} if isinstance(data.classes, dict) else None
    classes = [*data.classes]
    if len(classes) > MANY_CLASSES:
        return _yaml("classes", named or classes)
    lines = []
    for name in classes:
        note = f"  # {notes[name]}" if name in notes else ""
        lines.append(f"  {_flow(name)}: {_flow(named[name])}{note}" if named else f"  - {_flow(name)}{note}")
    return ["classes:", *lines]


def _rest(found: Discovery) -> str:
    """Everything but the data: a network that fits two cores, at sizes that fit the images."""
    resize, crop = view_of(found.sizes)
    base = f"\n  base: {_flow(_plain(resize))}" if isinstance(resize, Fit) else ""
    smaller = "" if isinstance(resize, Keep) else _EVALUATION.format(resize=_flow(_plain(resize)))
    epochs = min(max(-(-SAMPLES // found.images), PASSES[0]), PASSES[1])
    return _REST.format(base=base, crop=crop, evaluation=smaller, epochs=epochs, every=max(1, epochs // 10))


_REST = """
model:
  kind: smp
  arch: deeplabv3plus
  encoder: mobilenet_v2
  weights: none
  # weights: pretrained  # an encoder that knows ImageNet learns far more in the same time; it is downloaded once

augment:
  crop: {crop}{base}
  scale: [0.75, 1.5]
  flip: 0.5              # 0 where left and right mean something
  brightness: 0.2
  contrast: 0.2
  saturation: 0.2
{evaluation}
losses:
  - kind: cross_entropy
  - {{kind: tversky, setting: dice, weight: 0.5}}  # rare classes count as much as frequent ones

optim:
  kind: adamw
  lr: 1e-3
  weight_decay: 0.01
  # lr_factors: {{encoder: 0.2}}  # together with pretrained weights

schedule: {{kind: poly, power: 0.9, warmup: {{epochs: 0.5}}}}
length: {{epochs: {epochs}}}
batch: 8
validate_every: {{epochs: {every}}}
save_every: {{epochs: {every}}}
"""

_EVALUATION = """
evaluation:
  resize: {resize}  # as augment.base: made smaller so that two cores keep up
  # With a GPU take both lines out: images then keep their size.
"""


def view_of(sizes: Sequence[tuple[int, int]]) -> tuple[Keep | Fit, int]:
    """How large the network sees images of these sizes, and how large a training sample is."""
    short = int(median(min(size) for size in sizes)) if sizes else CROP
    resize: Keep | Fit = Keep()
    if any(height * width > LARGEST for height, width in sizes):
        short = min(short, SHORT_SIDE)
        resize = Fit(short=short, long=2 * short)
    return resize, min(max(32 * -(-short // 32), 64), CROP)


# --- YAML -------------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A setting as YAML has it: configs without what is at its default, colours as '#rrggbb'."""
    match value:
        case BaseModel():
            fields = type(value).model_fields
            given = {name: getattr(value, name) for name in fields}
            return {
                n: _plain(v)
                for n, v in given.items()
                if n == "kind" or v != fields[n].get_default(call_default_factory=True)
            }
        case (int(), int(), int()) if all(isinstance(each, int) and 0 <= each <= 255 for each in value):
            return hex_of(value)
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple() | list():
            return [_plain(each) for each in value]
        case _:
            return value


def _yaml(key: str, value: Any) -> list[str]:
    """A key with its value: on one line if that is short enough, else in a block with the innermost level flowing."""
    line = f"{key}: {_flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, dict | list):
        return [line]
    block = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, allow_unicode=True, width=WIDTH)
    return [f"{key}:", *_indented(block.splitlines())]


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip()


def _comment(text: str, mark: str) -> list[str]:
    inner = mark + "  "
    return textwrap.wrap(
        text, WIDTH, initial_indent=mark, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False
    )


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
