# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Reader of arrays in pickles that never executes code from a pickle.

Python's pickles may run any code, and NumPy's unpickling trusts the sizes in a file. This reader accepts only the names
that arrays are pickled under, and replaces them by its own classes, which build arrays from bytes.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SAFE_KINDS = "biufcSU"  # dtype kinds: numbers and text


def read_pickle(path: Path) -> Any:
    """Read dicts, lists, numbers, text and NumPy arrays of a .pkl file. Raises ValueError for anything else, and
    ValueError, OSError or EOFError if the file is damaged."""
    return _read(path.read_bytes())


def read_object_array(source: Path | BinaryIO) -> Any:
    """Read the dict that numpy.save wrote to an .npy file, given by its path or open. Raises as read_pickle does."""
    with open(source, "rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if shape != () or dtype != np.dtype(object):
            raise ValueError(f"expected one pickled object, got an array {shape} of {dtype}")
        return _read(file.read()).item()


def _read(content: bytes) -> Any:
    # The unpickler allocates the sizes given in a pickle, so its lengths and memo indices are checked first.
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) < len(content):
            raise ValueError(f"a pickle of {len(content)} bytes must not memoize {argument} objects")
    try:
        return _ArrayUnwrapper().of(_ArrayUnpickler(io.BytesIO(content), encoding="latin1").load())
    except (pickle.UnpicklingError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _REPLACEMENTS:
            return _REPLACEMENTS[name]
        if (module, name) == ("_codecs", "encode"):
            return _encode_bytes
        if (module, name) in (("__builtin__", "bytes"), ("builtins", "bytes")):
            return _make_empty_bytes
        raise ValueError(f"a pickle of arrays must not contain {module}.{name}")


class _DType:
    """A replacement of numpy.dtype."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else np.dtype(np.void)
        if self.dtype != object and (self.dtype.kind not in SAFE_KINDS or self.dtype.fields or self.dtype.subdtype):
            raise ValueError(f"arrays must contain numbers or text, got {code!r:.40}")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A replacement of numpy.ndarray."""

    def __init__(self, *_: Any) -> None:
        self.values: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, content = state
        if kind.dtype == object:
            values = np.empty(len(content), object)
            for index, each in enumerate(content):
                values[index] = each
        else:
            values = np.frombuffer(_encode_bytes(content), kind.dtype)
        self.values = values.reshape(shape, order="F" if is_fortran else "C")


def _array_from_buffer(content: Any, kind: _DType, shape: Any, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


def _read_scalar(kind: _DType, content: Any) -> Any:
    return np.frombuffer(_encode_bytes(content), kind.dtype)[0]


def _encode_bytes(content: Any, encoding: str = "latin1") -> bytes:
    """Return bytes from text: Python 2's strings are bytes, which Python 3 pickles as text for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"expected bytes, got text in {encoding:.20}")
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


def _make_empty_bytes() -> bytes:
    """Return b"": Python 3 pickles the data of empty arrays for Python 2 as a call of bytes. Arguments are refused."""
    return b""


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "ndarray": _Array,
    "_reconstruct": _Array,
    "_frombuffer": _array_from_buffer,
    "dtype": _DType,
    "scalar": _read_scalar,
}


class _ArrayUnwrapper:
    """A converter of the replacement classes to the arrays they contain. Shared objects are visited once and stay
    shared."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}  # the object is kept, so that its id is not reused

    def of(self, value: Any) -> Any:
        if not isinstance(value, _Array | dict | list | tuple):
            return value
        if id(value) not in self._known:
            self._known[id(value)] = value, self._unwrap(value)
        return self._known[id(value)][1]

    def _unwrap(self, value: Any) -> Any:
        if isinstance(value, _Array):
            if value.values.dtype == object:
                for index, each in np.ndenumerate(value.values):
                    value.values[index] = self.of(each)
            return value.values
        if isinstance(value, dict):
            return {key: self.of(each) for key, each in value.items()}
        return type(value)(self.of(each) for each in value)
