"""Files of torch.save by strangers, read so that nothing in them can run.

A pickle is a program: it names functions and calls them. `torch.load(weights_only=True)` runs it with a short list of
functions that build tensors; `STAND_INS` adds what training frameworks leave in their checkpoints, each one replaced by
something of ours that does nothing. To let another harmless name in, give it a stand-in there.
"""

import io
import math
import pickletools
import re
import struct
import threading
import warnings
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from terrazzo.base import InputError


class Nothing:
    """In place of an object that only its own framework needs (mmengine's HistoryBuffer); whatever it held is lost."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        # Without this method, torch would copy the state into the object's attributes.
        pass


class Dtype:
    """In place of `numpy.dtype`."""

    __slots__ = ("code", "state")
    code: object
    state: object

    # Not __init__, which a pickle can leave out
    def __new__(cls, code: object = None, *_: object) -> Self:
        made = super().__new__(cls)
        made.code, made.state = code, None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state

    def plain(self) -> "np.dtype[Any] | None":
        """The same as NumPy's own, if it is one of numbers; None for objects, records, dates and the like."""
        if not isinstance(self.code, str) or self.code not in _NUMBERS:
            return None
        big = isinstance(self.state, tuple) and len(self.state) > 1 and self.state[1] == ">"
        return np.dtype((">" if big else "<") + self.code)


class Array:
    """In place of `numpy.ndarray`, whose own unpickling believes a made-up dtype and then reads bytes as pointers."""

    __slots__ = ("state",)
    state: object

    def __new__(cls, *_: object) -> Self:
        made = super().__new__(cls)
        made.state = None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state

    def numbers(self) -> NDArray[Any] | None:
        """The array in this machine's byte order, or None if it holds anything but numbers (or none at all)."""
        match self.state:
            case (_, tuple(shape), Dtype() as dtype, fortran, bytes(data)) if all(type(size) is int for size in shape):
                values = _from_bytes(data, dtype)
                # A size of 0 or less is ruled out because there is data: a product that is right is not all
                if values is None or len(values) != math.prod(shape) or min(shape, default=1) < 1 or len(shape) > 8:
                    return None
                return values.reshape(shape, order="F" if fortran else "C")
            case _:
                return None


_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def _from_bytes(data: bytes, dtype: Dtype) -> NDArray[Any] | None:
    plain = dtype.plain()
    if plain is None or not data or len(data) % plain.itemsize:
        return None
    return np.frombuffer(data, plain).astype(plain.newbyteorder("="))


def new_array(*_: object) -> Array:
    """In place of NumPy's `_reconstruct`; the numbers come with the state."""
    return Array()


def scalar(dtype: object = None, data: object = None) -> bool | int | float | None:
    """In place of NumPy's `scalar`: a Python number."""
    values = _from_bytes(data, dtype) if isinstance(dtype, Dtype) and isinstance(data, bytes) else None
    if values is None or len(values) != 1:
        return None
    number: bool | int | float = values[0].item()
    return number


def no_attribute(*_: object) -> None:
    """In place of `getattr`, with which HistoryBuffer names its own methods. Never looks anything up."""


STAND_INS: dict[str, Any] = {
    "mmengine.logging.history_buffer.HistoryBuffer": Nothing,
    "builtins.getattr": no_attribute,
    "__builtin__.getattr": no_attribute,
    "numpy.ndarray": Array,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray._reconstruct": new_array,
    "numpy._core.multiarray._reconstruct": new_array,
    "numpy.core.multiarray.scalar": scalar,
    "numpy._core.multiarray.scalar": scalar,
}
"""What a pickle may name besides what torch allows by itself, and what it gets instead."""

_lock = threading.Lock()


def load_pickled(file: Path) -> object:
    """What torch.save wrote, zipped or in the form before torch 1.6, with all tensors on the CPU.

    Nothing in the file is executed; one that asks for it is refused with the names of what it wanted to call.
    """
    if (form := _unreadable_form(file)) is not None:
        raise InputError(f"{file}: {form}")
    # The list of allowed names belongs to the process. Names that other libraries put there stay out of this load.
    with _lock, file.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they advise the file's author
        others = get_safe_globals()
        clear_safe_globals()
        add_safe_globals([(stand_in, name) for name, stand_in in STAND_INS.items()])
        try:
            content: object = torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
        # A damaged or hostile pickle can end in any exception at all (KeyError, struct.error, MemoryError, ...)
        except Exception as error:
            raise InputError(_refusal(file, error)) from error
        finally:
            clear_safe_globals()
            add_safe_globals(others)
    return content


def _unreadable_form(file: Path) -> str | None:
    """A sentence for files that torch.load would answer with advice to load them unsafely, or not at all."""
    with file.open("rb") as stream:
        head = stream.read(512)
    size = file.stat().st_size
    if head.lstrip()[:1] == b"<":
        return f"a web page ({size} bytes), not weights: the download went wrong; fetch the file again"
    if head.startswith(b"version https://git-lfs"):
        return f"a Git LFS pointer ({size} bytes), not the weights themselves: run git lfs pull where it came from"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it, or if torch itself wrote it (before 2017), save it again with a current torch"
    if head.startswith(b"PK") and any(name.endswith("/constants.pkl") for name in _members(file)):
        return "a TorchScript program, not weights: save its state_dict() with torch.save where it was made"
    return None


def _refusal(file: Path, error: Exception) -> str:
    names = _refused(file)
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return (
            f"{file}: refused, nothing in it was executed: besides tensors and plain data it wants to make or call "
            f"{', '.join(names[:8])}{more}, which could run any code. Take the weights from another source, or where "
            "you trust the file save its tensors alone: torch.save(net.state_dict(), PATH), or as safetensors"
        )
    # Without torch's introduction, and without its advice to allow the name
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition(" by default. Please use")[0]
    first = reason.partition("\n")[0]
    line = f"{type(error).__name__}: {printable(first)}"
    return f"{file}: damaged or no file of torch.save ({file.stat().st_size} bytes; {line})"


_TORCH_ALLOWS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
    r"|torch\.(cuda\.)?(\w+Storage|\w*Tensor)|torch\.storage\.\w+Storage|torch\.(Size|device)"
    r"|torch\.(bool|b?float\d+|u?int\d+|complex\d+)|torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.Parameter"
    r"|torch\.serialization\._get_layout|torch\._tensor\._rebuild_from_type_v2"
)
"""What is left out of the sentence for people. What is loaded does not depend on it: that is torch's to say."""

_DAMAGE = (ValueError, OverflowError, EOFError, OSError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
"""What reading a damaged zip file or pickle raises."""

_HEAD = 1 << 26
"""Bytes of a file that are searched for names; pickles without their tensors are far shorter."""


def _refused(file: Path) -> list[str]:
    """Names that a file's pickles ask for and do not get, in their order, made safe to print."""
    named = [name for name in _names_in(file) if name not in STAND_INS and not _TORCH_ALLOWS.fullmatch(name)]
    return list(dict.fromkeys(printable(name) for name in named))


def _members(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except _DAMAGE:
        return []


def _names_in(file: Path) -> list[str]:
    """Everything that the pickles of a file name, without running them; what cannot be read any more is left out."""
    names: list[str] = []
    try:
        for pickle in _pickles(file):
            for name in _globals(pickle):
                names.append(name)
    except _DAMAGE:
        # The file is refused already, and the names before the damage are what is worth telling.
        return names
    return names


def _pickles(file: Path) -> Iterator[BinaryIO]:
    """Streams at the start of a pickle: one of a zip file; five, one after the other, in the older form."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as member:
                        yield io.BytesIO(member.read(_HEAD))
        return
    with file.open("rb") as stream:
        head = io.BytesIO(stream.read(_HEAD))
    for _ in range(5):
        yield head


def _globals(pickle: BinaryIO) -> Iterator[str]:
    """Names ("module.function") in one pickle; leaves the stream behind it."""
    texts: list[str] = ["", ""]
    memo: dict[int, str] = {}
    for operation, argument, _ in pickletools.genops(pickle):
        match operation.name:
            case "GLOBAL" | "INST":
                module, _, name = str(argument).partition(" ")
                # Python 2's names, which torch.save writes too, are read as those of today
                yield ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))
            case "STACK_GLOBAL":
                # Its two words are the last two strings pushed, anew or from the memo
                yield ".".join(texts[-2:])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[int(str(argument))] = texts[-1]
            case "MEMOIZE":
                memo[len(memo)] = texts[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                texts.append(memo.get(int(str(argument)), ""))
            case text if "STRING" in text or "UNICODE" in text:
                texts.append(str(argument))


def printable(text: str) -> str:
    """For a terminal: no control characters, no more than a line."""
    return text.encode("unicode_escape").decode("ascii")[:120]
