"""Train, fine-tune and ship semantic-segmentation models.

The names below are all that most programs need; they are imported when first used, so that `import terrazzo`
and `terrazzo --help` wait for nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrazzo.bundle import load_network
    from terrazzo.commands.compare import compare
    from terrazzo.commands.evaluate import evaluate
    from terrazzo.commands.predict import load, predict
    from terrazzo.commands.train import train

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "load", "load_network", "predict", "train"]

_HOME = {
    "compare": "terrazzo.commands.compare",
    "evaluate": "terrazzo.commands.evaluate",
    "load": "terrazzo.commands.predict",
    "load_network": "terrazzo.bundle",
    "predict": "terrazzo.commands.predict",
    "train": "terrazzo.commands.train",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'terrazzo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
