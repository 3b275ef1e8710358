"""What a check of labels says: one finding with its evidence, and the settings that answer it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""


@dataclass(frozen=True)
class Verdict:
    """One finding about a data set."""

    code: str
    """Stable name in kebab-case, for scripts: `shifted-labels`."""
    severity: Severity
    """`error`: training would fail, learn something wrong or be scored wrongly. `warning`: it works, worse than it
    could. `note`: worth knowing."""
    title: str
    """One sentence: what is wrong."""
    evidence: str
    """What was seen: values, colours, counts, scores."""
    files: tuple[str, ...] = ()
    """All files concerned, relative to data.root, worst first."""
    fix: tuple[str, ...] = ()
    """`key=value` overrides to type after `terrazzo train RECIPE`; empty if no setting can help."""
    advice: str = ""
    """What to do, and what the fix assumes."""

    @property
    def yaml(self) -> str:
        """The fix as a block of the recipe; empty if there is none."""
        tree: dict[str, Any] = {}
        for dotted, value in _settings(self.fix):
            *parents, last = dotted.split(".")
            node = tree
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = value
        # The innermost maps and lists stay on one line, as the recipes write them.
        return _dumped(tree, flow=None, width=110) if tree else ""


def override(key: str, value: object) -> str:
    """`key=value` as `load_config` reads it, the value as YAML on one line."""
    text = _dumped(value, flow=True, width=2**30)
    return f"{key}=" + text.removesuffix("\n").removesuffix("\n...")


def exclude(files: Iterable[str], already: Iterable[str] = ()) -> str:
    """The override that leaves files out, besides those that are left out already."""
    return override("data.exclude", list(dict.fromkeys((*already, *files))))


def together(verdicts: Iterable[Verdict]) -> tuple[str, ...]:
    """The fixes of several verdicts, to be typed at once: what they leave out and drop is joined."""
    joined: dict[str, Any] = {}
    for dotted, value in _settings(item for verdict in verdicts for item in verdict.fix):
        match dotted:
            case "data.exclude":
                joined[dotted] = list(dict.fromkeys((*joined.get(dotted, ()), *value)))
            case "data.remap":
                joined[dotted] = joined.get(dotted, {}) | value
            case _:
                joined.setdefault(dotted, value)
    return tuple(override(dotted, value) for dotted, value in joined.items())


def _dumped(value: object, *, flow: bool | None, width: int) -> str:
    """YAML with all letters as they are, but escaped where PyYAML would not read them back (line separators)."""
    for unicode in (True, False):
        text: str = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, allow_unicode=unicode, width=width)
        if yaml.safe_load(text) == value:
            break
    return text


def _settings(fix: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for item in fix:
        dotted, _, text = item.partition("=")
        yield dotted, yaml.safe_load(text)
