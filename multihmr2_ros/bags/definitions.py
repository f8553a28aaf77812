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

"""Message definitions for bags, without ROS: common ones from rosbags, others from .msg files."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from multihmr2_ros.errors import UserError

OUR_PACKAGE = "multihmr2_ros"
OUR_MESSAGES = ("Human", "HumanArray", "BodyModel")


@cache
def make_typestore() -> Any:
    """Return rosbags' typestore of ROS 2 Jazzy with the messages of this package. `require_type` adds definitions to
    it."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in OUR_MESSAGES:
        _register(store, f"{OUR_PACKAGE}/msg/{name}")
    return store


@cache
def get_ros1_typestore() -> Any:
    return get_typestore(Stores.ROS1_NOETIC)


def require_type(type_name: str) -> Any:
    """Return the typestore with a type (`package/msg/Name`) and all types of its fields.

    Raises UserError if no definition is found.
    """
    store = make_typestore()
    if type_name not in store.fielddefs:
        _register(store, type_name)
    return store


def _register(store: Any, type_name: str) -> None:
    path = _find_definition_file(type_name)
    if path is None:
        raise UserError(
            f"no definition of the message type {type_name} was found; source the ROS workspace with its package"
        )
    types = get_types_from_msg(path.read_text(encoding="utf-8"), type_name)
    for _, fields in types.values():
        for _, field in fields:
            for needed in _list_type_names(field):
                if needed not in store.fielddefs:
                    _register(store, needed)
    store.register(types)


def _list_type_names(field: Any) -> list[str]:
    """Return the message types in a field's description: (kind, …), nested for sequences and arrays."""
    if isinstance(field, str):
        return [field] if "/msg/" in field else []
    return [name for part in field for name in _list_type_names(part)] if isinstance(field, tuple) else []


def _find_definition_file(type_name: str) -> Path | None:
    package, _, name = type_name.partition("/msg/")
    folders = [Path(prefix, "share", package, "msg") for prefix in _list_prefixes()]
    if package == OUR_PACKAGE:
        folders.insert(0, Path(__file__).resolve().parents[2] / "msg")  # of the source tree
    return next((path for folder in folders if (path := folder / f"{name}.msg").is_file()), None)


def _list_prefixes() -> list[str]:
    """Return the prefixes of installed packages: from colcon or ROS, and from pip."""
    ament = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    # PREFIX/lib/python3.N/site-packages/multihmr2_ros/bags/definitions.py
    ours = Path(__file__).resolve().parents[5:6]
    return [*ament, *map(str, ours)]
