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

"""Photographs without people; every detection in them is a false positive."""

from __future__ import annotations

from pathlib import Path

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import IMAGE_SUFFIXES, read_image
from multihmr2_ros.training.readers.common import check_folder
from multihmr2_ros.training.samples import Sample, make_blank_people


class EmptyImageReader:
    """All images of a folder of photographs without people."""

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not self._paths:
            raise UserError(f"expected images in {folder}, found none; check the path")

    def __len__(self) -> int:
        return len(self._paths)

    def get_name(self, index: int) -> str:
        """Return the file name of image number `index`."""
        return self._paths[index].name

    def sample(self, index: int) -> Sample:
        """Return image number `index`, ordered by name."""
        path = self._paths[index]
        return Sample(read_image(path), None, True, path.name, **make_blank_people(0))
