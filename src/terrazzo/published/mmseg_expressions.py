"""Expressions of a config text as data: literals, names, arithmetic, f-strings, comprehensions over known lists."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from terrazzo.published.mmseg_values import (
    Unreadable,
    Work,
    built,
    combined,
    copied,
    item,
    key_of,
    put,
    scalar,
    sequence,
    signed,
)

PLAIN_FORMAT = re.compile(r"[<>^=]?[+ ]?0?\d{0,2}(\.\d{1,2})?[bdefgnoxEFGX%]?")
BASE = "_base_"
"""The name under which a config sees what it builds on."""
IN_BRACES = re.compile(r"\{\{\s*_base_\.([\w.]+)\s*\}\}")


class Imported(str):
    """A name that an import would have bound: its last part is all that is known of it."""


@dataclass
class Values:
    """Names with their values, and what expressions over them mean."""

    base: dict[str, Any]
    """What `_base_.x` means."""
    work: Work
    names: dict[str, Any] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """Names whose value is not known, since a statement that set them was skipped."""

    def known(self, name: str) -> Any:
        if name in self.names:
            return self.names[name]
        if name in self.gone:
            raise Unreadable(f"the statement that sets {name} was skipped")
        raise Unreadable(f"nothing sets {name}")

    def value(self, node: ast.expr) -> Any:
        """What an expression means.

        Raises:
            Unreadable: it is no data.
        """
        self.work.spend()
        match node:
            case ast.Constant(value=str(text)):
                return self._filled(text)
            case ast.Constant(value=bool() | int() | float() | None as constant):
                return constant
            case ast.Name(id=name):
                known = self.known(name)
                return known.rpartition(".")[2] if isinstance(known, Imported) else copied(known, self.work)
            case ast.List(elts=elements):
                return self._elements(elements)
            case ast.Tuple(elts=elements):
                return tuple(self._elements(elements))
            case ast.Set(elts=[ast.Set(elts=[ast.Attribute() as path])]) | (ast.Attribute() as path):
                return self._attribute(path)
            case ast.Dict(keys=keys, values=values):
                return self._dict(keys, values)
            case ast.BinOp(left=left, op=operator, right=right):
                return combined(operator, self.value(left), self.value(right), self.work)
            case ast.UnaryOp(op=operator, operand=operand):
                return signed(operator, self.value(operand))
            case ast.Subscript(value=holder, slice=key):
                return item(self.value(holder), self._slice(key))
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self.value(body) if self.value(test) else self.value(other)
            case ast.ListComp(elt=element, generators=loops):
                return [self.value(element) for _ in self._loop(loops)]
            case ast.DictComp(key=key, value=value, generators=loops):
                return {key_of(self.value(key)): self.value(value) for _ in self._loop(loops)}
            case ast.GeneratorExp(elt=element, generators=loops):
                return [self.value(element) for _ in self._loop(loops)]
            case ast.Call():
                return self._call(node)
            case _:
                raise Unreadable(f"{ast.unparse(node)[:60]} is not data")

    def _elements(self, nodes: list[ast.expr]) -> list[Any]:
        found: list[Any] = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                found += sequence(self.value(node.value))
            else:
                found.append(self.value(node))
        return found

    def _dict(self, keys: list[ast.expr | None], values: list[ast.expr]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, node in zip(keys, values, strict=True):
            value = self.value(node)
            if key is not None:
                made[key_of(self.value(key))] = value
            elif isinstance(value, dict):
                made |= value
            else:
                raise Unreadable("** is given what is no dict")
        return made

    def _filled(self, text: str) -> Any:
        """`{{_base_.x}}` within a text: alone it is the value itself, else its text."""
        if "{{" not in text:
            return text
        if (whole := IN_BRACES.fullmatch(text)) is not None:
            return self._of_base(whole[1].split("."))
        filled, *others = IN_BRACES.split(text)
        for path, letters in zip(others[::2], others[1::2], strict=True):
            filled = self.work.text(f"{filled}{scalar(self._of_base(path.split('.')))}{letters}")
        return filled

    def _attribute(self, node: ast.Attribute) -> Any:
        path = ast.unparse(node).split(".")
        if path[0] == BASE:
            return self._of_base(path[1:])
        if isinstance(self.names.get(path[0]), Imported) and all(part.isidentifier() for part in path):
            return path[-1]  # a class of a module, which a config names by its last part
        raise Unreadable(f"{ast.unparse(node)[:60]} is an attribute")

    def _of_base(self, path: list[str]) -> Any:
        value: Any = self.base
        for part in path:
            value = item(value, int(part) if isinstance(value, list) and part.isdigit() else part)
        return copied(value, self.work)

    def _slice(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            parts = [None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)]
            if all(part is None or type(part) is int for part in parts):
                return slice(*parts)
            raise Unreadable("a slice without numbers")
        return self.value(node)

    def _joined(self, parts: list[ast.expr]) -> str:
        text = ""
        for part in parts:
            match part:
                case ast.Constant(value=str(letters)):
                    text = self.work.text(text + letters)
                case ast.FormattedValue(value=value, conversion=-1, format_spec=wanted):
                    form = "" if wanted is None else self._joined(getattr(wanted, "values", []))
                    if not PLAIN_FORMAT.fullmatch(form):
                        raise Unreadable(f"the format {form!r}")
                    try:
                        text = self.work.text(text + format(scalar(self.value(value)), form))
                    except (TypeError, ValueError) as error:
                        raise Unreadable(f"the format {form!r} ({error})") from None
                case _:
                    raise Unreadable("an f-string with more than plain values")
        return text

    def _loop(self, loops: list[ast.comprehension]) -> Iterator[None]:
        """The rounds of a comprehension, its names set in each and as before after the last."""
        first, *inner = loops
        outside = {name: self.names[name] for name in set_names(first.target) if name in self.names}
        for value in sequence(self.value(first.iter)):
            self.assign(first.target, value)
            if all(self.value(test) for test in first.ifs):
                if inner:
                    yield from self._loop(inner)
                else:
                    yield
        for name in set_names(first.target):
            self.names.pop(name, None)
        self.names |= outside

    def _call(self, node: ast.Call) -> Any:
        match node.func:
            case ast.Name(id=name) if name in self.names:
                raise Unreadable(f"it calls {name}()")
            case ast.Name(id="dict") if len(node.args) <= 1:
                return self.made_dict([self.value(one) for one in node.args], node.keywords)
            case ast.Name(id=name) if not node.keywords:
                return built(name, self._elements(node.args), self.work)
            case ast.Attribute(value=holder, attr="copy") if not node.args and not node.keywords:
                return copied(self.holder(holder), self.work)
            case _:
                raise Unreadable(f"it calls {ast.unparse(node.func)[:40]}()")

    def made_dict(self, given: list[Any], keywords: list[ast.keyword]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for value in given:
            if isinstance(value, dict):
                made |= value
            else:
                pairs = [sequence(pair) for pair in sequence(value)]
                if any(len(pair) != 2 for pair in pairs):
                    raise Unreadable("dict() is given what are no pairs")
                made |= {key_of(key): part for key, part in pairs}
        for keyword in keywords:
            value = self.value(keyword.value)
            if keyword.arg is not None:
                made[keyword.arg] = value
            elif isinstance(value, dict):
                made |= value
            else:
                raise Unreadable("** is given what is no dict")
        return made

    def set(self, name: str, value: Any) -> None:
        self.names[name] = value
        self.gone.discard(name)

    def assign(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name(id=name):
                self.set(name, value)
            case ast.Subscript(value=holder, slice=key):
                put(self.holder(holder), self.value(key), value)
            case ast.Tuple(elts=targets) | ast.List(elts=targets) if isinstance(value, list | tuple):
                if len(targets) != len(value):
                    raise Unreadable(f"{len(value)} values for {len(targets)} names")
                for one, part in zip(targets, value, strict=True):
                    self.assign(one, part)
            case _:
                raise Unreadable(f"it sets {ast.unparse(target)[:40]}")

    def holder(self, node: ast.expr) -> Any:
        """The value itself, not a copy, of `name` or `name["key"]["key"]`."""
        match node:
            case ast.Name(id=name):
                return self.known(name)
            case ast.Subscript(value=inner, slice=key):
                return item(self.holder(inner), self.value(key))
            case _:
                raise Unreadable(f"it changes {ast.unparse(node)[:40]}")


def set_names(node: ast.AST) -> set[str]:
    """Names that a statement sets or changes, in whatever way."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    for each in ast.walk(node):
        match each:
            case ast.alias(name=name, asname=asname):
                names.add(asname or name.partition(".")[0])
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Subscript(value=holder, ctx=ast.Store()) | ast.Call(func=ast.Attribute(value=holder)):
                names |= {inner.id for inner in ast.walk(holder) if isinstance(inner, ast.Name)}
    return names
