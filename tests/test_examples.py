"""Every example runs as a script, as README.md and its own first line say, and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import graphmill as gm
import pytest

EXAMPLES = Path(gm.__file__).parent / "examples"
SAYS = {
    "custom_operator.py": "1 nodes: 1 native",
    "custom_converter.py": "[[",
    "custom_rewrite.py": "refused, c is not known to be positive",
    "custom_pass.py": "2 x exp",
}


def run(name: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, tmp_path: Path) -> None:
    assert SAYS[name] in run(name, tmp_path)


def test_digits_are_read(tmp_path: Path) -> None:
    """The net reads at least 97 of 100 digits that it was not trained on, all of it natively."""
    out = run("digits/run.py", tmp_path)
    found = re.search(r"test accuracy ([\d.]+)% on 500 digits", out)
    assert found and float(found[1]) >= 97
    assert "reference" not in out


def test_every_example_is_tested() -> None:
    scripts = {p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*.py")}
    assert scripts == set(SAYS) | {"digits/run.py", "digits/train.py"}  # train.py needs torch; what it makes is tested
