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

"""Reading arrays, and nothing else, from pickles."""

from __future__ import annotations

import os
import pickle
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multihmr2_ros.evaluation.datasets.pickles import read_object_array, read_pickle

CONTENT = {
    "text": "P0_09_outdoor_walk",
    "numbers": [1, 2.5, True, None],
    "camera": {"intrinsics": np.arange(9.0).reshape(3, 3), "width": np.int64(1440), "share": np.float32(0.25)},
    "mask": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "names": np.array(["male", "female"]),
    "nobody": np.zeros((0, 24, 3)),
    "scalar array": np.array(3.5),
    "objects": np.array([np.ones(2), {"a": np.zeros(1)}, None], dtype=object),
}


def assert_same(read: Any, expected: Any) -> None:
    assert type(read) is type(expected)
    if isinstance(expected, dict):
        assert read.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(read[key], value)
    elif isinstance(expected, list):
        for one, other in zip(read, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert read.shape == expected.shape
        for one, other in zip(read, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(read, expected)
    else:
        assert read == expected


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    assert_same(read_pickle(path), CONTENT)


def test_an_object_in_an_array_file(tmp_path: Path) -> None:
    np.save(tmp_path / "people.npy", np.array(CONTENT, dtype=object))
    assert_same(read_object_array(tmp_path / "people.npy"), CONTENT)
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    with pytest.raises(ValueError, match="expected one pickled object"):
        read_object_array(tmp_path / "numbers.npy")


def test_of_python_2(tmp_path: Path) -> None:
    """Python 2's strings are read as bytes (3DPW's files); arrays are pickled as by its cPickle."""
    values = np.array([1.5, -2.0])
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nq\x02U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + values.tobytes()
        + b"tb."
    )
    (tmp_path / "data.pkl").write_bytes(content)
    assert_same(read_pickle(tmp_path / "data.pkl"), values)


class Calls:
    def __init__(self, *reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize(
    "content",
    [
        Calls(os.system, ("touch harmed",)),
        Calls(eval, ("open('harmed', 'w')",)),
        Calls(np.load, ("other.npy",)),
        Calls(bytearray, (10**12,)),
        Calls(np.fromfile, ("other.npy",)),
        OrderedDict(),
        np.random.default_rng(0),
    ],
    ids=["system", "eval", "load", "bytearray", "fromfile", "class", "generator"],
)
def test_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps({"camera": content}))
    with pytest.raises(ValueError, match="must not contain"):
        read_pickle(path)
    assert list(tmp_path.iterdir()) == [path]


def test_pickles_do_not_access_memory(tmp_path: Path) -> None:
    """NumPy's own unpickling interprets an array's bytes as pointers if its dtype declares objects."""
    reconstruct = np.zeros(0).__reduce__()[0]
    has_objects = Calls(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0))
    fields = np.dtype([("a", "O")])
    for kind, data in ((has_objects, b"\x01" * 8), (Calls(np.dtype, ("V8", False, True)), b"\x01" * 8), (fields, b"")):
        array = Calls(reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), kind, False, data))
        path = tmp_path / "data.pkl"
        path.write_bytes(pickle.dumps(array))
        try:
            read = read_pickle(path)
        except ValueError:
            continue
        assert all(isinstance(each, int) for each in read), "bytes, not objects at their address"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\xff\xff\xff\xff.",
        b"\x80\x02]p4294967295\n.",
        b"\x80\x05\x96" + (10**11).to_bytes(8, "little") + b"a.",
        pickle.dumps(Calls(np.ones(2).__reduce_ex__(5)[0], (10**11, np.dtype(float), (2,), "C"))),
    ],
    ids=["memory", "memory in digits", "length", "buffer"],
)  # fmt: skip
def test_declared_gigabytes_allocate_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.pkl").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, TypeError)):
        read_pickle(tmp_path / "data.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_damaged(tmp_path: Path) -> None:
    whole = pickle.dumps(CONTENT)
    path = tmp_path / "data.pkl"
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises((ValueError, EOFError)):
            read_pickle(path)


def test_a_list_in_itself(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(endless))
    with pytest.raises(ValueError, match="RecursionError"):
        read_pickle(tmp_path / "data.pkl")


def test_shared_objects_are_read_once(tmp_path: Path) -> None:
    """Forty nested lists, each of which contains the previous one twice: 2⁴⁰ elements."""
    shared: Any = [np.ones(2)]
    for _ in range(40):
        shared = [shared, shared]
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(shared))
    read = read_pickle(tmp_path / "data.pkl")
    assert read[0] is read[1]
    while isinstance(read, list):
        read = read[0]
    np.testing.assert_array_equal(read, np.ones(2))
