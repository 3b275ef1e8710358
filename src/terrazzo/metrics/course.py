"""The metric object of the course work: logits and labels in, one mean IoU out."""

import torch
from torch import Tensor

from terrazzo.base import IGNORE, MAX_CLASSES, InputError
from terrazzo.metrics.scores import Scores, confusion_matrix


class SegMetrics:
    """Mean IoU over everything since `reset`; a class in neither truth nor prediction counts 0 ("course").

    Args:
        classes: their names; only the number matters for the score.
    """

    def __init__(self, classes: list[str]) -> None:
        if not 1 <= len(classes) <= MAX_CLASSES:
            raise InputError(f"{len(classes)} classes; SegMetrics counts 1 to {MAX_CLASSES}")
        self.classes = list(classes)
        self.reset()

    def reset(self) -> None:
        """Forget all that was counted."""
        self._confusion = torch.zeros(len(self.classes), len(self.classes), dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: logits or probabilities [b, c, h, w]; the greatest one is the predicted class.
            target: class ids [b, h, w], whole numbers; 255 is not counted.

        Raises:
            ValueError: a wrong shape, a target that is no class, or a prediction that is nan.
        """
        count = len(self.classes)
        if prediction.ndim != 4 or prediction.shape[1] != count:
            raise InputError(
                f"prediction is {tuple(prediction.shape)}; expected [b, {count}, h, w], one channel a class"
            )
        if target.shape != (prediction.shape[0], *prediction.shape[2:]):
            raise InputError(
                f"target is {tuple(target.shape)}; expected [b, h, w] of prediction {tuple(prediction.shape)}"
            )
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise InputError(f"target is {target.dtype}; expected whole numbers")
        if prediction.isnan().any():
            raise InputError("prediction holds nan")
        if (strange := (target != IGNORE) & ((target < 0) | (target >= count))).any():
            values = sorted(set(target[strange].tolist()))
            raise InputError(f"target has values that are neither a class 0..{count - 1} nor {IGNORE}: {values[:8]}")
        found = prediction.argmax(1).to(torch.uint8)
        self._confusion += confusion_matrix(found, target.to(torch.uint8), count).cpu()

    def mIoU(self) -> float:
        """Mean over all classes of the IoU of one confusion matrix; 0.0 after `reset`."""
        return Scores.of(self._confusion, absent="zero").miou

    def __str__(self) -> str:
        return f"mIou: {self.mIoU():.2f}"
