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

"""Random damage for fuzzing, drawn from a random.Random: of bytes, texts, message fields and JSON."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np

HOSTILE_INTEGERS = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
HOSTILE_FLOATS = (0.0, -0.0, 1e-320, 1.0, -1.0, 1e9, 1e38, 1e308, -1e308, float("nan"), float("inf"), float("-inf"))
HOSTILE_TEXTS = (
    "", " ", "0", "-1", "1e309", "nan", "inf", "99999999999999999999", "1" * 400, "1" * 5000, "1_0", "²", "١", "\0",
    "\ufeff", "é", "a" * 70_000, "../../etc/passwd", "[" * 2000, "{", "}", "'\"\\", "\n", "%s%n", "🙂", "true",
    "null", "~", "!!python/x",
)  # fmt: skip


def damaged_bytes(rng: random.Random, data: bytes, other: bytes = b"", head: int | None = None) -> bytes:
    """Return the data with one to four changes.

    other: source of inserted pieces. head: most changes are within this number of bytes.
    """
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        within = min(len(content), head) if head and rng.random() < 0.7 else len(content)
        place = rng.randrange(within) if within else 0
        length = min(1 << rng.randrange(12), max(len(content), 1))
        kind = rng.randrange(9)
        if kind == 0 and content:
            content[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and content:
            content[place] = rng.randrange(256)
        elif kind in (2, 3):
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(HOSTILE_INTEGERS) & (256**size - 1)
            content[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 4:
            del content[place:]
        elif kind == 5:
            del content[place : place + length]
        elif kind == 6:
            content[place:place] = content[place : place + length]
        elif kind == 7:
            content[place:place] = rng.randbytes(min(length, 64))
        elif other:
            start = rng.randrange(len(other))
            content[place : place + length] = other[start : start + length]
    return bytes(content)


def damaged_text(rng: random.Random, text: str, words: tuple[str, ...] = ()) -> bytes:
    """Return the text with words and lines replaced, removed, doubled and swapped; words: keywords of the format."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        lines = text.split("\n")
        row = rng.randrange(len(lines))
        kind = rng.randrange(7)
        if kind == 0:
            del lines[row]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines) + 1), lines[row])
        elif kind == 2:
            lines = lines[: row + 1]
        elif kind == 3:
            lines[row] = damaged_bytes(rng, lines[row].encode("utf-8", "replace")).decode("latin-1")
        else:
            parts = lines[row].split(" ")
            place = rng.randrange(len(parts))
            parts[place] = rng.choice((*HOSTILE_TEXTS, *words, *words, str(rng.choice(HOSTILE_INTEGERS)), parts[0]))
            lines[row] = " ".join(parts)
        text = "\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


def damaged_value(rng: random.Random, value: Any) -> Any:
    """Return a value of the same or a similar type; rosbags messages and JSON containers keep their structure."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if not field.name.startswith("__")]
        if not fields:
            return value
        name = rng.choice(fields)
        return dataclasses.replace(value, **{name: damaged_value(rng, getattr(value, name))})
    if isinstance(value, dict):
        return _damaged_mapping(rng, value)
    if isinstance(value, list | tuple):
        return _damaged_list(rng, list(value))
    if isinstance(value, np.ndarray):
        return _damaged_array(rng, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, 2 * value, -value, *HOSTILE_INTEGERS))
    if isinstance(value, float):
        return rng.choice((-value, 1e-3 * value, 1e3 * value, *HOSTILE_FLOATS))
    if isinstance(value, str):
        return rng.choice((*HOSTILE_TEXTS, value + "x", value[:-1]))
    return rng.choice((None, 0, "", [], {}))


def _damaged_mapping(rng: random.Random, value: dict[Any, Any]) -> dict[Any, Any]:
    again = dict(value)
    if not again or rng.random() < 0.1:
        again[rng.choice(HOSTILE_TEXTS)] = rng.choice(HOSTILE_INTEGERS)
        return again
    name = rng.choice(list(again))
    kind = rng.randrange(6)
    if kind == 0:
        del again[name]
    elif kind == 1:
        again[name] = rng.choice((None, "", [], {}, 0, 1.5, True, -1, 10**9, "9" * 30, [[1]], {"a": 1}))
    else:
        again[name] = damaged_value(rng, again[name])
    return again


def _damaged_list(rng: random.Random, value: list[Any]) -> list[Any]:
    if not value:
        return value
    place = rng.randrange(len(value))
    kind = rng.randrange(4)
    if kind == 0:
        del value[place]
    elif kind == 1:
        value.insert(place, value[place])
    else:
        value[place] = damaged_value(rng, value[place])
    return value


def _damaged_array(rng: random.Random, value: np.ndarray) -> np.ndarray:
    kind = rng.randrange(4)
    if not value.size or kind == 0:
        return np.resize(value, rng.choice((0, 1, 2, 5, value.size + 1, max(value.size - 1, 0)))).astype(value.dtype)
    again = value.copy()
    place = rng.randrange(value.size)
    if value.dtype.kind == "f":
        again.flat[place] = np.float64(rng.choice(HOSTILE_FLOATS)).astype(value.dtype)
    else:
        again.flat[place] = rng.choice(HOSTILE_INTEGERS) & 0xFF
    if kind == 1:
        again[:] = again.flat[place]
    return again
