"""`terrazzo models ...`: parse, call, print, as in cli.py."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from terrazzo.terminal import print_costs, progress_bar, say

if TYPE_CHECKING:
    from terrazzo.commands.models import ModelRow

app = typer.Typer(
    help="The networks that a recipe can name, and those that others published, trained.", no_args_is_help=True
)

Family = Annotated[str | None, typer.Option(help="Of this family only: segformer, hrnet, resnet, 'mobile*', ...")]
DataSet = Annotated[
    str | None, typer.Option("--dataset", help="Published networks trained on it only: cityscapes, ade20k, voc, ...")
]
Runnable = Annotated[bool, typer.Option("--runnable", help="Published networks that run here only.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the list, with all columns, to this file.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="The same as CSV.")]


@app.command("list")
def list_models(
    pattern: Annotated[str | None, typer.Argument(help="Part of a name, or a pattern such as '*mobilenet*'.")] = None,
    family: Family = None,
    dataset: DataSet = None,
    runnable: Runnable = False,
    json: Json = None,
    csv: Csv = None,
) -> None:
    """List architectures, encoders and published networks: which weights there are, what they reach, what runs."""
    from terrazzo.base import InputError
    from terrazzo.commands.models import model_rows

    rows = model_rows(pattern or "", family=family, dataset=dataset, runnable=runnable)
    if not rows:
        raise InputError(
            f"no architecture, encoder or published network matches {pattern or family or dataset!r}; "
            "`terrazzo models list` shows all"
        )
    _show_list(rows, json=json, csv=csv)


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(help="All of them stand in the name, the family or the data set.")],
    family: Family = None,
    dataset: DataSet = None,
    runnable: Runnable = False,
    json: Json = None,
    csv: Csv = None,
) -> None:
    """Find architectures, encoders and published networks by words."""
    from terrazzo.base import InputError
    from terrazzo.commands.models import model_rows

    rows = model_rows(words=words, family=family, dataset=dataset, runnable=runnable)
    if not rows:
        raise InputError(f"nothing has {' and '.join(words)} in its name, family or data set; try fewer words")
    _show_list(rows, json=json, csv=csv)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a published network, its weights file, an architecture, an encoder.")],
) -> None:
    """Tell all about one network: scores, licence, address, whether it runs, what to type."""
    from terrazzo.commands.models import address_of, describe_model

    row = describe_model(name)
    lines: list[tuple[str, str]] = [("name", row.name), ("family", row.family), ("model.kind", row.kind)]
    if row.part != "published":
        lines += [("part", row.part), ("pretrained weights", ", ".join(row.weights) or "none")]
        lines += [("licences", row.licence or ""), ("not plainly free", row.licence_why or "")]
        if row.kind == "zoo":
            lines += [("recipe", f"model: {{kind: zoo, name: {row.name}, weights: none}}")]
    else:
        url, here = address_of(name)
        lines += [
            ("data set", row.dataset or ""),
            ("mIoU", _percent(row.miou)),
            ("mIoU, scales and flips", _percent(row.miou_tta)),
            ("mean Dice", _percent(row.dice)),
            ("training memory", "" if row.memory_gb is None else f"{row.memory_gb} GB a device"),
            ("licence of the weights", f"{row.licence}{'' if row.commercial else ', non-commercial'}"),
            ("licence, why", row.licence_why or ""),
            ("training images", row.dataset_terms or ""),
            ("file", row.weights[0]),
            ("address", url),
            ("in the cache", str(here or "no")),
            ("runs", "yes" if row.runs else f"no: {row.reason}"),
        ]
        if row.runs:
            recipe = f"model: {{kind: zoo, name: {row.name}}}"
            lines += [("recipe", recipe), ("masks", f"terrazzo predict {row.name} IMAGES... --out predictions")]
    width = max(len(head) for head, _ in lines)
    for head, text in lines:
        if text:
            print(f"{head:<{width}}  {text}")


@app.command()
def get(
    names: Annotated[list[str], typer.Argument(help="Of published networks, or of their files.", metavar="NAME...")],
    out: Annotated[
        Path | None, typer.Option(help="Also copy to this file, or into this folder; default: the cache alone.")
    ] = None,
) -> None:
    """Download weights of published networks: resumed, checked, kept in the cache. Prints where the files are."""
    from terrazzo.base import InputError
    from terrazzo.commands.models import describe_model, get_model

    if out is not None and out.suffix and len(names) > 1:
        raise InputError(f"--out {out} is one file, and {len(names)} networks were named; give a folder")
    for name in names:
        path = get_model(name, out)
        row = describe_model(name)
        if not row.commercial:
            say(f"{row.name}: {row.licence}, not for commercial use")
        if not row.runs:
            say(f"note: {row.reason}")
        print(path)


@app.command()
def cost(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="ARCH/ENCODER (unet/resnet50), a value of model.kind, a recipe, a model section in braces, the name "
            "of a published network, a run folder, a bundle or a checkpoint file.",
        ),
    ],
    size: Annotated[str, typer.Option(metavar="SIDE|HxW", help="Height and width of the image in pixels.")] = "512",
    classes: Annotated[
        int | None, typer.Option(min=1, help="Where a model does not say; default: of its data set, else 19.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    runs: Annotated[int, typer.Option(min=0, help="Timed runs at most; 0 counts only, which is quick.")] = 20,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where to compute.")] = "auto",
    json: Json = None,
    csv: Csv = None,
) -> None:
    """Measure parameters, size, multiplications, memory and time of networks, side by side."""
    from terrazzo.commands.cost import cost as run_costs
    from terrazzo.commands.cost import size_of

    with progress_bar("cost", unit="networks") as progress:
        rows = run_costs(
            models,
            size=size_of(size),
            classes=classes,
            batch=batch,
            runs=runs,
            device=device,
            json=json,
            csv=csv,
            progress=progress,
        )
    print_costs([row.cells() for row in rows])
    for path in filter(None, (json, csv)):
        say(f"written to {path}")


@app.command()
def push(
    source: Annotated[str, typer.Argument(metavar="RUN", help="A run folder (its best_miou, else last), or a bundle.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the Hugging Face hub.")],
    checkpoint: Annotated[
        Literal["last", "best_miou", "best_loss"] | None, typer.Option(help="Of a run folder.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of your weights, as the hub writes it: apache-2.0, cc-by-nc-4.0, ...")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Only write the model card to this file, and send nothing.")] = None,
) -> None:
    """Publish a trained model on the Hugging Face hub, with a model card. The token comes from HF_TOKEN."""
    from terrazzo.commands.push import model_card, push_model

    if card is not None:
        card.write_text(model_card(source, repo, checkpoint=checkpoint, licence=licence), encoding="utf-8")
        say(f"written to {card}; nothing was sent")
        return
    page = push_model(source, repo, checkpoint=checkpoint, private=private, licence=licence)
    print(page)
    say(f"whoever may read it: terrazzo predict {shlex.quote(f'hf:{repo}')} IMAGES...")


def _show_list(rows: "Sequence[ModelRow]", *, json: Path | None, csv: Path | None) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from terrazzo.commands.models import write_rows

    plain = Console()
    console = plain if plain.is_terminal else Console(width=240)  # a file or a pipe has no right edge
    built = [row for row in rows if row.part != "published"]
    published = [row for row in rows if row.part == "published"]
    if built:
        table = Table("model.kind", "part", "name", "family", "pretrained weights", "not plainly free", box=None)
        for row in built:
            table.add_row(row.kind, row.part, row.name, row.family, ", ".join(row.weights), row.licence_why)
        console.print(table)
    if published:
        name, data = Column("published network", no_wrap=True), Column("data set", overflow="fold")
        table = Table(name, data, "mIoU", "scales, flips", "licence", "runs", box=None)
        for row in published:
            licence = "" if row.commercial else "non-commercial"
            runs = "yes" if row.runs else f"no: {row.short}"
            score = _percent(row.miou) or (f"Dice {_percent(row.dice)}" if row.dice is not None else "")
            table.add_row(row.name, row.dataset, score, _percent(row.miou_tta), licence, runs)
        console.print(table)
        running = sum(row.runs for row in published)
        say(f"{len(published)} published networks, {running} of them run here: model: {{kind: zoo, name: NAME}}")
    write_rows(rows, json=json, csv=csv)
    for path in filter(None, (json, csv)):
        say(f"written to {path}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
