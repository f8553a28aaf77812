"""`multihmr2 bench`: every row and stage is measured; mistakes are said before anything slow begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multihmr2_ros.cli.main import main


def test_rows_and_stages(small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_file = tmp_path / "report.json"
    command = ["bench", "--checkpoint", str(small_checkpoint), "--device", "cpu", "--size", "160x96", "--mesh", "low"]
    command += ["--precision", "fp32,bf16", "--people", "1,3", "--repeats", "2", "--json", str(report_file)]
    assert main(command) == 0
    printed = capsys.readouterr()
    report = json.loads(report_file.read_text())
    rows = [(row["precision"], row["mode"], row["people"]) for row in report["frames"]]
    assert rows == [("fp32", "eager", 1), ("fp32", "eager", 3), ("bf16", "eager", 1), ("bf16", "eager", 3)]
    assert all(0 < row["least_ms"] <= row["p50_ms"] <= row["p95_ms"] for row in report["frames"] + report["stages"])
    stages = [stage["stage"] for stage in report["stages"] if stage["precision"] == "fp32"]
    assert stages == ["upload, resize, pad", "encoder", "decoder", "heads", "body", "download", "tracking"]
    assert report["size"] == [160, 96]
    assert report["peak_host_mib"] > 0
    for text in ("160 × 96 px", "frames/s", "encoder", report["machine"]):
        assert text in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--size 768", "WIDTHxHEIGHT"),
        ("--size 100x100", "multiple of 16"),
        ("--people one", "whole numbers"),
        ("--people 0", "max_people"),
        ("--precision int8", "int8"),
        ("--precision fp16", "GPU"),
        ("--mode graph", "GPU"),
        ("--repeats 0", "repeats"),
    ],
)
def test_mistakes(small_checkpoint: Path, capsys: pytest.CaptureFixture[str], options: str, word: str) -> None:
    assert main(["bench", "--checkpoint", str(small_checkpoint), "--device", "cpu", *options.split()]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert word in error
