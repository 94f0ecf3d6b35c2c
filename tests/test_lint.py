"""The code's form: ruff's rules and format, types, and which layer may import which. `pyproject.toml` has the configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import graphmill as gm
import pytest

ROOT = Path(gm.__file__).parent


def clean(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def tool(name: str) -> str:
    """A command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def test_rules() -> None:
    clean(tool("ruff"), "check", ".")


def test_format() -> None:
    clean(tool("ruff"), "format", "--check", ".")


def test_types() -> None:
    clean(tool("mypy"))


def test_layers() -> None:
    clean(tool("lint-imports"))


def test_the_configuration_is_in_force(tmp_path: Path) -> None:
    """A file that breaks the rules is found: an import that would take a package of the root's for a top-level one."""
    bad = tmp_path / "bad.py"
    bad.write_text("import engine\n")
    with pytest.raises(AssertionError, match="TID251"):
        clean(tool("ruff"), "check", str(bad), "--config", str(ROOT / "pyproject.toml"))
