"""`terrazzo compare`: many runs in one table; with --out a report for a paper or a course."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from terrazzo.base import Classes, Dataset, InputError, Split
from terrazzo.bundle import find_bundle, load_bundle, read_bundle_config
from terrazzo.commands.evaluate import default_split, evaluate
from terrazzo.commands.report import measured_cost, write_cost
from terrazzo.comparison.figures import best_rows
from terrazzo.comparison.page import write_folder
from terrazzo.comparison.runs import Place, Run, find_runs, image_scores, read_run
from terrazzo.comparison.samples import SampleGrid, SampleRow
from terrazzo.comparison.table import CHECKPOINTS, Comparison, Row, Which, read_runs, table_of
from terrazzo.comparison.writing import csv_text, json_text, latex_text, markdown_text
from terrazzo.config import RunConfig, load_config
from terrazzo.data import OwnData, build_dataset
from terrazzo.files import write_text
from terrazzo.infer.predictor import Predictor

FILES: dict[str, Callable[[Comparison], str]] = {
    ".csv": csv_text,
    ".json": json_text,
    ".md": markdown_text,
    ".tex": latex_text,
}
"""What `out` may be instead of a folder: one table."""
SAMPLE_RUNS, SAMPLE_IMAGES = 3, 4


def compare(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    sort: str | None = None,
    where: Sequence[str] = (),
    columns: Sequence[str] = (),
    checkpoint: Which = "best_miou",
    evaluate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Put runs in one table: one row for each run and checkpoint, ranked only with rows scored in the same way.

    Args:
        runs: run folders, or folders with runs below them, sweeps for one.
        out: folder for report.html, figures/ and tables/; or a file .csv, .json, .md or .tex for the table alone.
        sort: a column's key or title, the best first; `-COLUMN` turns it round. Default: mIoU.
        where: conditions that a row must meet: `model.kind=unet`, `miou>0.5`, `run~resnet`.
        columns: which columns to show: keys or titles; `classes`, `costs`, `recipe` and `all` stand for many.
        checkpoint: which checkpoint's row: best_miou, last, best_loss or all.
        evaluate: score checkpoints that have not been scored yet, and measure costs that are missing.
        progress: called with (runs done, runs in all) while that is done.

    Raises:
        InputError: there is no run, or a column or a condition is not understood.
    """
    given = [Path(runs)] if isinstance(runs, str | Path) else [Path(path) for path in runs]
    places, remarks = find_runs(given)
    read = read_runs(places)
    if evaluate:
        read = _completed(places, read, checkpoint, progress)
    table = table_of(read, remarks=remarks, checkpoint=checkpoint, sort=sort, where=where, columns=columns)
    if out is None:
        return table
    path = Path(out)
    if path.suffix in FILES:
        write_text(path, FILES[path.suffix](table))
    elif path.is_file() or path.suffix == ".html":
        raise InputError(f"out={out}: give a folder, or a file that ends in {', '.join(FILES)}")
    else:
        write_folder(path, table, _samples(table))
    return table


def _completed(
    places: Sequence[Place], runs: Sequence[Run], checkpoint: Which, progress: Callable[[int, int], None] | None
) -> list[Run]:
    """The runs after what is missing has been scored and measured; one that cannot be says why."""
    listed = []
    for done, (place, run) in enumerate(zip(places, runs, strict=True), start=1):
        try:
            changed = _complete(run, checkpoint)
            listed.append(read_run(place) if changed else run)
        except InputError as error:
            why = "; ".join(filter(None, [run.reason, f"not scored: {' '.join(str(error).split())}"]))
            listed.append(replace(read_run(place), reason=why))
        if progress is not None:
            progress(done, len(runs))
    return listed


def _complete(run: Run, checkpoint: Which) -> bool:
    """Score and measure what is missing; whether anything was."""
    if run.folder is None or not run.checkpoints:
        return False
    wanted = CHECKPOINTS if checkpoint == "all" else (checkpoint,)
    there = {scored.checkpoint for scored in run.scored}
    missing = [name for name in wanted if name in run.checkpoints and name not in there]
    for name in missing:
        evaluate(run.folder, checkpoint=name)
    if run.cost:
        return bool(missing)
    config = load_config(run.folder / "config.yaml")
    found = find_bundle(run.folder)
    split = default_split(config)
    model, _ = load_bundle(found.folder)
    facts = measured_cost(model, _dataset(config, split), found.folder, run.folder, config)
    write_cost(run.folder / "evaluation" / f"{split}-{found.checkpoint}", facts)
    return True


def _dataset(config: RunConfig, split: Split) -> Dataset:
    if isinstance(config.data, OwnData):
        raise InputError("the run was trained on a dataset object, which only a program can pass")
    return build_dataset(config.data, split)


def _samples(table: Comparison) -> SampleGrid | str:
    """A few images as the best runs see them; a sentence where the data or a network cannot be had."""
    rows = [row for row in best_rows(table, SAMPLE_RUNS) if row.scored is not None]
    if not rows:
        return "no run has been scored"
    try:
        return _grid(rows)
    except (InputError, OSError) as error:  # a data set that has moved away is no reason to have no report
        return " ".join(str(error).split())


def _grid(rows: Sequence[Row]) -> SampleGrid:
    first = rows[0]
    assert first.run.folder is not None
    assert first.scored is not None
    config = load_config(first.run.folder / "config.yaml")
    split: Split = "test" if first.scored.split == "test" else "val"
    dataset = _dataset(config, split)
    every = max(1, len(dataset) // SAMPLE_IMAGES)
    chosen = [*range(every // 2, len(dataset), every)][:SAMPLE_IMAGES]
    samples = [dataset[index] for index in chosen]
    predictors = [_predictor(row, dataset.classes) for row in rows]
    scores = [image_scores(row.scored) for row in rows if row.scored is not None]
    return SampleGrid(
        runs=[str(row.values["run"]) for row in rows],
        classes=dataset.classes,
        rows=[
            SampleRow(
                name=sample.name,
                image=sample.image,
                truth=sample.mask,
                predictions=[predictor(sample.image).mask for predictor in predictors],
                scores=[score.get(sample.name) for score in scores],
            )
            for sample in samples
        ],
    )


def _predictor(row: Row, classes: Classes) -> Predictor:
    """The network of a row, which must know the same classes as the others."""
    assert row.run.folder is not None
    found = find_bundle(row.run.folder, row.checkpoint)
    config = read_bundle_config(found.folder)
    if config.classes.classes().names != classes.names:
        raise InputError(f"{row.run.name} has other classes than the best run")
    model, _ = load_bundle(found.folder)
    return Predictor(model, classes, config.inference)
