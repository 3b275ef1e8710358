"""`terrazzo find-lr` and `terrazzo find-batch`: what to write into a recipe, found by trying."""

from pathlib import Path
from typing import Annotated

import typer

from terrazzo.terminal import print_batches, print_rates, progress_bar, say

app = typer.Typer()

Recipe = Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, for example batch=4 or device=cpu.")]

GIB = 2**30


@app.command("find-lr")
def find_lr(
    recipe: Recipe,
    overrides: Overrides = None,
    low: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Training steps, 10 or more.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Folder for rates.png, rates.csv and rates.json.")] = None,
) -> None:
    """Raise the learning rate from step to step and say where the loss falls fastest; nothing of the run is kept."""
    from terrazzo.commands.find_lr import find_lr as run_test
    from terrazzo.config import load_config

    config = load_config(recipe, overrides or [])
    with progress_bar("find-lr", "steps") as progress:
        found = run_test(config, low=low, high=high, steps=steps, out=out, progress=progress)
    print_rates(found)
    if out is not None:
        say(f"the curve: {out / 'rates.png'}; its numbers: {out / 'rates.csv'}, {out / 'rates.json'}")


@app.command("find-batch")
def find_batch(
    recipe: Recipe,
    overrides: Overrides = None,
    most: Annotated[int, typer.Option(help="Try no greater batch.")] = 512,
    memory: Annotated[
        float | None, typer.Option(metavar="GIB", help="What a process may hold of the computer's memory (Linux).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file for the table.")] = None,
) -> None:
    """Find the greatest batch that fits into memory; every size is tried in a process of its own."""
    from dataclasses import asdict

    from terrazzo.commands.find_batch import Tried
    from terrazzo.commands.find_batch import find_batch as run_search
    from terrazzo.config import load_config
    from terrazzo.track.jsonl import write_csv

    def tell(tried: Tried) -> None:
        say(f"batch {tried.batch}: {'fits' if tried.fits else 'does not fit'}")

    config = load_config(recipe, overrides or [])
    found = run_search(config, most=most, memory=None if memory is None else int(memory * GIB), progress=tell)
    print_batches(found)
    if out is not None:
        write_csv([asdict(tried) for tried in found], out)
        say(f"written to {out}")
