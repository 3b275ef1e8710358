"""TensorBoard: event files in the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import NonNegativeInt

from terrazzo.base import Config
from terrazzo.track.tracker import About, ClassTable, End, Final, Validation, finite

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Of the run folder."""


class TensorBoard(Config):
    """Scalars, sample images and the per-class table as event files in OUT/tensorboard; look at them with
    `tensorboard --logdir OUT`."""

    kind: Literal["tensorboard"] = "tensorboard"
    images: NonNegativeInt = 4
    """Validation images shown after every validation as image | truth | prediction; 0: none."""


class TensorBoardTracker:
    def __init__(self, cfg: TensorBoard, about: About):
        self.cfg, self.about = cfg, about
        self.folder = about.folder / FOLDER
        self.writer: SummaryWriter | None = None

    def open(self) -> None:
        """Events after the last step that is whole here are declared void by the writer's first event."""
        from torch.utils.tensorboard import SummaryWriter

        about = self.about
        known = min(last_step(self.folder), about.step) if about.step else 0
        self.writer = SummaryWriter(str(self.folder), purge_step=known + 1 if about.step else None)
        if not known:
            for name, tree in (("recipe", about.recipe), ("environment", about.environment)):
                text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)
                self.writer.add_text(name, _indented(text), 0)
        for step, values in about.missed(known):
            self.log(step, values, None)

    def log(self, step: int, values: Mapping[str, float], validation: Validation | None) -> None:
        assert self.writer is not None
        if validation is not None:
            for shown in validation.samples[: self.cfg.images]:
                self.writer.add_image(f"val/samples/{shown.name}", shown.panel, step, dataformats="HWC")
            values = {**validation.classes.ious("val"), **values}
            self.writer.add_text("val/classes", markdown(validation.classes), step)
        for key, value in sorted(finite(values).items(), key=lambda pair: pair[0] == "epoch"):
            self.writer.add_scalar(key, value, step)  # epoch last: a step that has it is whole
        self.writer.flush()

    def close(self, end: End, final: Final | None) -> None:
        assert self.writer is not None
        if final is not None:
            for key, value in final.values().items():
                self.writer.add_scalar(key, value, final.step)
            self.writer.add_text(f"{final.where}/classes", markdown(final.classes), final.step)
        self.writer.close()


def last_step(folder: Path) -> int:
    """The last step that event files hold whole; 0 if there is none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return 0
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1})
    events.Reload()
    return (
        max((event.step for event in events.Scalars("epoch")), default=0) if "epoch" in events.Tags()["scalars"] else 0
    )


def markdown(table: ClassTable) -> str:
    """The table as TensorBoard's text page shows it."""
    lines = [["class", *table.columns], ["---"] * (1 + len(table.columns))]
    lines += [[str(name).replace("|", "\\|"), *(f"{score:.4f}" for score in scores)] for name, *scores in table.rows()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())  # a code block in Markdown
