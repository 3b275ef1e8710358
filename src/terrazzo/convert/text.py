"""How a converted recipe is written: its remarks as comments, its sections in lines."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from terrazzo.published.mmseg_values import one_line

WIDTH = 118


def recipe_text(comments: Iterable[str], tree: Mapping[str, Any]) -> str:
    """YAML of a recipe under comments, which are broken where they are too long."""
    head = "".join(f"# {line}\n" for each in comments for line in _wrapped(one_line(each)))
    return f"{head}\n" + "\n".join(_section({key: value}) for key, value in tree.items())


def _section(section: dict[str, Any]) -> str:
    """A section in lines, and what lies deeper in braces."""
    root = yaml.representer.SafeRepresenter(sort_keys=False).represent_data(section)
    for _, below in root.value:
        inner = [each for _, each in below.value] if isinstance(below, yaml.MappingNode) else below.value
        for each in inner if isinstance(below, yaml.CollectionNode) else ():
            if isinstance(each, yaml.CollectionNode):
                _in_braces(each)
    text: str = yaml.serialize(root, Dumper=yaml.SafeDumper, width=WIDTH, allow_unicode=True)
    return text


def _in_braces(node: yaml.CollectionNode) -> None:
    node.flow_style = True
    for each in node.value:
        for part in each if isinstance(each, tuple) else (each,):
            if isinstance(part, yaml.CollectionNode):
                _in_braces(part)


def _wrapped(text: str) -> list[str]:
    """Lines of a comment."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > WIDTH - 2:
            lines.append(line)
            line = "  " + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
