"""Python config text as data: what its assignments say, without running a line of it.

Understood are literals, dict() and its like, names, arithmetic, f-strings, comprehensions over known lists, `.update()`
and `x["key"] = ...`. Any other statement is skipped and reported, and so is every later one
that needs a name it would have set. All work is counted, so that no text can ask for endless time or memory.
"""

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from terrazzo.base import InputError
from terrazzo.published.mmseg_expressions import Imported, Values, set_names
from terrazzo.published.mmseg_values import Unreadable, combined, copied

MOST_TEXT = 1 << 18
"""Characters of a config; the largest published ones have 20 thousand."""

Imports = Callable[[int, str], dict[str, Any]]
"""(leading dots, module with dots) to the names of a config that stands in a `with read_base():`."""


class Skipped(NamedTuple):
    """A statement that was not taken over."""

    line: int
    """Counted from 1."""
    code: str
    """Its first line."""
    reason: str


def no_files(level: int, module: str) -> dict[str, Any]:
    """Of a text alone nobody knows what lies beside it."""
    raise Unreadable(f"nothing says where {'.' * level}{module} lies")


@dataclass
class Reader(Values):
    """Statement by statement, what a config sets."""

    imports: Imports = no_files
    skipped: list[Skipped] = field(default_factory=list)

    def run(self, module: ast.Module, text: str) -> None:
        """Take over every statement that is data."""
        lines = text.splitlines()
        for statement in module.body:
            try:
                self._statement(statement)
            except Unreadable as reason:
                first = lines[statement.lineno - 1].strip() if statement.lineno <= len(lines) else ""
                self.skipped.append(Skipped(statement.lineno, first[:100], str(reason)))
                for name in set_names(statement):
                    self.names.pop(name, None)
                    self.gone.add(name)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self.assign(target, self.value(value))
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.assign(target, self.value(value))
            case ast.AugAssign(target=ast.Name() | ast.Subscript() as target, op=operator, value=value):
                before = copied(self.holder(target), self.work)
                self.assign(target, combined(operator, before, self.value(value), self.work))
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                pass
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=holder, attr=method)) as call):
                self._change(holder, method, call)
            case ast.Delete(targets=[ast.Name(id=name)]):
                self.known(name)
                del self.names[name]
            case ast.Import(names=aliases):
                for alias in aliases:
                    self.set(alias.asname or alias.name.partition(".")[0], Imported(alias.name))
            case ast.ImportFrom(names=aliases) if all(alias.name != "*" for alias in aliases):
                for alias in aliases:
                    self.set(alias.asname or alias.name, Imported(alias.name))
            case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name(id="read_base")))], body=body):
                for inner in body:
                    self._from_base(inner)
            case _:
                raise Unreadable(f"{_what(node)} is not data")

    def _from_base(self, node: ast.stmt) -> None:
        match node:
            case ast.ImportFrom(module=module, names=aliases, level=level) if level:
                found = self.imports(level, module or "")
                for alias in aliases:
                    if alias.name == "*":
                        for name, value in found.items():
                            self.set(name, copied(value, self.work))
                    elif alias.name in found:
                        self.set(alias.asname or alias.name, copied(found[alias.name], self.work))
                    else:
                        raise Unreadable(f"{module} sets no {alias.name}")
            case _:
                raise Unreadable("within read_base() only `from .file import ...` is read")

    def _change(self, holder: ast.expr, method: str, call: ast.Call) -> None:
        target, given = self.holder(holder), [self.value(one) for one in call.args]
        match method:
            case "update" if isinstance(target, dict) and len(given) <= 1:
                target.update(self.made_dict(given, call.keywords))
            case "append" | "extend" | "insert" if isinstance(target, list) and not call.keywords:
                match method, given:
                    case "append", [value]:
                        target.append(value)
                    case "extend", [list() | tuple() as values]:
                        target.extend(values)
                    case "insert", [int(place), value] if abs(place) <= len(target):
                        target.insert(place, value)
                    case _:
                        raise Unreadable(f"{method}() is not given what it needs")
            case "pop" if isinstance(target, dict) and len(given) in (1, 2) and isinstance(given[0], str):
                target.pop(given[0], None)
            case _:
                raise Unreadable(f"it calls .{method}()")


def parsed(text: str, source: str) -> ast.Module:
    """The syntax of a config.

    Raises:
        InputError: it is too long or too deep, or no Python.
    """
    if len(text) > MOST_TEXT:
        raise InputError(f"{source}: {len(text)} characters are no config; expected at most {MOST_TEXT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the text's own style
            return ast.parse(text)
    except SyntaxError as error:
        raise InputError(f"{source}, line {error.lineno or 1}: no Python config ({error.msg})") from None
    except ValueError as error:
        raise InputError(f"{source}: no Python config ({error})") from None
    except (RecursionError, MemoryError):
        raise InputError(f"{source}: no Python config (its parts lie too deep in one another)") from None


def _what(node: ast.stmt) -> str:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            return "a function"
        case ast.ClassDef():
            return "a class"
        case ast.Import() | ast.ImportFrom():
            return "an import of everything"
        case ast.Expr(value=ast.Call() as call):
            return f"a call of {ast.unparse(call.func)[:40]}()"
        case _:
            return f"`{type(node).__name__.lower()}`"
