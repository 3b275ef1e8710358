"""What label files mean, guessed from the values that stand in them; colours are in guess_colors.py."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from terrazzo.base import MAX_CLASSES, Color, InputError
from terrazzo.data.class_files import VOID, ClassFile
from terrazzo.data.labels import IGNORED, Bits, DecodeConfig, Index, Values
from terrazzo.discover.findings import Confidence, Finding, Guess, listed, share
from terrazzo.discover.guess_colors import guess_colors
from terrazzo.discover.label_facts import LabelFacts, true_marks

NO_CLASS = (255, 65535)
"""Values beside ids in a row that mean no class: the highest of 8 and of 16 bits."""


@dataclass(frozen=True)
class _Reading:
    """One way to read values."""

    decode: DecodeConfig
    names: tuple[str, ...]
    answer: str
    confidence: Confidence
    alternative: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def table(self) -> dict[int, str]:
        """The class of each value that has one."""
        match self.decode:
            case Values(map=table):
                return {value: name for value, name in table.items() if name != IGNORED}
            case _:
                return dict(enumerate(self.names))


def guess(facts: LabelFacts, lists: Sequence[ClassFile] = (), *, void_zero: bool = False) -> Guess:
    """The meaning of label files.

    Args:
        facts: what stands in them.
        lists: class lists that lie beside the data.
        void_zero: the layout is one in which 0 is no class by custom.

    Raises:
        InputError: nothing in them can be classes.
    """
    if facts.contradiction or facts.colored:
        return guess_colors(facts, lists)
    if not facts.values:
        raise InputError("no label file can be read: " + "; ".join([*facts.faults.values()][:3]))
    total = facts.pixels
    real, stained = true_marks(facts.values, total, stained="JPEG" in facts.formats)
    real = sorted(real)
    if len(real) > MAX_CLASSES:
        raise InputError(
            f"the label files hold {len(real)} different values ({real[0]} to {real[-1]}), more than {MAX_CLASSES}: "
            "instance ids, depths or photographs, and no class ids"
        )
    reading = _reading(real, facts, lists, stained, void_zero)
    held = f"{facts.files} label files hold {listed(real, facts.values, total)}"
    if stained:
        held += f", and {len(facts.values) - len(real)} values between these along borders only"
        reading = _nearest(reading, real)
    pixels = dict.fromkeys(reading.names, 0)
    for value, name in reading.table.items():
        pixels[name] += facts.values[value].pixels if value in facts.values else 0
    notes = (
        {}
        if isinstance(reading.decode, Bits)
        else {name: f"{share(n, total)} of the pixels" for name, n in pixels.items()}
    )
    finding = Finding("encoding", reading.answer, reading.confidence, held, reading.alternative)
    return Guess(_painted(reading, facts), reading.decode, finding, reading.remarks, notes)


def _reading(
    real: list[int], facts: LabelFacts, lists: Sequence[ClassFile], stained: bool, void_zero: bool
) -> _Reading:
    """What values mean that really are in the files, in rising order."""
    seen = set(real)
    ids = [value for value in real if value >= 0 and value not in NO_CLASS]
    in_a_row = bool(ids) and not stained and _is_dense(ids)
    if len(real) == 2 and real[0] == 0 and (real[1] > 1 or set(facts.modes) == {"1"}) and not stained:
        return _two_valued(real[1], set(facts.modes), lists)
    if in_a_row and 0 in seen and not _zero_is_void(max(ids), lists, void_zero):
        return _index(ids, seen, facts, lists)
    if in_a_row and min(seen) >= 0:
        return _numbered(max(ids), seen, lists, void_zero)
    return _mapped(real, lists)


def _two_valued(top: int, modes: set[str], lists: Sequence[ClassFile]) -> _Reading:
    found = next((each for each in lists if len(each.entries) == 2 and not each.by_color), None)
    names = found.names if found else ("background", "foreground")
    other = f"{top} means no class: decode: {{kind: values, map: {{0: {names[0]}, {top}: ignore}}}}" if top > 1 else ""
    sure: Confidence = "certain" if top == 255 or modes == {"1"} else "likely"
    remarks = (f"class names are those of {found.path}",) if found else ()
    return _Reading(Bits(), names, f"two-valued masks, 0 and {top}", sure, other, remarks)


def _index(ids: list[int], seen: set[int], facts: LabelFacts, lists: Sequence[ClassFile]) -> _Reading:
    """Ids 0..K-1, some of them perhaps unseen."""
    count = max(ids) + 1
    found, remarks = _names_for(range(count), lists)
    count = len(found or range(count))
    names = found or (("background", "foreground") if count == 2 else tuple(f"class_{k}" for k in range(count)))
    if any(name.lower() in VOID for name in names):
        return _with_void(names, seen, remarks)
    ignored = tuple(value for value in NO_CLASS if value in seen)
    decode = Index(ignore=ignored or Index().ignore, ignore_negative=min(seen) < 0)
    said = [*map(str, ignored), *(["negative ones"] if min(seen) < 0 else [])]
    answer = f"ids 0 to {count - 1}" + (f"; no class: {' and '.join(said)}" if said else "")
    sure: Confidence = "certain" if found or said or count == 2 or "P" in facts.modes else "likely"
    more = ", ..." if count > 3 else ""
    rest = ", ".join(f"{k}: {name}" for k, name in enumerate(names[1:3], start=1)) + more
    other = f"0 is no class: take {names[0]} off classes and write decode: {{kind: values, map: {{0: ignore, {rest}}}}}"
    return _Reading(decode, names, answer, sure if count > 1 else "unsure", other if count > 2 else "", remarks)


def _with_void(names: tuple[str, ...], seen: set[int], remarks: tuple[str, ...]) -> _Reading:
    """Ids 0..K-1 of a class list in which some names mean: no class."""
    table = {k: IGNORED if name.lower() in VOID else name for k, name in enumerate(names)}
    table |= {value: IGNORED for value in seen if value in NO_CLASS or value < 0}
    void = [name for name in names if name.lower() in VOID]
    kept = tuple(name for name in names if name not in void)
    other = f"{void[0]} is a class: name it in classes, and in map at {names.index(void[0])}"
    return _Reading(
        Values(map=table), kept, f"ids 0 to {len(names) - 1}; no class: {', '.join(void)}", "certain", other, remarks
    )


def _numbered(top: int, seen: set[int], lists: Sequence[ClassFile], void_zero: bool) -> _Reading:
    """Ids 1..K, with 0 as no class if it occurs."""
    ids = range(1, top + 1)
    found, remarks = _names_for(ids, lists)
    names = found or tuple(f"class_{k}" for k in ids)
    top, ids = len(names), range(1, len(names) + 1)
    void = [value for value in (0, *NO_CLASS) if value in seen]
    table = dict.fromkeys(void, IGNORED) | dict(zip(ids, names, strict=True))
    answer = f"ids 1 to {top}" + (f"; no class: {' and '.join(map(str, void))}" if void else "")
    sure: Confidence = "unsure" if top == 1 or not (found or void_zero or 0 not in seen) else "likely"
    other = ""
    if 0 in seen:
        other = "0 is a class too: decode: {kind: index}, and a name for it before the others in classes"
    elif top in (2, 3):
        other = f"{top} is a border that should not count: `{top}: ignore` in map, and {names[-1]} taken off classes"
    return _Reading(Values(map=table), names, answer, sure, other, remarks)


def _mapped(real: list[int], lists: Sequence[ClassFile]) -> _Reading:
    """Values that are no ids in a row: each is a class."""
    found = next((each for each in lists if set(real) <= each.by_id.keys()), None)
    step = next((n for n in (257, 256) if real[-1] > 255 and all(value % n == 0 for value in real)), 0)
    answer = f"ids times {step} in 16 bits" if step else f"{len(real)} values, each of them a class"
    if found:
        table = dict(sorted(found.by_id.items()))
    elif step:
        table = {value: f"class_{value // step}" for value in real}
    elif len(real) == 2 and real[0] == 0:
        table = {0: "background", real[1]: "foreground"}
    else:
        table = {value: f"value_{value}".replace("-", "minus_") for value in real}
    names = tuple(dict.fromkeys(name for name in table.values() if name.lower() not in VOID))
    table = {value: name if name in names else IGNORED for value, name in table.items()}
    other = ""
    if table.get(255, IGNORED) != IGNORED:
        other = f"255 is no class: `255: ignore` in map, and {table[255]} taken off classes"
    remarks = (f"class names are those of {found.path}",) if found else ()
    sure: Confidence = "unsure" if len(names) < 2 else "certain" if found else "likely"
    return _Reading(Values(map=table), names or tuple(table.values()), answer, sure, other, remarks)


def _nearest(reading: _Reading, real: list[int]) -> _Reading:
    """The same for masks with stained borders: every value counts as the nearest true one."""
    gaps = [high - low for low, high in pairwise(real)]
    void = {value: IGNORED for value in NO_CLASS if value in real and value not in reading.table}
    decode = Values(map=reading.table | void, tolerance=max(1, (min(gaps, default=2) - 1) // 2), unknown="ignore")
    return replace(
        reading,
        decode=decode,
        answer=f"{reading.answer}; values between count as the nearest (JPEG or smooth resizing stained borders)",
        confidence="unsure",
    )


def _is_dense(ids: Sequence[int]) -> bool:
    """Whether values are ids in a row, some of them unseen, rather than levels of grey."""
    low, high = min(ids), max(ids)
    return low <= 1 and high < MAX_CLASSES and (len(ids) >= 0.4 * (high + 1) or high < 8)


def _zero_is_void(top: int, lists: Sequence[ClassFile], void_zero: bool) -> bool:
    """By custom of the layout, or because a class list has one name fewer than there are ids."""
    for each in lists:
        if len(each.entries) == top > 1 and (not each.by_id or set(each.by_id) == set(range(1, top + 1))):
            return True
    return void_zero and top > 1 and not any(len(each.entries) == top + 1 for each in lists)


def _names_for(ids: range, lists: Sequence[ClassFile]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Names for ids from a class list that has them, and maybe further ones, and what is to be said about the lists."""
    for each in lists:
        every = range(ids[0], max([*each.by_id, 0]) + 1)
        if each.by_id and set(ids) <= set(every) <= each.by_id.keys():
            return tuple(each.by_id[k] for k in every), (f"class names are those of {each.path}",)
        if not each.by_id and len(each.entries) == len(ids):
            return each.names, (f"class names are those of {each.path}, in its order",)
    return None, tuple(
        f"{each.path} lists {len(each.entries)} classes; the label files have {len(ids)}: its names are not used"
        for each in lists
    )


def _painted(reading: _Reading, facts: LabelFacts) -> tuple[str, ...] | dict[str, Color]:
    """The classes with the colours that palette files give them, if they give each its own."""
    colors = {name: facts.palette[value] for value, name in reading.table.items() if value in facts.palette}
    every = len(colors) == len(set(colors.values())) == len(reading.names)
    return colors if every and isinstance(reading.decode, Index) and set(facts.modes) == {"P"} else reading.names
