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

"""results.json: the configuration, every metric with its count, and the sums that the metrics are computed from."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from array import array
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from multihmr2_ros import __version__
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.metric_definitions import ERRORS, METRICS, MOTION_ERRORS, NORMALIZED
from multihmr2_ros.evaluation.run import SequenceResult
from multihmr2_ros.evaluation.totals import Sum, Totals
from multihmr2_ros.files import atomic_path
from multihmr2_ros.metrics.detection import DetectionCounts
from multihmr2_ros.metrics.identity import IdentityCounts

FILE = "results.json"
FORMAT = 1
UNITS = {metric.key: (metric.unit, metric.counted) for metric in METRICS}
PACKAGES = ("torch", "anny", "numpy", "scipy", "opencv-python-headless", "rosbags")
COUNTS = ("frames", "with_truth", "detections", "ignored_truth", "ignored_found", "dropped")


def merge_results(results: Iterable[SequenceResult]) -> dict[str, Totals]:
    """Add the totals of all sequences, by the kind of their intrinsics, in order of first occurrence."""
    totals_by_kind: dict[str, Totals] = {}
    for result in results:
        totals_by_kind[result.intrinsics] = totals_by_kind.get(result.intrinsics, Totals()) + result.totals
    return totals_by_kind


def write_results(
    out: Path, results: Sequence[SequenceResult], configuration: dict[str, Any], timing: dict[str, Any],
    problems: Sequence[str],
) -> None:  # fmt: skip
    """Write results.json.

    out            folder
    results        of the sequences
    configuration  of the evaluation
    timing         all values that depend on time; the rest of the file is equal for equal input
    problems       one line each
    """
    totals_by_kind = merge_results(results)
    document = {
        "format": FORMAT,
        "configuration": configuration,
        "versions": list_versions(),
        "problems": list(problems),
        "results": {name: _describe_metrics(totals) for name, totals in totals_by_kind.items()},
        "sequences": [
            {
                "name": result.name,
                "path": result.path,
                "intrinsics": result.intrinsics,
                "folder": result.folder,
                "problems": list(result.problems),
                **_describe_metrics(result.totals),
                **({"scores": result.scores} if result.scores else {}),
                "sums": _describe_sums(result.totals),
            }
            for result in results
        ],
        "timing": {
            **timing,
            "latency": {name: totals.compute_latencies() for name, totals in totals_by_kind.items()},
            "sequences": [
                {"name": result.name, "intrinsics": result.intrinsics, "wall_s": result.wall_s,
                 "latency": result.totals.compute_latencies()}
                for result in results
            ],
        },
    }  # fmt: skip
    with atomic_path(out / FILE) as temporary:
        temporary.write_text(json.dumps(_to_plain(document), indent=1) + "\n", encoding="utf-8")


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results in a folder, with Totals, without times and samples, under "totals" of each sequence.

    Raises UserError for a file that is missing or was not written by `multihmr2 evaluate`.
    """
    path = folder / FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise UserError(f"{path} has format {document['format']}, expected {FORMAT}; evaluate again")
        for key in ("configuration", "versions"):
            document[key] = dict(document[key])
        for sequence in document["sequences"]:
            for key in ("name", "intrinsics", "folder"):
                if not isinstance(sequence[key], str):
                    raise TypeError(f"{key} is {sequence[key]!r}")
            sequence["totals"] = _parse_totals(sequence)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a result folder of `multihmr2 evaluate --out`") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} was not written by `multihmr2 evaluate` ({error}); evaluate again") from None
    return document


def list_versions() -> dict[str, str]:
    found = {"multihmr2_ros": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _describe_metrics(totals: Totals) -> dict[str, Any]:
    return {
        **{name: getattr(totals, name) for name in COUNTS},
        **dataclasses.asdict(totals.detection),
        "metrics": {
            key: {"value": value, "unit": UNITS[key][0], "count": count, "counted": UNITS[key][1]}
            for key, (value, count) in {**_add_unmatched(totals), **totals.compute_metrics()}.items()
        },
        **({"calibration": totals.compute_calibration()} if totals.compute_calibration() else {}),
        **({"distance_by_cue": totals.summarize_distances()} if totals.summarize_distances() else {}),
    }


def _add_unmatched(totals: Totals) -> dict[str, tuple[float, int]]:
    """Return empty rows of the errors if there was truth and no one was matched."""
    if not totals.with_truth or totals.detection.true_positives:
        return {}
    return {metric.key: (math.nan, 0) for metric in (*ERRORS, *NORMALIZED) if metric not in MOTION_ERRORS}


def _describe_sums(totals: Totals) -> dict[str, Any]:
    identity = totals.identity
    return {
        "errors": {key: [total.total, total.count] for key, total in totals.sums.items()},
        "identity": None if identity is None else dataclasses.asdict(identity),
    }


def _parse_totals(sequence: dict[str, Any]) -> Totals:
    sums, identity = sequence["sums"], sequence["sums"]["identity"]
    detection = {each.name: int(sequence[each.name]) for each in dataclasses.fields(DetectionCounts)}
    if identity is not None:
        arrays: dict[str, Any] = {
            key: np.array(value, np.float64) if isinstance(value, list) else int(value)
            for key, value in identity.items()
        }
        identity = IdentityCounts(**arrays)
    counts: dict[str, Any] = {name: int(sequence[name]) for name in COUNTS}
    return Totals(
        **counts,
        detection=DetectionCounts(**detection),
        sums={key: Sum(float(total), int(count)) for key, (total, count) in sums["errors"].items()},
        identity=identity,
    )


def _to_plain(value: Any) -> Any:
    """Convert to JSON types; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): _to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | array | np.ndarray):
        return [_to_plain(each) for each in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value if value is None else str(value)
