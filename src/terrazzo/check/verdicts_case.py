"""What verdicts are found from: the config, the files and the records, and what settings can still be typed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from terrazzo.base import SPLITS, Classes, Split
from terrazzo.check.scan import Record
from terrazzo.check.verdict import exclude, override
from terrazzo.data.colors import hex_of
from terrazzo.data.folder import FolderData
from terrazzo.data.inventory import Inventory
from terrazzo.data.labels import IGNORED, Decoder
from terrazzo.data.split import RatioSplits

SHOWN = 8
"""How many values, classes or files a sentence names."""


@dataclass(frozen=True)
class Case:
    """A data set that is judged."""

    cfg: FolderData
    kind: str
    """Of `data`: settings of a layout cannot be typed beyond `exclude`, `exif`, `align` and `remap`."""
    found: Inventory
    records: tuple[Record, ...]

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.cfg.classes, self.cfg.decode, self.cfg.remap)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as the files know them, before `remap`."""
        return self.decoder.names

    @property
    def classes(self) -> Classes:
        """The classes that are trained."""
        return self.decoder.classes

    @property
    def open(self) -> bool:
        """Whether the recipe says itself how labels are decoded and images divided."""
        return self.kind == "folder"

    @cached_property
    def splits(self) -> dict[Split, tuple[Record, ...]]:
        """The records of each split that has some."""
        found = {split: tuple(record for record in self.records if record.split == split) for split in SPLITS}
        return {split: records for split, records in found.items() if records}

    def leave_out(self, files: Iterable[str]) -> tuple[str, ...]:
        """The setting that leaves files out; none if most files would go, or all of a split."""
        gone = set(files)
        before = self.found.pairs
        left = {
            split: sum(pair.image not in gone and pair.label not in gone for pair in pairs)
            for split, pairs in before.items()
        }
        few = sum(left.values()) >= sum(map(len, before.values())) / 2
        # Shares are taken from whatever is left; folders and lists keep their files.
        shared = isinstance(self.cfg.splits, RatioSplits) and sum(left.values()) >= len(left)
        filled = all(left[split] or not pairs for split, pairs in before.items())
        return (exclude(sorted(gone), self.cfg.exclude),) if gone and few and (shared or filled) else ()

    def drop_classes(self, dropped: Iterable[str]) -> tuple[str, ...]:
        """The setting that ignores trained classes; none if no class would be left."""
        gone = set(dropped)
        if gone >= set(self.classes.names):
            return ()
        remap = dict(self.cfg.remap)
        remap.update({old: IGNORED for old in self.names if remap.get(old, old) in gone})
        return (override("data.remap", remap),)

    def decode_values(
        self, meaning: Mapping[int, str], *, tolerance: int = 0, unknown: str = "error"
    ) -> tuple[str, ...]:
        """The settings that give values their classes; none for a layout, whose decoding is fixed."""
        decode: dict[str, object] = {"kind": "values", "map": dict(meaning)}
        if tolerance:
            decode["tolerance"] = tolerance
        if unknown != "error":
            decode["unknown"] = unknown
        return self._decode(decode, [name for name in self.names if name in meaning.values()])

    def decode_bits(self) -> tuple[str, ...]:
        """The settings for masks of zero and one other value."""
        return self._decode({"kind": "bits"}, list(self.names[:2]))

    def decode_colors(self, colors: Mapping[str, str], decode: Mapping[str, object]) -> tuple[str, ...]:
        """The settings that give classes their colours (name -> '#rrggbb')."""
        return self._decode({"kind": "palette", **decode}, [name for name in self.names if name in colors], colors)

    @cached_property
    def colors(self) -> dict[str, str] | None:
        """Name -> '#rrggbb' where the config gives colours."""
        if not isinstance(self.cfg.classes, Mapping):
            return None
        return {name: hex_of(color) for name, color in self.cfg.classes.items()}

    def _decode(
        self, decode: Mapping[str, object], used: list[str], colors: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """`data.decode`, and classes and remap without the names that have no place in it."""
        if not self.open or not used:
            return ()
        colors = colors or self.colors
        classes: object = used if colors is None else {name: colors[name] for name in used}
        fix = [override("data.classes", classes)] if classes != (self.colors or list(self.names)) else []
        remap = {old: new for old, new in self.cfg.remap.items() if old in used}
        fix += [override("data.remap", remap)] if remap != self.cfg.remap else []
        return (*fix, override("data.decode", dict(decode)))


def some(things: Iterable[object], most: int = SHOWN, between: str = ", ") -> str:
    """'a, b, c and 12 more'."""
    listed = [str(thing) for thing in things]
    return between.join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def count(number: int, what: str) -> str:
    """'1 image', '2 images', '3 classes'."""
    plural = what if number == 1 else what + ("es" if what.endswith(("s", "x")) else "s")
    return f"{number:,} {plural}"


def share(part: int, whole: int) -> str:
    """'3.1 %', and never 0 % for something."""
    percent = 100 * part / max(1, whole)
    return f"{percent:.1f} %" if percent >= 0.1 or not part else f"{percent:.2g} %"
