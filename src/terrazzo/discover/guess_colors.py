"""What label files mean whose pixels are colours: the data set's own ones, strays, and their names."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

from terrazzo.base import MAX_CLASSES, Color, InputError
from terrazzo.data.class_files import VOID, ClassFile
from terrazzo.data.colors import hex_of
from terrazzo.data.labels import Palette
from terrazzo.discover.findings import SHOWN, Confidence, Finding, Guess, listed, share
from terrazzo.discover.label_facts import LabelFacts, away, true_marks


class _Names(NamedTuple):
    """What class lists say about the colours of the files."""

    of: dict[Color, str]
    """Colour as the files have it -> name; those too that do not occur."""
    channels: Literal["rgb", "bgr"]
    remarks: tuple[str, ...]


def guess_colors(facts: LabelFacts, lists: Sequence[ClassFile]) -> Guess:
    """The meaning of label files whose colours are classes.

    Raises:
        InputError: nothing in them can be classes.
    """
    total = facts.pixels
    real, stained = true_marks(facts.colors, total, stained="JPEG" in facts.formats or facts.more > 0)
    if not 1 < len(real) <= MAX_CLASSES:
        raise InputError(
            f"the label files hold {len(facts.colors)} colours, of which {len(real)} could be classes: they "
            "seem to be pictures, and no masks"
        )
    names = _names_of(real, lists)
    named = names.of | {color: f"color_{hex_of(color)[1:]}" for color in real if color not in names.of}
    classes = {name: color for color, name in named.items()}
    odd = [color for color in facts.colors if color not in named]
    void = [classes.pop(name) for name in [*classes] if name.lower() in VOID]
    notes = {name: _note(color, facts, total, lists, names) for name, color in classes.items()}
    blurred = stained or len(odd) > SHOWN
    decode = Palette(
        ignore_colors=tuple(_turned(color, names.channels) for color in [*void, *([] if blurred else odd)]),
        tolerance=_reach([*named]) if blurred else 0,
        unknown="ignore" if blurred else "error",
        channels=names.channels,
    )
    remarks = [*names.remarks]
    if odd and not blurred:
        remarks.append(_strays(odd, facts, total))
    answer = f"{len(real)} colours, decoded by colour"
    if blurred:
        answer += "; other colours count as the nearest (JPEG or smooth resizing stained borders)"
    held = f"{facts.files} label files ({', '.join(sorted(facts.modes))}) hold {listed(real, facts.colors, total)}"
    if facts.contradiction:
        held += f"; the palettes contradict each other ({facts.contradiction}), so an index means nothing"
    sure: Confidence = "unsure" if blurred else "certain" if names.of or facts.contradiction else "likely"
    other = "a stray colour is a class: name it in classes and take it off ignore_colors" if odd and not blurred else ""
    painted = {name: _turned(color, names.channels) for name, color in classes.items()}
    return Guess(painted, decode, Finding("encoding", answer, sure, held, other), tuple(remarks), notes)


def _note(color: Color, facts: LabelFacts, total: int, lists: Sequence[ClassFile], names: _Names) -> str:
    """The share of a colour, and what a list calls it that does not describe the rest."""
    text = f"{share(facts.colors[color].pixels if color in facts.colors else 0, total)} of the pixels"
    called = [f"{each.by_color[color]} in {each.path}" for each in lists if color in each.by_color and not names.of]
    return "; ".join([text, *called])


def _reach(real: Sequence[Color]) -> int:
    """The tolerance at which the nearest two colours do not meet yet."""
    return min(127, (min(away(a, b) for a, b in combinations(real, 2)) - 1) // 2)


def _turned(color: Color, channels: Literal["rgb", "bgr"]) -> Color:
    """A colour of the files as it is meant."""
    return color if channels == "rgb" else (color[2], color[1], color[0])


def _strays(odd: Sequence[Color], facts: LabelFacts, total: int) -> str:
    pixels, files = sum(facts.colors[c].pixels for c in odd), max(facts.colors[c].files for c in odd)
    shown = ", ".join(map(hex_of, odd))
    return (
        f"stray colours that count as no class: {shown} ({pixels:,} pixels, {share(pixels, total)}, in {files} files)"
    )


def _names_of(real: Sequence[Color], lists: Sequence[ClassFile]) -> _Names:
    """Names from a class list that describes most colours of the files, maybe with red and blue swapped."""
    remarks = []
    for each in (one for one in lists if one.by_color):
        known = each.by_color
        for channels in ("rgb", "bgr"):
            there = {color: known[_turned(color, channels)] for color in real if _turned(color, channels) in known}
            if len(there) >= 2 and 2 * len(there) > len(real):
                rest = [hex_of(color) for color in real if color not in there]
                missing = f"; it does not have {', '.join(rest[:SHOWN])}" if rest else ""
                swapped = ", with red and blue swapped" if channels == "bgr" else ""
                every = {_turned(color, channels): name for color, name in known.items()}
                return _Names(every, channels, (f"class names are those of {each.path}{swapped}{missing}",))
        remarks.append(_mismatch(each, real))
    return _Names({}, "rgb", tuple(remarks))


def _mismatch(found: ClassFile, real: Sequence[Color]) -> str:
    there = [f"{hex_of(color)} {found.by_color[color]}" for color in real if color in found.by_color]
    missing = [f"{hex_of(color)} {name}" for color, name in found.by_color.items() if color not in real]
    occur = f"only {', '.join(there)} occurs" if there else "none occurs"
    return (
        f"{found.path} is of other files: of its {len(found.by_color)} colours {occur} in the label files "
        f"(missing: {', '.join(missing[:SHOWN])}), so its names are not used"
    )
