"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from terrazzo import __version__
from terrazzo.cli_convert import app as convert_app
from terrazzo.cli_data import app as data_app
from terrazzo.cli_find import app as find_app
from terrazzo.cli_models import app as models_app
from terrazzo.cli_runs import app as runs_app
from terrazzo.terminal import print_match, print_scores, print_table, progress_bar, say

app = typer.Typer(
    help="From a folder of images and label maps to a semantic-segmentation model that you can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(find_app)
app.add_typer(runs_app)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(convert_app, name="convert")

Recipe = Annotated[
    str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file (an existing path wins).")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, for example optim.lr=1e-3 or length='{epochs: 2}'.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run folder (its best_miou, else last), a bundle, a checkpoint file of terrazzo or of others, "
        "the name of a published network (`terrazzo models list`), or hf:OWNER/NAME.",
    ),
]
Which = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Which published network a checkpoint file holds, if it does not say: segformer_mit-b0.",
    ),
]
Looks = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change how the model looks at pictures: window.size=1024, window=null, tta.flip=horizontal, ...",
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an existing run folder aside and start anew.")] = False,
) -> None:
    """Train a recipe; go on where the same command was stopped or killed."""
    from terrazzo.commands.train import train as run_training
    from terrazzo.config import load_config
    from terrazzo.recipe import read_tree

    if "sweep" in read_tree(recipe, overrides or [])[1]:
        say(f"{recipe} has a `sweep:` block, which is for `terrazzo sweep {recipe}`; this trains its base, one run")
    run = run_training(load_config(recipe, overrides or []), fresh=fresh)
    if run.stopped_by is not None:
        raise typer.Exit(128 + run.stopped_by)


@app.command()
def evaluate(
    source: Source,
    data: Annotated[str | None, typer.Option(help="Recipe whose data to score on; default: the run's own.")] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="Default: test if there is one, else val.")
    ] = None,
    checkpoint: Annotated[
        Literal["last", "best_miou", "best_loss", "all"] | None, typer.Option(help="Of a run folder.")
    ] = None,
    model: Which = None,
    match: Annotated[
        Literal["name", "order"] | None,
        typer.Option(help="How outputs stand for the data's classes; default: by name, where outputs have names."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the result to this file.")] = None,
    looks: Looks = None,
    device: Device = "auto",
) -> None:
    """Score a trained model on labelled images."""
    from terrazzo.commands.evaluate import evaluate as run_evaluation
    from terrazzo.engine.place import Place

    with progress_bar("evaluate") as progress:
        result = run_evaluation(
            source,
            data=data,
            split=split,
            checkpoint=checkpoint,
            model=model,
            match=match,
            json=json,
            overrides=looks or (),
            device=device,
            progress=progress,
        )
    if Place.of(os.environ).rank:
        return  # of several processes, one talks
    for one in result if isinstance(result, list) else [result]:
        if "match" in one:
            print_match(one["match"])
        print_scores(one)
    if json is not None:
        say(f"written to {json}")


@app.command()
def predict(
    source: Source,
    inputs: Annotated[list[Path], typer.Argument(help="Images or folders of images.", metavar="IMAGE_OR_FOLDER...")],
    out: Annotated[Path, typer.Option(help="Folder for pred/ (ids), palette/ and vis/ (overlays).")] = Path(
        "predictions"
    ),
    model: Which = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities/NAME.npz.")] = False,
    looks: Looks = None,
    device: Device = "auto",
) -> None:
    """Predict masks for images and folders of images."""
    from terrazzo.commands.predict import predict as run_prediction

    with progress_bar("predict") as progress:
        written = run_prediction(
            source,
            inputs,
            out,
            model=model,
            probabilities=probabilities,
            overrides=looks or (),
            device=device,
            progress=progress,
        )
    say(f"{len(written)} masks in {out / 'pred'}, with colours in {out / 'palette'}, overlays in {out / 'vis'}")


@app.command()
def export(
    source: Source,
    out: Annotated[Path, typer.Option(help="File to write: .safetensors, .pth, .pt, .bin, or .pt2 for a program.")],
    format: Annotated[
        Literal["state_dict", "safetensors", "adapter", "program"] | None,
        typer.Option(help="Default: what the file's ending means. adapter: only what an adapted run learned."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Fold what SSF or LoRA learned into the weights.")] = False,
    names: Annotated[
        Literal["nyuntam"] | None, typer.Option(help="Fill the folder --out with files of the names of that tool.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE|HxW", help="Of a program's images; default: that of the recipe's window or exact resize."
        ),
    ] = None,
    checkpoint: Annotated[
        Literal["last", "best_miou", "best_loss"] | None, typer.Option(help="Of a run folder.")
    ] = None,
    model: Which = None,
) -> None:
    """Write a model's weights alone, in the network's own names, and their description; or a program, or an adapter."""
    from terrazzo.commands.cost import size_of
    from terrazzo.commands.export import export as run_export

    written = run_export(
        source,
        out,
        format=format,
        merge=merge,
        names=names,
        size=None if size is None else size_of(size),
        checkpoint=checkpoint,
        model=model,
    )
    for path in written:
        what = ": classes, normalisation and the network's description" if path.suffix == ".json" else ""
        say(f"written: {path}{what}")
    if names == "nyuntam":
        say("merged_model.pth is a state dict too, not a pickled module: load it into the network that its .json names")
        if not any(path.name == "peft_modules.pth" for path in written):
            say("no peft_modules.pth: nothing was learned beside given weights that stayed (adapt, model.weights)")


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="Folder of id images, or the --out folder of a prediction.")],
    labels: Annotated[Path, typer.Argument(help="Folder of label images, or a data set with gtFine/val in it.")],
    protocol: Annotated[
        Literal["cityscapes", "idd", "default", "course"],
        typer.Option(help="What the ids are, how files find each other, and what the mean is over."),
    ] = "default",
    classes: Annotated[
        str | None, typer.Option(help="Names in the order of the ids, with commas; default: the ids that occur.")
    ] = None,
    ignore: Annotated[list[int] | None, typer.Option(help="Id of unlabelled pixels; may be repeated.")] = None,
    boundary: Annotated[
        float, typer.Option(help="Width of boundary IoU's band as a share of the image diagonal; 0 leaves it out.")
    ] = 0.02,
    json: Annotated[Path | None, typer.Option(help="Also write the result to this file.")] = None,
    tables: Annotated[Path | None, typer.Option(help="Also write every table as CSV into this folder.")] = None,
) -> None:
    """Score predicted id images against label images."""
    from terrazzo.commands.score import score as run_scoring

    with progress_bar("score") as progress:
        result = run_scoring(
            predictions,
            labels,
            protocol=protocol,
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            ignore=ignore or (255,),
            boundary=boundary or None,
            json=json,
            tables=tables,
            progress=progress,
        )
    print_table(f"protocol {protocol}: {result['protocol']['images']} images", result)
    for path in filter(None, (json, tables)):
        say(f"written to {path}")


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    step: Annotated[int | None, typer.Option(help="Default: the step whose loss stopped the run.")] = None,
) -> None:
    """Run a step again whose loss was no number, and name the layer where it began."""
    from terrazzo.commands.replay import replay as run_replay

    found = run_replay(run, step=step)
    print(f"step {found.step}: loss {found.loss}; images: {', '.join(found.images)}")
    print(f"weights before the step: {'finite' if found.weights_finite else 'not finite'}")
    print(f"first layer with an output that is not finite: {found.first_layer or 'none'}")
    print(f"parameters with a gradient that is not finite: {len(found.bad_gradients)} {found.bad_gradients[:5]}")
    print(f"the batch as the network saw it: {found.folder}")


@app.command()
def config(
    recipe: Annotated[str | None, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.")] = None,
    overrides: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes instead.")] = False,
) -> None:
    """Print a recipe with every default filled in, or the JSON schema of recipes for your editor."""
    from terrazzo.base import InputError
    from terrazzo.config import dump_yaml, load_config
    from terrazzo.recipe import read_tree, recipe_names

    if schema:
        from terrazzo.sweep.plan import SweepRecipe

        print(jsonlib.dumps(SweepRecipe.model_json_schema(), indent=2))
    elif recipe is None:
        raise InputError(f"which recipe? A path, or one of: {', '.join(recipe_names())}")
    else:
        print(dump_yaml(load_config(recipe, overrides or [])), end="")
        if "sweep" in read_tree(recipe, overrides or [])[1]:
            from terrazzo.sweep.plan import count_runs, load_sweep

            say(f"this is the base of a sweep of {count_runs(load_sweep(recipe, overrides or []))}: `terrazzo sweep`")


def _version(value: bool) -> None:
    if value:
        print(f"terrazzo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: what the user got wrong is one sentence and exit status 2; a fault of ours keeps its traceback."""
    try:
        app()
    except ValueError as error:
        from terrazzo.base import InputError  # not above: numpy and pydantic would make --help slow

        if not isinstance(error, InputError):
            raise
        say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
