"""The benchmarks' commands on models that the repository holds, and on one made here: that they run, and that they see what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bench_models
import export
import realset
import speed

MLP = """<ir_version: 8, opset_import: ["" : 17]> mlp (float[n,4] x) => (float[n,2] y)
    <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] b = {0.5, -0.5}> { h = MatMul(x, w) z = Add(h, b) y = Relu(z) }"""


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """A folder as `export.py` leaves it: a model with a symbolic batch, and the repository's MNIST net."""
    onnx.save(onnx.parser.parse_model(MLP), tmp_path / "mlp.onnx")
    about = {"inputs": [["x", "FLOAT", ["n", 4]]], "feed": {"x": {"kind": "float", "shape": [1, 4]}}, "ops": {}}
    export.add(tmp_path, {"name": "mlp", "file": "mlp.onnx", "mb": 0, **about})
    (mnist,) = realset.entries(("opt-mnist",))
    realset.fetch(mnist, tmp_path)
    export.add(tmp_path, mnist | {"name": "mnist"})
    return tmp_path


def test_check(exports: Path) -> None:
    page, data = exports / "page.md", exports / "check.json"
    assert bench_models.main(["check", "--folder", str(exports), "--markdown", str(page), "--json", str(data)]) == 0
    mlp, mnist = json.loads(data.read_text())
    assert mlp["variants"] == ["usual", "n=2", "16 rows"] and mlp["ok"] and mnist["ok"]
    assert "2 of 2 exports" in page.read_text() and "| right |" in page.read_text()


def test_check_tells_what_is_wrong(exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exports / "mlp.onnx").write_bytes(b"no model")
    assert bench_models.main(["check", "--folder", str(exports), "mlp"]) == 1
    assert "WRONG mlp" in capsys.readouterr().out


def test_names_that_are_not_there(exports: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no resnet18: make them with python benchmarks/export\.py"):
        bench_models.main(["check", "--folder", str(exports), "resnet18"])
    with pytest.raises(SystemExit, match="has no mlp64, dlrm"):
        bench_models.main(["speed", "--folder", str(tmp_path / "empty")])


def test_speed(exports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "missing", lambda engines: ["openvino"])  # whether it is installed or not
    page, data = exports / "page.md", exports / "speed.json"
    written = ["--markdown", str(page), "--json", str(data)]
    assert bench_models.main(["speed", "--folder", str(exports), "--quick", "--threads", "1,2", *written, "mlp"]) == 0
    assert "left out, because not installed: openvino" in capsys.readouterr().out
    found = json.loads(data.read_text())
    assert [r["threads"] for r in found["results"]] == [1, 2] and found["engines"] == ["graphmill", "onnxruntime"]
    for r in found["results"]:
        assert r["ratios"]["onnxruntime"]["difference"] <= 1 and r["engines"]["graphmill"]["rounds"] >= 3
        low, mid, high = r["engines"]["onnxruntime"]["wall_ms"]
        assert 0 < low <= mid <= high
    assert found["geometric_mean"]["2"]["onnxruntime"]["wall"] == pytest.approx(r["ratios"]["onnxruntime"]["wall"][1])
    assert "## 1 thread\n" in page.read_text() and "## 2 threads\n" in page.read_text()


def test_an_engine_that_fails_is_told(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> speed.Run:
        raise ValueError("no such\noperator")

    def other(*_: Any) -> speed.Run:
        return lambda: [np.full((1, 2), 1e6, "f4")]

    (entry,) = bench_models.selected(exports, ["mlp"])
    monkeypatch.setitem(speed.ENGINES, "openvino", broken)
    monkeypatch.setitem(speed.ENGINES, "onnxruntime", other)
    r = speed.measure(entry, exports, list(speed.ENGINES), threads=1, seconds=0.01, rounds=1)
    assert r["engines"]["openvino"] == {"error": "ValueError: no such operator"} and list(r["ratios"]) == ["onnxruntime"]
    table = speed.table([r], list(speed.ENGINES))
    assert "| fails |" in table and "OTHER ANSWERS" in table


def test_missing() -> None:
    assert speed.missing(["onnxruntime", "no-such-engine"]) == ["no-such-engine"]


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that becomes ten times slower from one round to the next changes no ratio."""
    ours = [speed.Turn([s, s, 9 * s], [s]) for s in (1.0, 10.0, 100.0)]
    peer = [speed.Turn([2 * s], [3 * s]) for s in (1.0, 10.0, 100.0)]
    assert speed.ratios(peer, ours, "wall") == [2, 2, 2] and speed.ratios(peer, ours, "cpu") == [3, 3, 3]
    results = [{"ratios": {"p": {"wall": [0, r, 9]}}} for r in (2, 8)] + [{"ratios": {}}]
    assert speed.means(results, "p", "wall") == pytest.approx(4)


def test_variants_have_one_name() -> None:
    for text in ("vit_b16", "efficientnet_b0", "resnet50_dyn", "resnet50_batch8", "bert_base_dyn_batch4_dynamo"):
        assert str(export.Variant.parse(text)) == text
    assert export.Variant.parse("bert_base_dyn_batch4_dynamo") == export.Variant("bert_base", 4, True, True)
    assert len(set(export.DEFAULT)) == 23


def test_the_manifest_replaces_entries(tmp_path: Path) -> None:
    for name, mb in (("extra", 1), ("t5_dec", 2), ("mlp64", 3), ("t5_dec", 4)):
        export.add(tmp_path, {"name": name, "mb": mb})
    assert export.manifest(tmp_path) == [{"name": "mlp64", "mb": 3}, {"name": "t5_dec", "mb": 4}, {"name": "extra", "mb": 1}]
    assert [p.name for p in tmp_path.iterdir()] == [export.MANIFEST]


@pytest.mark.slow
def test_export(tmp_path: Path) -> None:
    """Where torch is installed: an export is described as it is, and is the same when made again."""
    pytest.importorskip("torch")
    assert export.main(["--folder", str(tmp_path), "--batch", "3", "--dynamic", "mlp64"]) == 0
    (entry,) = export.manifest(tmp_path)
    assert entry["file"] == "mlp64_dyn_batch3.onnx" and entry["inputs"] == [["x", "FLOAT", ["batch", 64]]]
    assert realset.feeds(entry)["x"].shape == (3, 64) and entry["parameters"] == 3 * 65 * 64
    first = entry["sha256"]
    assert export.main(["--folder", str(tmp_path), "mlp64_dyn_batch3"]) == 0
    assert export.manifest(tmp_path)[0]["sha256"] == first
    assert bench_models.main(["check", "--folder", str(tmp_path)]) == 0


def test_rebind(exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, data = exports / "page.md", exports / "rebind.json"
    assert bench_models.main(["rebind", "--folder", str(exports), "--markdown", str(page), "--json", str(data)]) == 0
    (mlp,) = json.loads(data.read_text())  # the other model's sizes are fixed
    assert mlp["model"] == "mlp" and mlp["symbol"] == "n" and mlp["sizes"] == 40 and mlp["recorded"] < 10
    assert "| mlp | n |" in page.read_text() and "| mlp | n |" in capsys.readouterr().out
