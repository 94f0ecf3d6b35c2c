"""benchmarks/sizes.py, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", [["cpu"], ["cuda", "--device", "null"]])
def test_sizes(target: list[str], tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "sizes.py", ROOT / "examples" / "digits" / "digits.onnx", "--dim", "N=2:9"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "out.json", "--target", *target], capture_output=True, text=True, check=True
    )
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["sizes"] == [2, 9] and all(told[m] > 0 for m in ("new", "second", "fourth"))
    assert "| digits |" in done.stdout
