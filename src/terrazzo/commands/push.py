"""`terrazzo models push`: a trained model as a repository of the Hugging Face hub, with a card that says what it is."""

from pathlib import Path
from typing import Any

import yaml

from terrazzo.base import InputError
from terrazzo.bundle import find_bundle
from terrazzo.description import CONFIG_FILE, BundleConfig, read_bundle_config
from terrazzo.engine.state import MODEL_FILE
from terrazzo.published.catalog import find_entry
from terrazzo.published.hub import push
from terrazzo.published.licences import Licence, encoder_licence

CARD = "README.md"
SHOWN = {"val/miou": "mIoU", "val/loss": "loss"}
"""Scores of a bundle that the card names, and how."""


def push_model(
    source: str, repo: str, *, checkpoint: str | None = None, private: bool = False, licence: str | None = None
) -> str:
    """Publish weights, description and card as one commit; the address of the repository.

    Args:
        source: a run folder or a bundle.
        repo: OWNER/NAME; made if it is not there.
        checkpoint: of a run folder: last, best_miou or best_loss; by default best_miou, else last.
        private: whether a new repository is.
        licence: of the weights, as the hub writes it.

    Raises:
        InputError: there is no such model, no token in HF_TOKEN, or the hub refuses.
    """
    folder = find_bundle(source, checkpoint).folder
    config = read_bundle_config(folder)
    if config.model.kind == "own":
        raise InputError(
            f"{source} was trained with a network passed from Python, which nobody could load from the hub"
        )
    files: dict[str, Path | bytes] = {
        CARD: model_card(source, repo, checkpoint=checkpoint, licence=licence).encode(),
        CONFIG_FILE: _without_places(config).model_dump_json(indent=2).encode() + b"\n",
        MODEL_FILE: folder / MODEL_FILE,
    }
    return push(files, repo, private=private, message=f"terrazzo {config.version}, step {config.step}")


def model_card(source: str, repo: str, *, checkpoint: str | None = None, licence: str | None = None) -> str:
    """What stands on the model's page: architecture, classes, scores, licence, how to use it.

    Arguments and errors are those of `push_model`.
    """
    config = _without_places(read_bundle_config(find_bundle(source, checkpoint).folder))
    head = yaml.safe_dump(_metadata(config, repo, licence), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{_text(config, repo, licence)}"


def _metadata(config: BundleConfig, repo: str, licence: str | None) -> dict[str, Any]:
    """The part of the card that the hub reads."""
    about: dict[str, Any] = {
        "library_name": "terrazzo",
        "pipeline_tag": "image-segmentation",
        "tags": ["terrazzo", "semantic-segmentation", "pytorch", *(name.rpartition("/")[2] for name in _names(config))],
    }
    if licence is not None:
        about["license"] = licence
    miou = config.scores.get("val/miou")
    if miou is not None:
        about["metrics"] = ["mean_iou"]
        score = {"type": "mean_iou", "name": "mIoU", "value": round(miou, 4)}
        result = {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {"type": "private", "name": "validation split"},
            "metrics": [score],
        }
        about["model-index"] = [{"name": repo.partition("/")[2], "results": [result]}]
    return about


def _text(config: BundleConfig, repo: str, licence: str | None) -> str:
    classes = config.classes
    rows = "\n".join(
        f"| {number} | {name} | `#{red:02x}{green:02x}{blue:02x}` |"
        for number, name, (red, green, blue) in zip(classes.ids, classes.names, classes.colors, strict=True)
    )
    scores = [f"- {text}: {value:.4f}" for key, text in SHOWN.items() if (value := config.scores.get(key)) is not None]
    terms = _terms(config)
    started = [entry for entry in map(find_entry, _names(config)) if entry is not None and terms]
    lines = [
        f"# {repo.partition('/')[2]}",
        f"Semantic segmentation of {config.channels}-channel images into {len(classes.names)} classes: "
        f"{' '.join(_names(config))}, trained for {config.step} steps with terrazzo {config.version}.",
        "## How to use it",
        f"```bash\nterrazzo predict hf:{repo} IMAGES... --out predictions\n```",
        f'```python\nimport terrazzo\n\nprediction = terrazzo.load("hf:{repo}")("image.jpg")\n```',
        "Images go in as they are: size, mean and standard deviation are in `config.json`.",
        "## Classes",
        f"| id | name | colour |\n|---|---|---|\n{rows}",
        *(["## Scores on the validation split", "\n".join(scores)] if scores else []),
        "## Licence",
        licence or "Not stated by whoever published these weights.",
        *(f"The training started from weights of others: {term.name}, {term.why}." for term in terms),
        *(f"These were trained on {entry.dataset}: {entry.dataset_terms.text}." for entry in started),
    ]
    return "\n\n".join(lines) + "\n"


def _names(config: BundleConfig) -> list[str]:
    """What the network is called in a recipe: kind, then architecture, encoder or name."""
    model = config.model.model_dump()
    return [str(model[key]) for key in ("kind", "arch", "encoder", "name") if isinstance(model.get(key), str)]


def _terms(config: BundleConfig) -> list[Licence]:
    """Licences of the weights that the training started from, as far as the network's names tell."""
    model = config.model.model_dump()
    if all(model.get(key) in (None, "none") for key in ("weights", "weights_backbone")):
        return []
    found = []
    for name in _names(config):
        entry = find_entry(name)
        if entry is not None:
            found.append(entry.terms)
        elif (known := encoder_licence(name)) is not None:
            found.append(known)
    return found


def _without_places(config: BundleConfig) -> BundleConfig:
    """The description without paths of this machine: of a weights file, its name alone."""
    model = config.model
    paths: dict[str, Path | str] = {}
    for key, value in vars(model).items():
        if isinstance(value, Path):
            paths[key] = Path(value.name)
        elif isinstance(value, str) and Path(value).is_absolute():
            paths[key] = Path(value).name
    return config.model_copy(update={"model": model.model_copy(update=paths)})
