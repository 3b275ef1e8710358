"""`terrazzo data ...`: parse, call, print, as in cli.py."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from terrazzo.terminal import print_verdicts, progress_bar, say

if TYPE_CHECKING:
    from terrazzo.base import Split
    from terrazzo.data.augment import ResizeConfig

app = typer.Typer(help="Understand, check and prepare images and label maps before training.", no_args_is_help=True)

Recipe = Annotated[
    str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file (an existing path wins).")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, for example data.root=PATH.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads or processes; default: the number of cores.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder of images and label maps, laid out in any way.")],
    out: Annotated[Path, typer.Option(help="The recipe to write, for example mine.yaml.")],
) -> None:
    """Look at a folder and write a commented recipe that trains as it stands."""
    from terrazzo.commands.init import init as run_init

    with progress_bar("look") as progress:
        found = run_init(folder, out, progress=progress)
    print(found)
    say(f"written to {out}; look at it, then: terrazzo data check {out}; terrazzo train {out}")


@app.command()
def check(
    recipe: Recipe,
    overrides: Overrides = None,
    json: Annotated[Path | None, typer.Option(help="Also write verdicts and statistics to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a report with pictures, one file.")] = None,
    workers: Workers = None,
) -> None:
    """Read every label and image once; say what is wrong, worst first, and what to type. Status 1 if training would
    fail or learn the wrong thing."""
    from terrazzo.commands.check import check as run_check
    from terrazzo.config import load_config

    typed = shlex.join([recipe, *(overrides or [])])
    with progress_bar("check") as progress:
        checked = run_check(
            load_config(recipe, overrides or []),
            recipe=recipe,
            json=json,
            html=html,
            workers=workers,
            progress=progress,
        )
    print_verdicts(checked, typed)
    for path in filter(None, (json, html)):
        say(f"written to {path}")
    if checked.failed:
        raise typer.Exit(1)


@app.command()
def split(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="Folder for train.txt, val.txt, test.txt and data.yaml.")],
    overrides: Overrides = None,
    shares: Annotated[str, typer.Option(help="Of train, val and, if wanted, test.")] = "0.8,0.2",
    by: Annotated[
        str,
        typer.Option(help="What stays together: image, folder, or a regex whose first group names it (drive, tile)."),
    ] = "image",
    stratify: Annotated[bool, typer.Option(help="Give every split its share of every class.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffle.")] = 0,
    keep: Annotated[
        list[str] | None, typer.Option(help="train, val or test: it stays as it is; may be repeated.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Divide all images of a recipe into train, val and test, as list files."""
    from terrazzo.commands.split import split as run_split
    from terrazzo.config import load_config

    with progress_bar("split") as progress:
        assigned = run_split(
            load_config(recipe, overrides or []),
            out,
            shares=_shares(shares),
            by=by,
            stratify=stratify,
            seed=seed,
            keep=_splits(keep or ()),
            workers=workers,
            progress=progress,
        )
    print(assigned)
    say(f"lists in {out}; put the section of {out / 'data.yaml'} into your recipe")


@app.command()
def prepare(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="Folder for SPLIT_img/, SPLIT_label/, splits/ and data.yaml.")],
    overrides: Overrides = None,
    short_side: Annotated[int | None, typer.Option(min=1, help="Resize: pixels of the short side.")] = None,
    fit: Annotated[str | None, typer.Option(help="Resize: as large as fits into SHORTxLONG pixels.")] = None,
    exact: Annotated[str | None, typer.Option(help="Resize: to HEIGHTxWIDTH, squashed.")] = None,
    tile: Annotated[int | None, typer.Option(min=16, help="Cut into squares of so many pixels.")] = None,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbouring squares share.")] = 0,
    images: Annotated[
        Literal["copy", "png", "jpg"], typer.Option(help="copy: the very bytes where nothing changes, else PNG.")
    ] = "copy",
    workers: Workers = None,
) -> None:
    """Make image and index-mask pairs of any layout and label encoding; originals stay as they are."""
    from terrazzo.commands.prepare import prepare as run_prepare
    from terrazzo.config import load_config

    with progress_bar("prepare") as progress:
        prepared = run_prepare(
            load_config(recipe, overrides or []),
            out,
            resize=_resize(short_side, fit, exact),
            tile=tile,
            overlap=overlap,
            image_format=images,
            workers=workers,
            progress=progress,
        )
    print(prepared)
    say(f"put the section of {out / 'data.yaml'} into your recipe")


@app.command()
def pack(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="Folder of the pack.")],
    overrides: Overrides = None,
    format: Annotated[
        Literal["zstd", "raw"], typer.Option(help="zstd: compressed tiles. raw: larger, and fastest to read.")
    ] = "zstd",
    tile: Annotated[int, typer.Option(help="Side in pixels of the squares that are read one by one.")] = 128,
    workers: Workers = None,
) -> None:
    """Write a lossless copy that crops are read from fast; it trains to the same bits."""
    from terrazzo.commands.pack import pack as run_pack
    from terrazzo.config import load_config

    with progress_bar("pack") as progress:
        packed = run_pack(
            load_config(recipe, overrides or []), out, format=format, tile=tile, workers=workers, progress=progress
        )
    print(packed)
    say(f"train from it with {shlex.quote(f'data={{kind: packed, root: {out}}}')}")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of shares such as 0.7,0.15,0.15") from None


def _splits(names: Sequence[str]) -> list["Split"]:
    from terrazzo.base import SPLITS

    if strange := [name for name in names if name not in SPLITS]:
        raise typer.BadParameter(f"--keep {strange[0]}: the splits are {', '.join(SPLITS)}")
    return [split for split in SPLITS if split in names]


def _resize(short_side: int | None, fit: str | None, exact: str | None) -> "ResizeConfig | None":
    from terrazzo.data.augment import Exact, Fit, ShortSide

    if sum(option is not None for option in (short_side, fit, exact)) > 1:
        raise typer.BadParameter("give one of --short-side, --fit and --exact")
    if short_side is not None:
        return ShortSide(pixels=short_side)
    if fit is not None:
        short, long = _sides(fit, "--fit")
        return Fit(short=short, long=long)
    if exact is not None:
        height, width = _sides(exact, "--exact")
        return Exact(height=height, width=width)
    return None


def _sides(text: str, option: str) -> tuple[int, int]:
    first, _, second = text.partition("x")
    if not (first.isdigit() and second.isdigit() and int(first) and int(second)):
        raise typer.BadParameter(f"{option} {text!r} is no size such as 512x1024")
    return int(first), int(second)
