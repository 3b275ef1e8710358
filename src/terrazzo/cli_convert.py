"""`terrazzo convert ...`: parse, call, print, as in cli.py."""

from pathlib import Path
from typing import Annotated

import typer

from terrazzo.terminal import say

app = typer.Typer(help="Recipes made of other programs' configurations.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    pass


@app.command()
def mmseg(
    config: Annotated[Path, typer.Argument(metavar="FILE.py", help="A config of MMSegmentation, 0.x or 1.x.")],
    out: Annotated[Path | None, typer.Option(help="Write the recipe to this file; default: print it.")] = None,
) -> None:
    """Make a recipe of an MMSegmentation config: model, data, pipeline, schedule, losses.

    The config is read as data, with the files that it builds on; nothing in it is executed. What has no counterpart
    stands in the recipe's comments, key by key.
    """
    from terrazzo.commands.convert import convert

    converted = convert(config, out)
    if out is None:
        print(converted.yaml, end="")
        return
    say(
        f"written to {out}: {len(converted.remarks)} remarks, {len(converted.left)} keys without a counterpart and "
        f"{len(converted.skipped)} statements that were not read stand at its head"
    )
    say(f"next: terrazzo data check {out}, then terrazzo train {out}")


@app.command()
def nyuntam(
    recipe: Annotated[Path, typer.Argument(metavar="FILE", help="A flat recipe of Nyuntam's adapt, YAML or JSON.")],
    out: Annotated[Path | None, typer.Option(help="Write the recipe to this file; default: print it.")] = None,
) -> None:
    """Make a recipe of a flat Nyuntam recipe, and say what became of every key.

    The recipe does what the keys say; where the old tool did something else, the report tells it.
    """
    from terrazzo.commands.convert import convert_flat

    imported = convert_flat(recipe, out)
    if out is None:
        print(imported.yaml, end="")
        return
    for line in imported.report:
        say(line)
    say(f"written to {out}, with these {len(imported.report)} lines at its head")
    say(f"next: terrazzo data check {out}, then terrazzo train {out}")
