"""Values of a config text: arithmetic, texts and the few functions that only make data of data, all within bounds."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from terrazzo.base import InputError

MOST_WORK = 1_000_000
"""Values made or copied while reading one config with all it builds on; published ones need some thousands."""
MOST_BITS = 1024
"""Of a whole number."""
MOST_LETTERS = 100_000
"""Of a text that is put together."""

NUMBERS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "abs": abs, "round": round, "bool": bool}
"""Functions of one number."""


class Unreadable(Exception):
    """An expression that is no data; the statement around it is skipped."""


@dataclass
class Work:
    """What is left of the work that one config may ask for."""

    left: int = MOST_WORK

    def spend(self, amount: int = 1) -> None:
        """Raises InputError when nothing is left."""
        self.left -= amount
        if self.left < 0:
            raise InputError(f"the config asks for more than {MOST_WORK} values; it is no config, or a trap")

    def text(self, text: str) -> str:
        """A text that was put together, if it is no trap."""
        if len(text) > MOST_LETTERS:
            raise Unreadable("a text without bounds")
        self.spend(len(text) // 20)
        return text


def one_line(text: str) -> str:
    """For a terminal or a comment: no letter that would end the line or act on the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def copied(value: Any, work: Work) -> Any:
    """A deep copy, paid for: names share nothing, so that a change of one is no change of another."""
    work.spend()
    match value:
        case dict():
            return {key: copied(part, work) for key, part in value.items()}
        case list():
            return [copied(part, work) for part in value]
        case tuple():
            return tuple(copied(part, work) for part in value)
        case _:
            return value


def combined(operator: ast.operator, left: Any, right: Any, work: Work) -> Any:
    """Arithmetic of numbers; lists, tuples, texts joined or repeated."""
    if isinstance(left, int | float) and isinstance(right, int | float):
        return arithmetic(operator, left, right)
    match operator, left, right:
        case (ast.Add(), str(), str()):
            return work.text(left + right)
        case (ast.Add(), list(), list()) | (ast.Add(), tuple(), tuple()):
            return left + right
        case (ast.BitOr(), dict(), dict()):
            return left | right
        case (ast.Mult(), list() | tuple(), int()):
            work.spend(len(left) * max(0, right))
            return copied(left * right, work)
        case (ast.Mult(), str(), int()) if len(left) * right <= MOST_LETTERS:
            return left * right
        case _:
            raise Unreadable(f"{type(operator).__name__} of {type(left).__name__} and {type(right).__name__}")


def built(name: str, given: list[Any], work: Work) -> Any:
    """The few functions that only make data of data."""
    try:
        match name, given:
            case "list" | "tuple" | "sorted", [value]:
                parts = sequence(value)
                return tuple(parts) if name == "tuple" else sorted(parts) if name == "sorted" else parts
            case "list" | "tuple", []:
                return [] if name == "list" else ()
            case "len", [str() | list() | tuple() | dict() as value]:
                return len(value)
            case "range", [*bounds] if 1 <= len(bounds) <= 3 and all(type(bound) is int for bound in bounds):
                numbers = range(*bounds)
                work.spend(len(numbers))
                return [*numbers]
            case "enumerate", [value]:
                return [*enumerate(sequence(value))]
            case "zip", [*values]:
                return [*zip(*(sequence(value) for value in values), strict=False)]
            case "sum", [value] if all(isinstance(part, int | float) for part in sequence(value)):
                return sum(sequence(value))
            case "min" | "max", [*values] if all(isinstance(part, int | float) for part in values) and values:
                return min(values) if name == "min" else max(values)
            case "int" | "float" | "abs" | "round" | "bool", [bool() | int() | float() as value]:
                return NUMBERS[name](value)
            case "float" | "int", [str(value)] if len(value) < 30:
                return float(value) if name == "float" else int(value)
            case "str", [value]:
                return str(scalar(value))
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable(f"{name}() ({error})") from None
    raise Unreadable(f"it calls {name}()")


def arithmetic(operator: ast.operator, left: float, right: float) -> float:
    if any(isinstance(number, int) and number.bit_length() > MOST_BITS for number in (left, right)):
        raise Unreadable("a number without bounds")
    if isinstance(operator, ast.Pow) and (abs(right) > 64 or abs(left) > 1 << 16):
        raise Unreadable("a power without bounds")
    made: Any
    try:
        match operator:
            case ast.Add():
                made = left + right
            case ast.Sub():
                made = left - right
            case ast.Mult():
                made = left * right
            case ast.Div():
                made = left / right
            case ast.FloorDiv():
                made = left // right
            case ast.Mod():
                made = left % right
            case ast.Pow():
                made = left**right
            case _:
                raise Unreadable(f"arithmetic with {type(operator).__name__}")
    except (ZeroDivisionError, OverflowError) as error:
        raise Unreadable(str(error)) from None
    if not isinstance(made, int | float):
        raise Unreadable("a power that is no real number")
    return made


def signed(operator: ast.unaryop, value: Any) -> Any:
    match operator:
        case ast.Not():
            return not value
        case ast.USub() if isinstance(value, int | float):
            return -value
        case ast.UAdd() if isinstance(value, int | float):
            return +value
        case ast.USub() | ast.UAdd() | ast.Invert():
            raise Unreadable("a sign before what is no number")
        case ast.unaryop():
            raise Unreadable(f"arithmetic with {type(operator).__name__}")
        case _:
            assert_never(operator)


def item(holder: Any, key: Any) -> Any:
    try:
        if isinstance(holder, dict):
            return holder[key_of(key)]
        if isinstance(holder, list | tuple | str) and isinstance(key, int | slice):
            return holder[key]
    except (KeyError, IndexError, ValueError):
        raise Unreadable(f"there is no {str(key)[:40]}") from None
    raise Unreadable(f"there is no {str(key)[:40]}")


def put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict):
        holder[key_of(key)] = value
    elif isinstance(holder, list) and type(key) is int and -len(holder) <= key < len(holder):
        holder[key] = value
    else:
        raise Unreadable(f"there is no {str(key)[:40]}")


def key_of(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, tuple) and all(isinstance(part, str | int | float) for part in value):
        return value
    raise Unreadable(f"a {type(value).__name__} as a key")


def sequence(value: Any) -> list[Any]:
    if isinstance(value, list | tuple | dict):
        return [*value]
    raise Unreadable(f"a {type(value).__name__} in place of a list")


def scalar(value: Any) -> str | float | None:
    if isinstance(value, str | int | float | None):
        return value
    raise Unreadable(f"a {type(value).__name__} within a text")
