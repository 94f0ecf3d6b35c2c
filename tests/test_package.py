"""The package as people get it: what the wheel holds, what an import costs, what each verb leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import graphmill as gm
import pytest

ROOT = Path(gm.__file__).parent
SHIPPED = ("ir", "frontends", "kernels", "engine", "inspection", "cli")  # folders whose Python files are the package


def tracked() -> list[str]:
    """The repository's files by git's list, links left out."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode:
        pytest.skip("not a git repository: there is no list to hold the wheel against")
    return [f for f in git.stdout.split("\0") if f and (ROOT / f).is_file()]


def expected(files: list[str]) -> set[str]:
    """What the wheel must hold: the root's own modules and every source file below the package's folders."""
    sources = {f for f in files if f.endswith((".py", ".cuh", ".hpp")) and ("/" not in f or f.split("/")[0] in SHIPPED)}
    return {f"graphmill/{f}" for f in sources | {"py.typed"}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tracked files, built in a folder of its own (the build leaves files beside what it builds)."""
    folder = tmp_path_factory.mktemp("wheel")
    for f in tracked():
        (folder / "src" / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / f, folder / "src" / f)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(folder), "."]
    subprocess.run(pip, cwd=folder / "src", check=True, capture_output=True, timeout=300)
    (built,) = folder.glob("graphmill-*.whl")
    return built


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {n for n in names if ".dist-info/" not in n}
    assert ours == expected(tracked())
    assert {n.rpartition("/")[2] for n in names - ours} == {
        "LICENSE",
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "top_level.txt",
    }


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 2 << 20


def test_the_rule_sees_a_package_that_was_forgotten() -> None:
    assert "graphmill/ir/passes/fuse.py" in expected(tracked())
    assert expected(["inspection/new.py", "tests/x.py", "docs/a.py"]) == {"graphmill/inspection/new.py", "graphmill/py.typed"}


def test_no_stray_module_at_the_root() -> None:
    assert {f for f in tracked() if "/" not in f and f.endswith(".py")} == {"__init__.py", "__main__.py"}


# ---- imports ----------------------------------------------------------------------------------------------------

HEAVY = ("numpy", "llvmlite.binding", "onnx", "cupy", "rich", "click")


def imported_by(code: str) -> set[str]:
    """Which of the heavy modules a fresh Python has after `code`."""
    code += f"\nimport sys; print('\\nHEAVY', *(m for m in {HEAVY} if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120, env=environment())
    return set(out.stdout.rpartition("HEAVY")[2].split())


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"}


def test_the_import_takes_nothing_with_it() -> None:
    assert imported_by("import graphmill") == set()
    assert imported_by("import graphmill; graphmill.errors, graphmill.cli, graphmill.ir") == set()


def test_the_import_is_quick() -> None:
    """At most 0.05 s, by the process's own clock of CPU time: what others do on the machine does not count."""
    code = "import time; t = time.process_time(); import graphmill; print(time.process_time() - t)"
    run = lambda: float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)  # noqa: E731
    assert min(run() for _ in range(3)) <= 0.05


@pytest.mark.parametrize("verb", ["check", "dump", "explain", "passes", "ops"])
def test_verbs_that_compile_nothing_need_no_compiler(verb: str) -> None:
    model = [str(ROOT / "examples" / "digits" / "digits.onnx")] if verb in ("check", "dump", "explain") else []
    code = f"from graphmill.cli.main import main\ntry: main({[verb, *model]!r}, standalone_mode=False)\nexcept SystemExit: pass"
    assert not imported_by(code) & {"llvmlite.binding", "cupy"}


def test_the_features_that_linux_lists_are_those_that_llvm_finds() -> None:
    import llvmlite.binding as llvm
    from graphmill.kernels.cpu.tiling import host_features

    found = {name for name, have in llvm.get_host_cpu_features().items() if have}
    assert {n for n in ("avx2", "avx512f", "avx512vl", "f16c", "fma") if (n in host_features()) != (n in found)} == set()


def test_the_face() -> None:
    for name in gm.__all__:
        assert getattr(gm, name) is not None
        assert name in dir(gm)
    assert gm.ir.Module.__name__ == "Module" and callable(gm.read_onnx)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gm.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        gm.ir.Nothing  # noqa: B018


def test_module_is_the_command() -> None:
    out = subprocess.run([sys.executable, "-m", "graphmill", "--version"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and gm.__version__ in out.stdout, out
