"""Path patterns: how images and their labels find each other in a tree of files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from terrazzo.base import InputError
from terrazzo.data.paths import alike, files_below, what_is_there
from terrazzo.data.pixels import IMAGE_SUFFIXES

Key = tuple[str, ...]
"""What stands for the placeholders of a template, in the order of Template.names. Image and label share it."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")
ANY_SUFFIX = rf"(?i:{'|'.join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))})"


@dataclass(frozen=True)
class Template:
    """A pattern of paths below `data.root`, the split's folder filled in."""

    text: str
    names: tuple[str, ...]
    """The placeholders but {split}, sorted."""
    folder: str
    """The leading folders that are fixed: the search begins there."""
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, text: str, split: str = "{split}") -> "Template":
        """From what the user wrote: `{id}` is any relative path, `{other}` one folder or a part of a name, `*` anything
        within one folder or name, a final `.*` any image extension; a plain folder X means `X/{id}.*`.

        Raises:
            InputError: it leaves data.root, or cannot be understood.
        """
        path, filled = PurePosixPath(text), PurePosixPath(text.replace("{split}", split))
        if filled.is_absolute() or ".." in filled.parts or "**" in text or set(PLACEHOLDER.sub("", text)) & set("{}"):
            raise InputError(
                f"{filled.as_posix()!r} is no template: write a path below data.root with placeholders like {{id}}, "
                "and * for what image and label need not share, for example images/{id}.jpg"
            )
        fixed = "*" not in text and not placeholders(text)
        text = (path / "{id}.*" if fixed else path).as_posix()
        pattern = _pattern(text.removesuffix(".*"), split) + (ANY_SUFFIX if text.endswith(".*") else "")
        return cls(
            text.replace("{split}", split),
            placeholders(text),
            _fixed_folder(text).replace("{split}", split),
            re.compile(pattern),
        )

    def fill(self, key: Key) -> str:
        """The path of one key, for messages: `*` stays."""
        values = dict(zip(self.names, key, strict=True))
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.text)

    def find(
        self, root: Path, excluded: frozenset[str] = frozenset(), faults: list[str] | None = None
    ) -> dict[str, Key]:
        """All files that match, but the excluded ones: path relative to root -> key, sorted by path.

        Args:
            faults: as in `files_below`.
        """
        paths = (path for path in files_below(root, self.folder, faults) if path not in excluded)
        return {path: key for path in sorted(paths) if (key := self.key_of(path)) is not None}

    def key_of(self, path: str) -> Key | None:
        """The key of a path relative to data.root; None if it does not match."""
        match = self.pattern.fullmatch(path)
        return None if match is None else tuple(match[each] for each in self.names)


class Pair(NamedTuple):
    """Image and label file, relative to data.root."""

    image: str
    label: str

    @property
    def name(self) -> str:
        """The image's path without extension, folders kept."""
        return PurePosixPath(self.image).with_suffix("").as_posix()


class Trees:
    """The image and label files of a data set, found by two templates with the same placeholders.

    A file that both templates match is a label. Labels without an image (`orphans`) are no error. An image
    whose only label is excluded is left out too.

    Args:
        excluded: files that are as if they were not there.
        faults: where to say what is wrong; without it the first fault is an error.

    Raises:
        InputError: there are no images, or a folder that cannot be read.
    """

    def __init__(
        self,
        root: Path,
        images: Template,
        labels: Template,
        excluded: frozenset[str] = frozenset(),
        faults: list[str] | None = None,
    ):
        label_files = labels.find(root, excluded, faults)
        image_files = images.find(root, excluded | label_files.keys(), faults)
        self.root, self.image_template, self.label_template = root, images, labels
        self.images, self.labels = _by_key(image_files), _by_key(label_files)
        gone = {each.key_of(path) for path in excluded for each in (images, labels)}
        self.left_out = gone - (self.images.keys() & self.labels.keys())
        self.images = {key: files for key, files in self.images.items() if key not in self.left_out}
        with_image = self.images.keys() | self.left_out
        self.orphans = [path for key, files in self.labels.items() if key not in with_image for path in files]
        if not self.images:
            without = f" but the {len(excluded)} excluded files" if excluded else ""
            sentence = (
                f"data.images {images.text!r} finds no image{without} in data.root={root}: "
                f"{what_is_there(root, images.folder)}"
            )
            if faults is None:
                raise InputError(sentence)
            faults.append(sentence)

    def pair(self, key: Key) -> Pair:
        """The pair of a key that both trees have.

        Raises:
            InputError: two images or two labels share the key.
        """
        for what, files in (("images", self.images[key]), ("labels", self.labels[key])):
            if len(files) > 1:
                raise InputError(
                    f"data.{what} finds {len(files)} {what} for one {'/'.join(key)!r}: {files[0]} and {files[1]}; "
                    "remove one, write the extension instead of .*, or a placeholder instead of *"
                )
        return Pair(self.images[key][0], self.labels[key][0])

    def nearly(self, key: Key) -> str | None:
        """The label of an image that lacks one, if only capitals or accents of the names differ."""
        return self._alike.get(alike("/".join(key)))

    @cached_property
    def _alike(self) -> dict[str, str]:
        return {alike("/".join(key)): files[0] for key, files in self.labels.items()}

    def pairs(self) -> list[Pair]:
        """Every image with its label, sorted by name.

        Raises:
            InputError: labels are missing, or files share a key or a name.
        """
        missing = [key for key in self.images if key not in self.labels]
        if missing:
            shown = ", ".join(
                f"{self.images[key][0]} (expected {self.label_template.fill(key)})" for key in missing[:5]
            )
            there = "; " + what_is_there(self.root, self.label_template.folder) if not self.labels else ""
            if (near := self.nearly(missing[0])) is not None:
                there = f"; {near} is written differently, in capitals or accents"
            raise InputError(
                f"{len(missing)} of {len(self.images)} images in {self.root} have no label: {shown}"
                f"{', ...' if len(missing) > 5 else ''}{there}. Add them, move the images away, or correct data.labels"
            )
        pairs = sorted((self.pair(key) for key in self.images), key=lambda pair: pair.name)
        for first, second in pairwise(pairs):
            if first.name == second.name:
                raise InputError(
                    f"{first.image} and {second.image} would have the same name {first.name!r}; rename one"
                )
        return pairs


def _by_key(files: Mapping[str, Key]) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for path, key in files.items():
        found.setdefault(key, []).append(path)
    return found


def placeholders(text: str) -> tuple[str, ...]:
    """The placeholders of a template but {split}, sorted."""
    return tuple(sorted(set(PLACEHOLDER.findall(text)) - {"split"}))


def _pattern(text: str, split: str) -> str:
    """A template as a regular expression; a placeholder that stands twice must match the same text twice."""
    parts, seen = [], set()
    for token in re.split(r"(\{\w+\}|\*)", text):
        name = token[1:-1] if token.startswith("{") else ""
        match name:
            case "" if token == "*":
                parts.append("[^/]*")
            case "":
                parts.append(re.escape(token))
            case "split":
                parts.append(re.escape(split))
            case _ if name in seen:
                parts.append(f"(?P={name})")
            case _:
                parts.append(f"(?P<{name}>{'.+' if name == 'id' else '[^/]+'})")
                seen.add(name)
    return "".join(parts)


def _fixed_folder(text: str) -> str:
    """The folders before the first placeholder or star."""
    folders = PurePosixPath(text).parent.parts
    count = next((k for k, part in enumerate(folders) if "*" in part or placeholders(part)), len(folders))
    return PurePosixPath(*folders[:count]).as_posix()
