"""Verdicts about label files of colours: colours that the config does not know, and what they look like instead."""

from collections import Counter
from collections.abc import Iterator

from terrazzo.base import distinct_colors
from terrazzo.check.scan import Record
from terrazzo.check.verdict import Verdict, override
from terrazzo.check.verdicts_case import Case, count, some
from terrazzo.check.verdicts_tally import ColorTally, by_unknown, colors_of, pixels_of, swapped
from terrazzo.check.verdicts_values import MANY, SEPARATE, STAINED, VOC_VOID
from terrazzo.data.class_files import ClassFile, class_files
from terrazzo.data.colors import hex_of
from terrazzo.data.labels import Palette, Polygons


def color_verdicts(case: Case) -> Iterator[Verdict]:
    match case.cfg.decode:
        case Palette():
            yield from _palette(ColorTally(case, case.cfg.decode, case.records))
            yield from _class_file(case)
        case Polygons():
            yield from _outlines(case)
        case _:
            yield from _not_read_as_colors(case)
            yield from _palettes_disagree(case)


def _palette(tally: ColorTally) -> Iterator[Verdict]:
    for rule in (_jpeg, _grey_ids, _bgr, _blended, _unknown):
        if (verdict := rule(tally)) is not None:
            yield verdict
            return


def _jpeg(tally: ColorTally) -> Verdict | None:
    gap = tally.gap
    files = tuple(record.label for record in tally.bad if record.label_format == "JPEG")
    if not files and len(tally.unknown) > 4 * MANY and tally.near(gap // 4) >= STAINED:
        files = tuple(record.label for record in tally.bad)  # saved as PNG afterwards
    if not files:
        return None
    fix = tally.change({"tolerance": gap // 4, "unknown": "ignore"}) if gap >= SEPARATE else tally.case.leave_out(files)
    return Verdict(
        "jpeg-labels",
        "error",
        f"{count(len(files), 'label')} stained by JPEG, which changes colours",
        f"{tally.unknown_share}: {tally.shown}",
        files,
        fix,
        "Use the original label files, or export them again as PNG. The setting takes the class colour within "
        f"{gap // 4} in each channel and ignores the pixels in between.",
    )


def _grey_ids(tally: ColorTally) -> Verdict | None:
    """Class ids in files that are read as colours."""
    names = tally.case.names
    ids = {*range(len(names)), 255}
    plain = [r for r in tally.bad if r.values and not r.label_mode.startswith("P") and set(r.values) <= ids]
    if not plain:
        return None
    files = tuple(record.label for record in plain)
    whole = len(plain) == len(tally.records) and tally.case.open
    values = sorted({value for record in plain for value in record.values or {}})
    return Verdict(
        "ids-read-as-colours",
        "error",
        f"{count(len(files), 'label')} of class ids, not of colours",
        f"grey files with the values {some(values)}, for {count(len(names), 'class')}",
        files,
        (override("data.decode", {"kind": "index"}),) if whole else tally.case.leave_out(files),
        "The setting takes the values as ids in the order of data.classes.",
    )


def _bgr(tally: ColorTally) -> Verdict | None:
    """Red and blue swapped, as by OpenCV's writer."""
    swap = [r for r in tally.bad if all(swapped(color) in tally.known for color in colors_of(r))]
    if not swap:
        return None
    files = tuple(record.label for record in swap)
    # A file of colours that are their own mirror, grey and green, fits both orders.
    fits = sum(all(swapped(color) in tally.known for color in colors_of(r)) for r in tally.records)
    other = "rgb" if tally.decode.channels == "bgr" else "bgr"
    return Verdict(
        "bgr-palette",
        "error",
        f"Red and blue are swapped in {count(len(files), 'label')}",
        f"with the channels in the order {other} every colour of these files is a class's: {tally.shown}",
        files,
        tally.change({"channels": other}) if fits == len(tally.records) else tally.case.leave_out(files),
        "Written by a program that takes colours as blue, green, red.",
    )


def _blended(tally: ColorTally) -> Verdict | None:
    total, bad = tally.pixels.total(), tally.unknown.total()
    if len(tally.unknown) <= 4 * MANY or bad > 0.3 * total:
        return None
    files = tuple(record.label for record in tally.bad)
    fix = tally.case.leave_out(files) if len(files) <= len(tally.records) / 10 else ()
    return Verdict(
        "anti-aliased-labels",
        "error",
        f"{count(len(files), 'label')} with smoothed borders",
        f"{count(len(tally.unknown), 'unknown colour')} on {tally.unknown_share}: {tally.shown}",
        files,
        fix or tally.change({"unknown": "ignore"}),
        "Resize labels with nearest-neighbour interpolation only. "
        + ("The setting leaves these files out." if fix else "The setting ignores the mixed pixels."),
    )


def _unknown(tally: ColorTally) -> Verdict | None:
    if not tally.bad:
        return None
    files = tuple(record.label for record in tally.bad)
    listed = [hex_of(color) for color in tally.decode.ignore_colors]
    new = [swapped(color) if tally.decode.channels == "bgr" else color for color in sorted(tally.unknown)]
    few = len(new) <= 4 * MANY
    fix = tally.change({"ignore_colors": [*listed, *new]}) if few else tally.change({"unknown": "ignore"})
    return Verdict(
        "unknown-colours",
        "error",
        f"{count(len(tally.unknown), 'colour')} in {count(len(files), 'label')} that no class has",
        f"{tally.shown}, on {tally.unknown_share}",
        files,
        fix or tally.case.leave_out(files),
        "Give the colour to a class in data.classes if it is one; the setting ignores it.",
    )


def _not_read_as_colors(case: Case) -> Iterator[Verdict]:
    """Colour images where the config expects numbers."""
    colored = tuple(record for record in case.records if record.colors is not None and record.values is None)
    if not colored:
        return
    pixels: Counter[str] = Counter()
    for record in colored:
        pixels.update(record.colors or {})
    colors, sure = _names_of_colors(case, pixels)
    files = tuple(record.label for record in colored)
    ignored = [color for color in pixels if color not in colors.values()]
    if len(ignored) > 4 * MANY:
        decode: dict[str, object] = {"unknown": "ignore"}
    else:
        decode = {"ignore_colors": sorted(ignored)} if ignored else {}
    whole = 2 * len(colored) > len(case.records)
    yield Verdict(
        "colour-labels",
        "error",
        f"{count(len(files), 'label')} of colours, read as if of numbers",
        f"{count(len(pixels), 'colour')}: {pixels_of(pixels)}",
        files,
        case.decode_colors(colors, decode) if whole else case.leave_out(files),
        _origin(sure),
    )


def _palettes_disagree(case: Case) -> Iterator[Verdict]:
    """Palette files in which indices and colours change places from file to file, and few colours are all there is.

    Palettes that only paint the same indices in other colours are decoration.
    """
    owners: dict[int, dict[str, Record]] = {}
    pixels: Counter[str] = Counter()
    files = []
    for record in case.records:
        values, painted = record.values or {}, record.colors or {}
        if record.label_mode.startswith("P") and len(values) == len(painted):  # then both are in one order
            files.append(record.label)
            pixels.update(painted)
            for value, color in zip(values, painted, strict=True):
                owners.setdefault(value, {}).setdefault(color, record)
    torn = {value: found for value, found in owners.items() if len(found) > 1}
    wandering = any(sum(color in found for found in owners.values()) > 1 for color in pixels)
    if not torn or not wandering or len(pixels) > len(case.names) + 2:
        return
    colors, sure = _names_of_colors(case, pixels)
    ignored = sorted(color for color in pixels if color not in colors.values())
    value, found = next(iter(torn.items()))
    yield Verdict(
        "palettes-disagree",
        "error",
        f"{count(len(torn), 'index')} of palette files stand for different colours from file to file",
        f"{value} is {some((f'{color} in {record.label}' for color, record in found.items()), 3)}",
        tuple(files),
        case.decode_colors(colors, {"ignore_colors": ignored} if ignored else {}),
        f"The colours are the labels, not the indices. {_origin(sure)}",
    )


def _origin(sure: bool) -> str:
    if sure:
        return "The colours are those of data.classes, of a class list beside the data, or of PASCAL VOC's colour map."
    return (
        "Which class has which colour cannot be known from the files: the setting gives the most frequent colours to "
        "the classes in their order. Put them right in data.classes."
    )


def _names_of_colors(case: Case, pixels: Counter[str]) -> tuple[dict[str, str], bool]:
    """Class name -> colour, and whether it is known rather than guessed."""
    colors, black = set(pixels), "#000000"
    known = [case.colors or {}, dict(zip(case.names, map(hex_of, distinct_colors(len(case.names))), strict=True))]
    for listed in _class_files(case):
        by_name = {name.casefold(): hex_of(color) for color, name in listed.by_color.items()}
        known.append({name: by_name[name.casefold()] for name in case.names if name.casefold() in by_name})
    for each in known:
        if len(each) == len(case.names) and colors <= {*each.values(), hex_of(VOC_VOID), black}:
            return each, True
    frequent = [color for color, _ in pixels.most_common() if color != black or len(colors) <= len(case.names)]
    return dict(zip(case.names, frequent, strict=False)), False


def _outlines(case: Case) -> Iterator[Verdict]:
    bad = by_unknown(case.records)
    if bad:
        files = tuple(record.label for record in bad)
        yield Verdict(
            "unknown-outlines",
            "error",
            f"{count(len(files), 'label')} with outlines of unknown names",
            some((record.decode_fault or record.label for record in bad), 3),
            files,
            (override("data.decode.unknown", "skip"),) if case.open else case.leave_out(files),
            "Give the name to a class in data.decode.map if it is one.",
        )


def _class_file(case: Case) -> Iterator[Verdict]:
    """A list of classes beside the data whose colours are not those of the labels."""
    there = {color for record in case.records for color in colors_of(record)}
    for listed in _class_files(case) if there else []:
        colors = [hex_of(color) for color in listed.by_color]
        missing = [color for color in colors if color not in there]
        if 2 * len(missing) > len(colors):
            yield Verdict(
                "class-file-differs",
                "note",
                f"{listed.path} lists other colours than the labels have",
                f"{len(missing)} of its {len(colors)} colours occur in no label: {some(missing)}",
                advice="Trust the colours of the labels, as data.classes does.",
            )


def _class_files(case: Case) -> list[ClassFile]:
    return class_files(case.cfg.root, [path.name for path in case.cfg.root.iterdir()])
