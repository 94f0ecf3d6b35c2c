"""README.md and docs/ tell the truth: their Python runs, their links lead somewhere, and .ci/run runs the README's test command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import graphmill as gm
import pytest

ROOT = Path(gm.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def command(marker: str, text: str | None = None) -> str:
    """The one line of the shell block under `<!-- marker -->`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8") if text is None else text
    (found,) = re.findall(rf"^<!-- {marker} -->\n```sh\n(.*?)```$", text, re.M | re.S)
    assert found.count("\n") == 1, "one command"
    return found.strip()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_runs(page: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_verbs_and_names_in_the_pages_exist(page: Path) -> None:
    from graphmill.cli.main import VERBS

    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)graphmill ([a-z]+)", text, re.M)) <= {*VERBS, "compiles"}
    assert set(re.findall(r"\bgm\.([A-Za-z_]+)", text)) <= set(gm.__all__)


def test_the_commands_need_only_python_and_pip() -> None:
    assert command("run").startswith("python3 -m venv .venv && ") and "examples/digits/run.py" in command("run")
    assert "pytest" in command("test")


def test_ci_runs_the_test_command_of_the_readme(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = readme.replace(command("test"), "echo first && echo ran > ran.txt && false || exit 7")
    assert command("run", marked) == command("run")
    (tmp_path / "README.md").write_text(marked)
    done = subprocess.run([str(tmp_path / ".ci" / "run")], cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and "first" in done.stdout  # and its failure is the failure of .ci/run
    assert (tmp_path / "ran.txt").read_text() == "ran\n"
