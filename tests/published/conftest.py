"""What the tests of published networks share."""

from pathlib import Path
from types import ModuleType

import pytest
from parity import fill_module


@pytest.fixture(scope="session")
def fill(shared_parity: Path) -> ModuleType:
    return fill_module(shared_parity)
