"""The numbers that stand in for published weights, so that two tools can be compared without any download."""

import importlib.util
from pathlib import Path
from types import ModuleType


def fill_module(parity: Path) -> ModuleType:
    """`fill.py` of the reference: state dicts of a manifest, images, bases."""
    spec = importlib.util.spec_from_file_location("parity_fill", parity / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
