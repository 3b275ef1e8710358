"""What is made of a stranger's data set: each answer with how sure it is, why, and what it could be instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from terrazzo.base import Color
from terrazzo.data.labels import DecodeConfig
from terrazzo.discover.label_facts import Tally

Confidence = Literal["certain", "likely", "unsure"]
Key = TypeVar("Key", int, Color)

SHOWN = 8
"""How many values, colours or files a sentence names."""


@dataclass(frozen=True)
class Finding:
    """One answer."""

    topic: Literal["layout", "encoding", "splits"]
    answer: str
    confidence: Confidence
    evidence: str
    alternative: str = ""
    """What it could be instead, and what to write in the recipe then."""


@dataclass(frozen=True)
class Guess:
    """How class ids stand in label files."""

    classes: tuple[str, ...] | dict[str, Color]
    decode: DecodeConfig
    finding: Finding
    remarks: tuple[str, ...] = ()
    """About class lists, stray colours and the like."""
    notes: dict[str, str] = field(default_factory=dict)
    """Of a class: its share of the pixels, and the like."""


def share(pixels: int, total: int) -> str:
    """'12.3%' of the pixels."""
    return f"{100 * pixels / max(1, total):.3g}%"


def listed(marks: Sequence[Key], tallies: Mapping[Key, Tally], total: int) -> str:
    """'0 (66%), 255 (34%)': values or colours with their shares."""
    shown = [
        f"{mark if isinstance(mark, int) else f'#{bytes(mark).hex()}'} ({share(tallies[mark].pixels, total)})"
        for mark in marks
    ]
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
