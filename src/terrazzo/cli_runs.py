"""`terrazzo sweep` and `terrazzo compare`: parse, call, print, as in cli.py."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from terrazzo.terminal import print_comparison, progress_bar, say
from terrazzo.terminal_sweep import SweepScreen, counted, print_plan, print_search, print_states, search_line

if TYPE_CHECKING:
    from terrazzo.commands.sweep import Prepared
    from terrazzo.launch.state import RunState

app = typer.Typer()

LOOK_SECONDS = 2.0
"""Between two looks at the states of a sweep that is shown."""


@app.command()
def sweep(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|FOLDER", help="A recipe with a `sweep:` block, or the folder of a sweep.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example sweep.launch.at_once=2 or length='{epochs: 2}'.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs with the time and disk that they take; start none.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, more than 1000 runs.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show how far the runs are.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Let the runs save and end.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed and refused runs again.")] = False,
    work: Annotated[list[str] | None, typer.Option("--work", hidden=True)] = None,
    search_work: Annotated[int | None, typer.Option("--search-work", hidden=True)] = None,
) -> None:
    """Train all runs of a recipe with a `sweep:` block; go on where the same command was stopped or killed."""
    if work:
        from terrazzo.commands.sweep_work import work_through

        raise typer.Exit(work_through(Path(recipe), work))
    if search_work is not None:
        from terrazzo.commands.sweep_search import search_worker

        raise typer.Exit(search_worker(Path(recipe)))
    from terrazzo.commands import sweep as verb
    from terrazzo.sweep.plan import load_sweep

    asked = load_sweep(recipe, overrides or [])
    launch = asked.block.launch
    if cancel:
        say(verb.cancel(asked.folder, launch))
    elif status:
        _watch(lambda: verb.status(asked.folder, launch))
    else:
        prepared = verb.prepare(asked, retry=retry, yes=yes)
        for remark in prepared.remarks:
            say(remark)
        if dry_run and asked.block.search is not None:
            say(search_line(asked.block.search, asked.block.seeds))
        elif dry_run:
            print_plan(prepared, verb.costs(prepared), verb.at_once(prepared))
        else:
            _run(prepared)


def _run(prepared: "Prepared") -> None:
    from terrazzo.commands import sweep as verb
    from terrazzo.launch.state import read_states
    from terrazzo.sweep.tables import read_trials

    search, seeds = prepared.sweep.block.search, prepared.sweep.block.seeds
    say(counted(prepared.states) if search is None else search_line(search, seeds))
    with SweepScreen(prepared.states if search is None else read_states(prepared.folder.states)) as screen:
        ended = verb.run_sweep(prepared, show=screen, say=say)
    folder = prepared.folder.path
    print_states(ended.states)
    if ended.submitted is not None:
        say(f"{ended.submitted} jobs submitted; `terrazzo sweep {folder} --status` shows them, --cancel ends them")
        return
    if ended.results is not None:
        say(f"results: {ended.results}; `terrazzo compare {folder}` shows them")
    found = None if search is None else read_trials(folder)
    if found is not None:
        print_search(found, folder)
    if ended.stopped_by is not None:
        say("stopped; the same command goes on from there")
        raise typer.Exit(128 + ended.stopped_by if ended.stopped_by else 1)
    if found is not None and found["over"]:
        return  # of a trial that failed the search has learned, too
    if not ended.well:
        say(f"not all runs ended well; their logs: {folder / 'logs'}. --retry tries failed ones again")
        raise typer.Exit(1)


def _watch(look: "Callable[[], dict[str, RunState]]") -> None:
    """Print the states once, or on a terminal until no run is being worked on."""
    states = look()
    if not sys.stderr.isatty():
        print_states(states)
        return
    with SweepScreen() as screen:
        screen(states)
        while any(state.status in ("running", "queued") for state in states.values()):
            time.sleep(LOOK_SECONDS)
            states = look()
            screen(states)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_OR_DIR...", help="Run folders, or folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, figures/ and tables/; or a file: .csv, .json, .md or .tex."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Best first; -COLUMN: the other way round. Default: miou.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="miou>0.5, model.kind=unet, run~resnet; repeatable.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="KEY,KEY,...", help="Columns to show; also: classes, costs, recipe, all."),
    ] = None,
    checkpoint: Annotated[
        Literal["best_miou", "last", "best_loss", "all"], typer.Option(help="Which rows a run has.")
    ] = "best_miou",
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Score checkpoints and measure costs that are missing.")
    ] = False,
) -> None:
    """Put runs in one table, and with --out in a report with curves, figures and sample images."""
    from terrazzo.commands.compare import compare as run_comparison

    asked = [] if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    with progress_bar("evaluate", "runs") as progress:
        table = run_comparison(
            runs,
            out=out,
            sort=sort,
            where=where or (),
            columns=asked,
            checkpoint=checkpoint,
            evaluate=evaluate,
            progress=progress,
        )
    print_comparison(table)
    if out is not None:
        folder = not out.suffix or out.is_dir()
        say(f"written: {out / 'report.html'}, {out / 'figures'}, {out / 'tables'}" if folder else f"written: {out}")
