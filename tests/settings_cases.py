"""For every setting of RunConfig: values, and something real that looks different for each of them.

A new setting: one line in the table of its section. `case(see, value, value)`: `see(config)` is called with the recipe
BASE, changed by `given` and then by each value at the leaf's own place. Look as low as is honest, and never at the
config itself.
"""

from typing import Any

from settings_base import Case
from settings_cases_adapt import ADAPT
from settings_cases_data import DATA
from settings_cases_models import MODEL
from settings_cases_parallel import PARALLEL
from settings_cases_track import TRACK
from settings_cases_training import TRAINING

CASES: dict[str, Case] = TRAINING | ADAPT | DATA | MODEL | PARALLEL | TRACK

REFUSED: dict[str, tuple[Any, str]] = {
    "data.own.root": ("elsewhere", "data.root .*change nothing"),
    "data.own.limit": (2, "data.limit change nothing"),
    "data.own.remap": ({"x": "y"}, "data.remap works on label files"),
}
"""Settings that can change nothing where they stand: giving this value must be an error with these words."""

EXEMPT: dict[str, str] = {}
"""Settings that no test can see, with the reason; a test of some other kind is better than an entry here."""
