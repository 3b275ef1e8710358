"""Verdicts about label files of numbers: values that the config does not know, and what they look like instead."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from terrazzo.base import Color, distinct_colors
from terrazzo.check.verdict import Verdict, override
from terrazzo.check.verdicts_case import Case, count, some
from terrazzo.check.verdicts_tally import ValueTally, pixels_of
from terrazzo.data.labels import IGNORED, Bits, Index, Values

SEPARATE = 16
"""JPEG blurs values that lie closer together than this into each other."""
MANY = 8
"""So many different unknown values are a smooth blend of others, if they lie between those."""
STAINED = 0.9
"""With this share of the unknown pixels near known values the labels went through JPEG; a smooth resize has fewer."""
PURE = 0.02
"""A value with this share of the pixels is no blend."""
VOC_VOID: Color = (224, 224, 192)
"""The colour of 255 in the label files of PASCAL VOC."""


def value_verdicts(case: Case) -> Iterator[Verdict]:
    """At most one verdict: the first rule that explains the values."""
    if not isinstance(case.cfg.decode, Index | Values | Bits):
        return
    tally = ValueTally(case, tuple(record for record in case.records if record.values))
    for rule in (_jpeg, _foreground, _wide, _starts_at_one, _grey, _spread, _blended, _unknown):
        if tally.records and (verdict := rule(tally)) is not None:
            yield verdict
            return


def _jpeg(tally: ValueTally) -> Verdict | None:
    """Values from a lossy file are near their true ones, which helps where those lie far apart."""
    case, gap = tally.case, tally.gap
    files = tuple(record.label for record in tally.records if record.label_format == "JPEG")
    if not files and len(tally.unknown) >= MANY and gap >= SEPARATE and tally.near(gap // 4) >= STAINED:
        files = tuple(record.label for record in tally.bad)  # saved as PNG afterwards
    if not files or (gap >= SEPARATE and not tally.bad):
        return None
    if gap >= SEPARATE:
        fix = case.decode_values(tally.meaning, tolerance=gap // 4, unknown="ignore")
        said = f"The setting takes the value within {gap // 4} and ignores the pixels in between."
    else:
        fix = case.leave_out(files)
        said = f"Ids that lie {gap} apart cannot be told from each other's noise."
    return Verdict(
        "jpeg-labels",
        "error",
        f"{count(len(files), 'label')} stained by JPEG, which changes values",
        f"{len(tally.pixels)} different values, {tally.shown}; unknown are {tally.unknown_share}",
        files,
        fix,
        f"Use the original label files, or export them again as PNG. {said}",
    )


def _foreground(tally: ValueTally) -> Verdict | None:
    """Masks of 0 and 255 (in 16 bits 65535) whose foreground the config does not know, or ignores."""
    names, top = tally.case.names, max(tally.pixels)
    lost = top in tally.unknown or tally.meaning.get(top) == IGNORED
    if set(tally.pixels) not in ({0, 255}, {0, 65535}) or len(names) < 2 or not lost:
        return None
    return Verdict(
        "foreground-255",
        "error",
        f"The foreground is written as {top}, which is {'unknown' if tally.unknown else 'ignored'}",
        f"only two values occur: {tally.shown}; {names[1]!r} would never be seen",
        tally.files,
        tally.case.decode_bits(),
        f"0 becomes {names[0]!r}, {top} {names[1]!r}.",
    )


def _wide(tally: ValueTally) -> Verdict | None:
    """Ids multiplied by 256 (or 257), as 16-bit writers stretch 8 bits."""
    case = tally.case
    wide = [record for record in tally.bad if max(record.values or (0,)) > 255 and _factor(record.values or {})]
    if not wide:
        return None
    factor = _factor(wide[0].values or {})
    stretched = {value * factor: name for value, name in tally.meaning.items() if value >= 0}
    beyond = {value: IGNORED for record in wide for value in record.values or {} if value not in stretched}
    # Where other files hold the plain ids, one map serves both.
    plain = {} if len(wide) == len(tally.records) else tally.meaning
    files = tuple(record.label for record in wide)
    return Verdict(
        "ids-times-256",
        "error",
        f"{count(len(wide), 'label')} with ids multiplied by {factor}",
        f"all values of these {wide[0].label_mode} files are multiples of {factor}: {pixels_of(tally.unknown)}",
        files,
        case.decode_values(plain | stretched | beyond) or case.leave_out(files),
        "A 16-bit export stretched the ids over the whole range; the setting divides them again.",
    )


def _starts_at_one(tally: ValueTally) -> Verdict | None:
    names = tally.case.names
    ignored = {value for value, name in tally.meaning.items() if name == IGNORED and value > len(names)}
    values = set(tally.pixels) - ignored
    if len(names) not in tally.unknown or not values <= set(range(1, len(names) + 1)):
        return None
    meaning = dict(enumerate(names, start=1)) | dict.fromkeys(sorted(ignored), IGNORED)
    return Verdict(
        "ids-start-at-one",
        "error",
        f"Ids start at 1, not at 0: the last class, {names[-1]!r}, has {len(names)}",
        f"{count(len(names), 'class')} are written as {min(values)} to {max(values)}, and 0 does not occur: "
        + tally.shown,
        tally.files,
        tally.case.decode_values(meaning),
        "Read as they are, every class would take the next one's name.",
    )


def _grey(tally: ValueTally) -> Verdict | None:
    """Grey values that the colours of the classes have after a conversion to grey."""
    names, values = tally.case.names, set(tally.pixels)
    given = tally.case.cfg.classes
    palettes = [given] if isinstance(given, Mapping) else []
    palettes.append(dict(zip(names, distinct_colors(len(names)), strict=True)))
    for colors in palettes:
        owners = _by_luma(colors)
        if not tally.unknown or not values <= owners.keys() or len(values) < 2 or max(values) < len(names):
            continue
        lost = "".join(
            f" {' and '.join(found)} are both {value}: they cannot be told apart."
            for value, found in owners.items()
            if len(found) > 1 and value in values
        )
        return Verdict(
            "grey-of-palette",
            "error",
            "Colours were turned into grey: values are the brightness of class colours",
            f"{tally.shown}: {some(f'{value} is {owners[value][0]}' for value in sorted(values))}",
            tally.files,
            tally.case.decode_values({v: found[0] if len(found) == 1 else IGNORED for v, found in owners.items()}),
            f"Use the original palette or colour files if there are any.{lost}",
        )
    return None


def _spread(tally: ValueTally) -> Verdict | None:
    """As many values as classes, spread evenly so that they are seen by eye: 0, 128, 255."""
    names, values = tally.case.names, sorted(tally.pixels)
    steps = [b - a for a, b in pairwise(values)]
    if not tally.unknown or len(values) != len(names) or len(values) < 2:
        return None
    if max(steps) - min(steps) > 2 or min(steps) < 2:
        return None
    return Verdict(
        "spread-values",
        "error",
        f"The {count(len(names), 'class')} are written as {some(values)}",
        f"exactly {len(values)} values occur, evenly spread: {tally.shown}",
        tally.files,
        tally.case.decode_values(dict(zip(values, names, strict=True))),
        "The setting gives the values to the classes in their order; check it on a picture.",
    )


def _blended(tally: ValueTally) -> Verdict | None:
    """Borders that a smooth resize mixed from the values on both sides."""
    case, bad = tally.case, tally.unknown.total()
    if len(tally.unknown) < MANY or bad > 0.3 * tally.pixels.total() or not _lies_between(tally):
        return None
    meaning = tally.meaning
    pure = {value for value, n in tally.pixels.items() if n > PURE * tally.pixels.total()}
    if pure == {0, 255} and len(case.names) >= 2:
        meaning = {0: case.names[0], 255: case.names[1]}
    files = tuple(record.label for record in tally.bad)
    few = len(files) <= len(tally.records) / 10 and case.leave_out(files)
    said = "leaves these files out." if few else "ignores the mixed pixels; a mix can also hit another class's value."
    return Verdict(
        "anti-aliased-labels",
        "error",
        f"{count(len(files), 'label')} with smoothed borders",
        f"{len(tally.unknown)} unknown values between the known ones, on {tally.unknown_share}: "
        + pixels_of(tally.unknown),
        files,
        few or case.decode_values(meaning, unknown="ignore"),
        f"Resize labels with nearest-neighbour interpolation only. The setting {said}",
    )


def _lies_between(tally: ValueTally) -> bool:
    """Whether unknown values lie between the known ones of their file, and spread over that range. Further class ids,
    like the raw ids of Cityscapes, lie beyond it or close together."""
    between = spread = 0
    for record in tally.bad:
        unknown = tally.unknown_in(record)
        known = [value for value in record.values or {} if value not in unknown]
        if known and unknown:
            low, high = min(known), max(known)
            between += sum(n for value, n in unknown.items() if low < value < high)
            spread += max(unknown) - min(unknown) >= (high - low) / 2
    return between >= 0.9 * tally.unknown.total() and spread >= len(tally.bad) / 2


def _unknown(tally: ValueTally) -> Verdict | None:
    if not tally.bad:
        return None
    case, names, unknown = tally.case, tally.case.names, sorted(tally.unknown)
    files = tuple(record.label for record in tally.bad)
    fix = _ignoring(tally, unknown)
    advice = "Name the value as a class if it is one; the setting ignores it."
    if isinstance(case.cfg.decode, Index) and unknown == [len(names)]:
        ids = ", ".join(f"{k}: {name}" for k, name in enumerate(names[:3], start=1))
        advice += (
            f" If 0 is no class and ids start at 1, say data.decode={{kind: values, map: {{0: ignore, {ids}, ...}}}}."
        )
    return Verdict(
        "unknown-values",
        "error",
        f"{count(len(unknown), 'value')} in {count(len(files), 'label')} that no class has",
        f"{pixels_of(tally.unknown)}, on {tally.unknown_share}",
        files,
        fix or case.leave_out(files),
        advice if fix else "Correct the files; the setting leaves them out.",
    )


def _ignoring(tally: ValueTally, unknown: list[int]) -> tuple[str, ...]:
    """The setting that ignores unknown values: one by one if they are few."""
    case, few = tally.case, len(unknown) <= MANY
    match case.cfg.decode:
        case Index() if case.open and unknown and max(unknown) < 0:
            return (override("data.decode.ignore_negative", True),)
        case Index(ignore=ignore) if case.open and few:
            return (override("data.decode.ignore", [*ignore, *unknown]),)
        case Values(tolerance=tolerance) if few:
            return case.decode_values(tally.meaning | dict.fromkeys(unknown, IGNORED), tolerance=tolerance)
        case Values(tolerance=tolerance):
            return case.decode_values(tally.meaning, tolerance=tolerance, unknown="ignore")
        case Bits():
            tops = sorted({max(record.values or (0,)) for record in tally.records} - {0})
            foreground = dict.fromkeys(tops, case.names[1])
            return case.decode_values({0: case.names[0], **foreground}, unknown="ignore")
        case _:
            return case.decode_values(tally.meaning, unknown="ignore")


def luma(color: Color) -> int:
    """Brightness as Pillow's conversion to L computes it (ITU-R 601-2)."""
    red, green, blue = color
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _by_luma(colors: Mapping[str, Color]) -> dict[int, list[str]]:
    """Brightness -> the classes that have it, and what VOC's files have for "no class"."""
    owners: dict[int, list[str]] = {}
    for name, color in colors.items():
        owners.setdefault(luma(color), []).append(name)
    for void in (luma(VOC_VOID), 255):
        owners.setdefault(void, [IGNORED])
    return owners


def _factor(values: Mapping[int, int]) -> int:
    return next((factor for factor in (257, 256) if all(value % factor == 0 for value in values)), 0)
