"""graphmill bench: lines, JSON, peers, profiles; --accuracy of the verbs that compile."""

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

DIGITS = str(Path(gm.__file__).parent / "examples" / "digits" / "digits.onnx")


def call(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == status, (result.output, result.exception)
    return result


def bench(*args: str, status: int = 0) -> Any:
    return json.loads(call("bench", *args, "--json", "--seconds", "0", status=status).stdout)


@pytest.fixture
def small(tmp_path: Path) -> str:
    text = """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N,3] x, int64[M] i) => (float[K,3] z) { y = Exp(x) z = Gather(y, i) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "small.onnx")
    return str(tmp_path / "small.onnx")


def test_a_line_for_each_number_of_threads_and_sizes() -> None:
    told = bench(DIGITS, "--threads", "1,2", "--shapes", "N=1,5")
    assert told["ok"] and told["accuracy"] == "fast" and told["target"] == "cpu" and told["peak_bytes"] > 1 << 20
    assert [(x["threads"], x["shapes"]) for x in told["lines"]] == [(t, {"N": n}) for t in (1, 2) for n in (1, 5)]
    for x in told["lines"]:
        assert 0 < x["low"] <= x["median"] <= x["high"] and x["cpu"] >= 0 and x["per_second"] > 0 and x["runs"] > 0
        assert x["first_run_s"] > 0 and x["compile_s"] > 0 and "profile" not in x and "against" not in x
    text = call("bench", DIGITS, "--seconds", "0", "--shapes", "N=1,5").stdout
    assert [line.split()[-1] for line in text.splitlines()[:3]] == ["shapes", "N=1", "N=5"] and "peak memory" in text


def test_two_dims_and_given_inputs(small: str, tmp_path: Path) -> None:
    assert [x["shapes"] for x in bench(small, "--shapes", "N=2,3", "--shapes", "M=4")["lines"]] == [
        {"N": 2, "M": 4},
        {"N": 3, "M": 4},
    ]
    np.save(tmp_path / "i.npy", np.array([0, 6]))
    assert bench(small, "--shapes", "N=7", "--input", f"i={tmp_path / 'i.npy'}")["lines"]
    assert bench(small, "--shapes", "N=2", "--input", f"i={tmp_path / 'i.npy'}", status=2)["error"] == "RunError"


def test_beside_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    (line,) = bench(DIGITS, "--threads", "1", "--against", "onnxruntime")["lines"]
    assert line["against"]["name"] == "onnxruntime" and line["against"]["ratio"] > 0 and line["against"]["median"] > 0
    head, row = call("bench", DIGITS, "--threads", "1", "--seconds", "0", "--against", "onnxruntime").stdout.splitlines()[:2]
    assert "onnxruntime" in head and "ratio" in head and len(row.split()) > 10


def test_profiles() -> None:
    (line,) = bench(DIGITS, "--threads", "1", "--set", "N=2", "--profile")["lines"]
    p = line["profile"]
    assert p["rows"] and p["inside"] == pytest.approx(sum(r["seconds"] for r in p["rows"])) and p["threads"] == 1
    text = call("bench", DIGITS, "--seconds", "0", "--profile").stdout
    assert "GFLOP/s" in text and "conv" in text and "of it in these rows" in text


@pytest.mark.parametrize(("args", "says"), [
    (["--threads", "0"], "expected numbers from 1 on"), (["--threads", "x"], "expected numbers"), (["--shapes", "N"], "expected DIM=SIZE"),
    (["--shapes", "N=1,"], "expected DIM=SIZE"), (["--shapes", "Q=1"], "no input has the dimension Q; symbolic ones: N"),
    (["--set", "N=1", "--shapes", "N=1"], "symbolic ones: none"), (["--against", "abacus"], "onnxruntime"), (["--seconds", "-1"], "0<=x<=3600"),
])  # fmt: skip
def test_wrong_command_lines(args: list[str], says: str) -> None:
    assert says in call("bench", DIGITS, *args, status=2).stderr


def test_artifacts(tmp_path: Path) -> None:
    path = str(tmp_path / "m.gmill")
    call("compile", DIGITS, "-o", path, "--accuracy", "strict")
    told = bench(path, "--threads", "1", "--shapes", "N=3")
    assert told["accuracy"] == "strict" and told["lines"][0]["shapes"] == {"N": 3}
    for args in (["--accuracy", "fast"], ["--target", "cpu"], ["--set", "N=1"]):
        assert "compiled already; give " + args[0] in call("bench", path, *args, status=2).stderr
    assert "compiled already; give --accuracy" in call("run", path, "--random", "0", "--accuracy", "fast", status=2).stderr
    assert "runs ONNX files" in call("bench", path, "--against", "onnxruntime", status=2).stderr


def test_accuracy_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from graphmill.engine import compiler

    real = compiler.compile
    monkeypatch.setattr(compiler, "compile", lambda *a, **k: (seen.append(k["accuracy"]), real(*a, **k))[1])
    for verb, more in (("run", ["--random", "0"]), ("bench", ["--seconds", "0"])):
        call(verb, DIGITS, *more)
        call(verb, DIGITS, *more, "--accuracy", "strict")
        assert "fast" in call(verb, DIGITS, *more, "--accuracy", "sloppy", status=2).stderr
    assert seen == ["fast", "strict"] * 2
