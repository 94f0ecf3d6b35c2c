"""`graphmill compile`, what the other verbs do with what it writes, and `graphmill cache`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphmill as gm
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from graphmill.cli.main import main
from graphmill.kernels.cpu import cache


def call(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def as_json(*args: str, status: int = 0) -> Any:
    return json.loads(call(*args, "--json", status=status).stdout)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        g (float[N,3] x) => (float[N,3] z) { y = Exp(x) z = Relu(y) }"""), tmp_path / "m.onnx")  # fmt: skip
    return tmp_path / "m.onnx"


@pytest.fixture
def compiled(model: Path) -> Path:
    call("compile", model, "-o", model.with_suffix(".gmill"))
    return model.with_suffix(".gmill")


def test_compile_then_run(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gmill"
    answer = as_json("compile", model, "--output", out, "--no-packed", "--threads", "1")
    assert answer["ok"] and answer["bytes"] == out.stat().st_size and answer["counts"] == {"native": 1} and answer["kernels"] == 1
    np.save(tmp_path / "x.npy", x := np.array([[0, 1, -1]], np.float32))
    for more in ([], ["--trust"]):
        got = as_json("run", out, "--input", f"x={tmp_path / 'x.npy'}", *more)["outputs"]["z"]["values"]
        np.testing.assert_allclose(got, np.exp(x), 1e-6)
    assert as_json("run", out, "--random", "0", "--set", "N=5")["outputs"]["z"]["shape"] == [5, 3]
    assert "1 native" in call("run", out, "--random", "0", "-v").stdout
    assert "1 kernels" in call("compile", model, "-o", out, "-v").stdout


def test_explain_answers_for_what_was_compiled(model: Path, compiled: Path) -> None:
    assert as_json("explain", compiled) == as_json("explain", model) != []
    assert as_json("explain", compiled, "%z") == as_json("explain", model, "%z")


def test_wrong_use(model: Path, compiled: Path, tmp_path: Path) -> None:
    assert "ends in .gmill" in call("compile", model, "-o", str(tmp_path / "m.onnx"), status=2).stderr
    assert "compiled already" in call("run", compiled, "--random", "0", "--target", "reference", status=2).stderr
    assert "InputError" in call("check", compiled, status=1).stdout
    assert "InputError" in call("dump", compiled, status=2).stderr
    assert as_json("compile", compiled, "-o", compiled, status=2)["error"] == "InputError"
    compiled.write_bytes(compiled.read_bytes()[:-1])
    for verb in ("run", "explain"):
        assert as_json(verb, compiled, status=2)["error"] == "ArtifactError"


def test_what_was_not_in_the_cache_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphmill.kernels.cpu import objects

    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "_addresses", {})
    out = str(tmp_path / "m.gmill")
    assert as_json("compile", model, "-o", out)["misses"] == {"text: no kernel of this text was compiled yet": 1}
    assert "compiled now" in call("compile", model, "-o", out, "-v").stdout
    assert as_json("compile", model, "-o", out)["misses"] == {}
    assert gm.load(out).report.compiled == 0


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "cache"))
    keys = [f"{i:02x}" * 32 for i in range(4)]
    for k in keys:
        cache.write_cached(k, bytes(2000), {"text": "t" * 64, "cpu": "\x1b[2Jcpu"})
    return keys


def test_cache_list_and_size(filled: list[str], tmp_path: Path) -> None:
    rows = as_json("cache", "list")
    assert [r["key"] for r in rows] == filled and {r["kind"] for r in rows} == {"object"} and rows[0]["about"]["text"] == "t" * 64
    text = call("cache", "list").stdout
    assert filled[0][:16] in text and "4 files" in text and "\x1b" not in text
    answer = as_json("cache", "size")
    assert answer == {"folder": str(tmp_path / "cache"), "files": 4, "bytes": sum(r["bytes"] for r in rows), "writable": True}
    assert "4 files" in call("cache", "size").stdout


def test_cache_verify(filled: list[str]) -> None:
    assert as_json("cache", "verify") == {"good": 4, "damaged": [], "removed": 0}
    cache.object_path(filled[1]).write_bytes(b"damaged")
    assert "damaged" in call("cache", "list").stdout
    answer = as_json("cache", "verify", "--keep", status=1)
    assert [r["key"] for r in answer["damaged"]] == [filled[1]] and answer["removed"] == 0
    assert "3 files are good, 1 damaged, 1 removed" in call("cache", "verify", status=1).stdout
    assert as_json("cache", "verify")["good"] == 3


def test_cache_prune_and_clear(filled: list[str]) -> None:
    assert "--size" in call("cache", "prune", status=2).stderr
    for wrong in ("", "x", "5T", "-1", "1e3"):
        call("cache", "prune", "--size", wrong, status=2)
    dry = as_json("cache", "prune", "--size", "5K", "--dry-run")
    assert dry["dry_run"] and len(dry["removed"]) == 2 and as_json("cache", "size")["files"] == 4
    assert as_json("cache", "prune", "--size", "5K", "--days", "30")["bytes"] == dry["bytes"]
    assert as_json("cache", "prune", "--size", "1G")["removed"] == [] and as_json("cache", "size")["files"] == 2
    assert "removed 2 files" in call("cache", "clear").stdout
    assert call("cache", "list").stdout.strip() == "0 files, 0.0 MiB"
