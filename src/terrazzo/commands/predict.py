"""`terrazzo predict`: masks for images or folders of them, named after the inputs, folder structure kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from terrazzo.base import InputError
from terrazzo.bundle import open_model
from terrazzo.config import inference_with
from terrazzo.data.pixels import IMAGE_SUFFIXES
from terrazzo.engine.world import choose_device
from terrazzo.infer.predictor import Predictor


def load(
    source: str | Path,
    *,
    model: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    network: nn.Module | None = None,
) -> Predictor:
    """A trained model as a function: `load(SOURCE)(image) -> Prediction`.

    Args:
        source: run folder (its best_miou, else last), bundle, checkpoint file of terrazzo or of others, name of a
            published network, or hf:OWNER/NAME.
        model: which published network a checkpoint file holds, where the file does not say: `segformer_mit-b0`.
        overrides: changes of how it looks at pictures (`evaluation.resize`, `.window`, `.tta` of its recipe), as
            `window.size=1024`, `window=null` or `tta.flip=horizontal`.
        device: auto, cpu, cuda or mps.
        network: the module of a model that was passed from Python (model.kind: own).

    Raises:
        InputError: there is no such model, its files are damaged, or an override is impossible.
    """
    opened = open_model(source, model=model, network=network)
    inference = inference_with(opened.config.inference, overrides)
    segmenter = opened.segmenter.to(choose_device(device))  # type: ignore[arg-type]  # choose_device checks it
    return Predictor(segmenter, opened.config.classes.classes(), inference)


def predict(
    source: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | None = None,
    probabilities: bool = False,
    overrides: Sequence[str] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write pred/, palette/ and vis/ (probabilities/ on request) for every image; the id maps' paths are returned.

    A folder is searched with its sub-folders, whose structure the outputs keep. `source`, `model` and `overrides` are
    those of `load`.

    Raises:
        InputError: an input is missing, two inputs would write one output, or some images cannot be read (the others
            are done first).
    """
    named = name_inputs([Path(item) for item in inputs])
    predictor = load(source, model=model, overrides=overrides, device=device)
    written, failed = [], []
    for done, (name, path) in enumerate(named.items(), start=1):
        try:
            written.append(predictor(path).save(Path(out), name, probabilities=probabilities))
        except InputError as error:
            failed.append(str(error))
        if progress is not None:
            progress(done, len(named))
    if failed:
        raise InputError(
            f"{len(failed)} of {len(named)} images failed (the others are in {out}):\n  " + "\n  ".join(failed)
        )
    return written


def name_inputs(inputs: Sequence[Path]) -> dict[str, Path]:
    """{output name: image}: the stem of a file, or the path below a folder, without the suffix.

    Raises:
        InputError: nothing is there, or two inputs share a name.
    """
    named: dict[str, Path] = {}
    for item in inputs:
        if item.is_dir():
            found = sorted(p for p in item.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not found:
                raise InputError(f"{item}: no images in this folder or below ({', '.join(sorted(IMAGE_SUFFIXES))})")
            pairs = [(path.relative_to(item).with_suffix("").as_posix(), path) for path in found]
        elif item.is_file():
            pairs = [(item.stem, item)]
        else:
            raise InputError(f"{item}: no such image or folder")
        for name, path in pairs:
            if name in named and named[name].resolve() != path.resolve():
                raise InputError(f"{named[name]} and {path} would both be written as {name}.png; predict them apart")
            named[name] = path
    return named
