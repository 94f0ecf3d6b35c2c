"""Every verb of the command line: text and JSON, exit statuses, errors, and models whose names are hostile to a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphmill as gm
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from graphmill.cli.common import clean, plain
from graphmill.cli.main import VERBS, main
from onnx import TensorProto, helper

DIGITS = str(Path(gm.__file__).parent / "examples" / "digits" / "digits.onnx")
HOSTILE = "[red]\x1b[2J\u202e\x07[/red]\r\nok"


def call(*args: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == status, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def as_json(*args: str, status: int = 0) -> Any:
    return json.loads(call(*args, "--json", status=status).stdout)


def save(path: Path, text: str) -> str:
    onnx.save(onnx.parser.parse_model(text), path)
    return str(path)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Two nodes; y is returned, z is text."""
    return save(tmp_path / "small.onnx", """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N,3] x) => (float[N,3] z) { y = Exp(x) z = Relu(y) }""")  # fmt: skip


@pytest.fixture
def unsupported(tmp_path: Path) -> str:
    return save(tmp_path / "unsupported.onnx", """<ir_version: 8, opset_import: ["" : 18, "some.where" : 1]>
        g (float[2] x) => (float[2] z) { y = some.where.Mystery(x) w = some.where.Riddle(y) z = Relu(w) }""")  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A good model whose names, if a terminal obeyed them, would clear the screen."""
    node = helper.make_node("StringNormalizer", ["x"], [HOSTILE], name=HOSTILE)
    graph = helper.make_graph([node], HOSTILE, [helper.make_tensor_value_info("x", TensorProto.STRING, [2])],
                              [helper.make_tensor_value_info(HOSTILE, TensorProto.STRING, None)])  # fmt: skip
    path = tmp_path / "hostile.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return str(path)


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


# ---- check ------------------------------------------------------------------------------------------------------


def test_check_says_how_nodes_are_served(small: str) -> None:
    assert "native" in call("check", small).stdout
    answer = as_json("check", small)
    assert answer["ok"] and answer["error"] == "" and answer["problems"] == []
    assert answer["counts"] == {
        "unsupported": 0,
        "reference": 0,
        "fails": 0,
        "host": 0,
        "native": 1,
    }  # both nodes are one fused loop
    assert as_json("check", small, "--target", "reference")["counts"]["reference"] == 2


def test_the_rung_of_cuda(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", """<ir_version: 10, opset_import: ["" : 21]>
        m (float[N, 4] x, float[4, 8] w, float[8] b) => (float[N, 8] y) { y = Gemm (x, w, b) }""")  # fmt: skip
    dumped = [call("dump", path, "--target", "cuda", "--rung", rung).stdout for rung in ("libraries", "tensor")]
    assert ["LIBRARY cublaslt matmul" in d for d in dumped] == [True, False]
    told = as_json("run", path, "--target", "cuda", "--device", "null", "--rung", "libraries", "--random", "0", "--set", "N=2")
    assert told["outputs"]["y"]["shape"] == [2, 8]
    assert "target" in call("run", path, "--rung", "libraries", "--random", "0", "--set", "N=2", status=2).stderr


def test_the_types_of_inputs_and_outputs_on_cuda(tmp_path: Path) -> None:
    path = save(tmp_path / "p.onnx", """<ir_version: 8, opset_import: ["" : 18]>
        g (float[4,8] x, float[8,8] w) => (float[4,8] y) { y = MatMul(x, w) }""")  # fmt: skip
    how = ["--target", "cuda", "--device", "null", "--precision", "fp16", "--random", "0"]
    for given, dtype in (("true", "f32"), ("false", "f16"), ("x,y", "f32"), ("w", "f16")):
        assert as_json("run", path, *how, "--keep-io-types", given)["outputs"]["y"]["dtype"] == dtype
    assert "none named z" in as_json("run", path, *how, "--keep-io-types", "z", status=2)["message"]
    dumped = call("dump", path, *how[:2], *how[4:6], "--keep-io-types", "x").stdout
    assert "@main(%x: f32[4,8], %w: f16[8,8])" in dumped


def test_check_lists_all_problems_and_fails(unsupported: str) -> None:
    text = call("check", unsupported, status=1).stdout
    assert "Mystery" in text and "Riddle" in text
    answer = as_json("check", unsupported, status=1)
    assert not answer["ok"] and answer["error"] == "ImportProblem"
    assert {p["op"] for p in answer["problems"]} == {"Mystery", "Riddle"}


def test_check_of_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x08\x08" + b"noise" * 100)
    assert "HostileModelError" in call("check", str(path), status=1).stdout
    assert as_json("check", str(path), status=1)["error"] == "HostileModelError"


def test_check_of_shapes_that_do_not_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", """<ir_version: 8, opset_import: ["" : 18]>
        g (float[2] x, float[3] w) => (float[K] z) { z = Add(x, w) }""")  # fmt: skip
    answer = as_json("check", path, status=1)
    (problem,) = answer["problems"]
    assert answer["error"] == "ImportProblem" and problem["op"] == "Add" and "do not broadcast" in problem["message"]


def test_check_of_text(small: str, tmp_path: Path) -> None:
    out = tmp_path / "small.gir"
    call("dump", small, "--after", "import", "-o", str(out))
    assert as_json("check", str(out))["counts"]["native"] == 1


# ---- run --------------------------------------------------------------------------------------------------------


def test_run_on_given_inputs(small: str, tmp_path: Path) -> None:
    x = np.array([[-1, 0, np.nan], [1, 2, 1000]], np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "in.npz", x=x)
    for given in (["--input", f"x={tmp_path / 'x.npy'}"], ["--inputs", str(tmp_path / "in.npz")]):
        answer = as_json("run", small, *given, "--threads", "1")
        z = answer["outputs"]["z"]
        assert (z["dtype"], z["shape"]) == ("f32", [2, 3])
        assert z["values"][0][2] == "nan" and z["values"][1][2] == "inf"
        assert z["values"][0][:2] == pytest.approx(np.exp([-1, 0]))
        assert answer["served"] == {"counts": {"native": 1}, "by_reference": []}
    text = call("run", small, "--inputs", str(tmp_path / "in.npz"), "--save", str(tmp_path / "out.npz")).stdout
    assert "z: f32[$N,3] shape [2, 3]" in text
    with np.errstate(over="ignore"), np.load(tmp_path / "out.npz") as saved:
        np.testing.assert_allclose(saved["z"], np.exp(x), rtol=1e-6)


def test_run_verbose_names_what_ran_by_reference(hostile: str, small: str, tmp_path: Path) -> None:
    text = call("run", small, "--random", "0", "--set", "N=4", "-v").stdout
    assert "1 native" in text and "by reference" not in text
    text = call("run", small, "--random", "0", "--target", "reference", "--verbose").stdout
    assert "by reference: %y (exp): the target is the reference" in text


def test_run_strict_native(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", """<ir_version: 8, opset_import: ["" : 18]>
        g (float[2,2] x) => (float z) { z = Det(x) }""")  # fmt: skip
    assert "UnsupportedError: strict_native" in call("run", path, "--random", "0", "--strict-native", status=2).stderr
    served = as_json("run", path, "--random", "0")["served"]
    assert [s["op"] for s in served["by_reference"]] == ["det"] and served["by_reference"][0]["reason"]


def test_outputs_are_bounded(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", """<ir_version: 8, opset_import: ["" : 18]>
        g (float[300,300] x) => (float[300,300] y) { y = Neg(x) }""")  # fmt: skip
    assert len(call("run", path, "--random", "1").stdout) < 3000
    y = as_json("run", path, "--random", "1")["outputs"]["y"]
    assert len(y["first"]) == 1000 and y["left_out"] == 89_000


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "InputError: the inputs ['x'] are missing; the model takes x: f32[$N,3]"),
        (("--input", "x=missing.npy"), "missing.npy: [Errno 2]"),
        (("--input", "missing.npy"), "expected NAME=FILE.npy"),
        (("--input", f"x={DIGITS}"), "expected numpy's .npy format without pickled objects"),
        (("--inputs", DIGITS), "expected numpy's .npz format"),
        (("--random", "0", "--set", "N"), "expected DIM=SIZE"),
        (("--random", "0", "--set", "N=-1"), "expected DIM=SIZE"),
        (("--random", "0", "--set", "M=1"), "InputError: "),
        (("--random", "0", "--set", f"N={1 << 50}"), "LimitError: input x"),
        (("--random", "0", "--threads", "0"), "--threads"),
        (("--random", "0", "--target", "abacus"), "--target"),
        (("--random", "0", "--save", "/nowhere/out.npz"), "FileNotFoundError: "),
    ],
)
def test_wrong_calls_of_run(small: str, args: tuple[str, ...], says: str) -> None:
    result = call("run", small, *args, status=2)
    assert says in result.stderr and "Traceback" not in result.output


def test_pickles_are_not_loaded(small: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.save(tmp_path / "x.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([Bomb()], object))
    call("run", small, "--input", f"x={tmp_path / 'x.npy'}", status=2)
    call("run", small, "--inputs", str(tmp_path / "x.npz"), status=2)
    assert not (tmp_path / "exploded").exists()


# ---- dump, explain, passes, ops -----------------------------------------------------------------------------------


def test_dump_prints_text_that_parses(small: str, tmp_path: Path) -> None:
    from graphmill.ir.parser import parse_module
    from graphmill.ir.printer import print_module

    text = call("dump", small).stdout
    assert "fused(" in text and print_module(parse_module(text)) == text
    assert "fused(" not in call("dump", small, "--after", "fold").stdout
    assert "%y = exp(%x) : ?" in call("dump", small, "--after", "import").stdout
    assert "relu(" in call("dump", small, "--passes", "infer,dce").stdout
    call("dump", DIGITS, "--output", str(tmp_path / "d.gir"))
    assert gm.read_text(tmp_path / "d.gir").main.inputs[0].name == "image"


def test_dump_after_every_pass(small: str) -> None:
    every = call("dump", small, "--print-ir-after-all").stdout.split("// after ")
    changed = call("dump", small, "--print-ir-after-change").stdout.split("// after ")
    assert [s.split("\n")[0] for s in changed] == ["", "infer", "fuse"]
    assert len(every) > len(changed)
    assert [s["after"] for s in as_json("dump", small, "--print-ir-after-change")] == ["infer", "fuse"]
    wrong = call("dump", small, "--print-ir-after-all", "-o", "x", status=2)
    assert "--output writes one module" in wrong.stderr


def test_dump_as_data_and_as_dot(small: str) -> None:
    module = as_json("dump", small, "--after", "infer")
    assert [n["op"] for n in module["graph"]["nodes"]] == ["exp", "relu"]
    assert module["graph"]["inputs"] == [{"name": "x", "type": "f32[$N,3]"}]
    dot = call("dump", small, "--format", "dot", "--after", "infer").stdout
    assert '"#y" -> "#z"' in dot and '"%x" -> "#y"' in dot and '"#z" -> "out0"' in dot


def test_dump_writes_onnx(small: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for after, nodes in (("import", ["Exp", "Relu"]), ("fuse", ["Exp", "Relu"])):
        call("dump", small, "--after", after, "--format", "onnx", "-o", str(out), "--opset", "13")
        written = onnx.load(out)
        assert [n.op_type for n in written.graph.node] == nodes and written.opset_import[0].version == 13
    call("dump", small, "--format", "onnx", "-o", str(out))
    assert onnx.load(out).opset_import[0].version == 18
    assert "name it with --output" in call("dump", small, "--format", "onnx", status=2).stderr
    assert "--opset is for --format onnx" in call("dump", small, "--opset", "13", status=2).stderr
    wrong = call("dump", small, "--format", "onnx", "-o", str(out), "--opset", "3", status=2)
    assert "UnsupportedError: opset 3 of ai.onnx cannot be written" in wrong.stderr


def test_dump_of_a_pass_that_is_not_there(small: str) -> None:
    assert "IRError: the pipeline has no pass 'nothing'" in call("dump", small, "--after", "nothing", status=2).stderr
    assert "there is no pass named 'nothing'" in call("dump", small, "--passes", "infer,nothing", status=2).stderr


def test_explain(small: str) -> None:
    found = as_json("explain", DIGITS)
    assert {"applied"} <= {d["outcome"] for d in found}
    about = as_json("explain", DIGITS, "/1/BatchNorm2d")
    assert about and len(about) < len(found) and all("/1/BatchNorm2d" in d["nodes"] for d in about)
    assert all(d["outcome"] == "refused" for d in as_json("explain", DIGITS, "--refused"))
    assert "no decision about nowhere" in call("explain", small, "nowhere").stdout


def test_passes_and_ops() -> None:
    from graphmill.ir.op import OPS

    assert "fuse" in call("passes").stdout
    listed = as_json("passes")
    assert {"infer", "fold", "fuse"} <= {p["name"] for p in listed["passes"]} and listed["pipelines"]["cpu"].endswith("dce")
    assert {r["name"] for r in as_json("ops")} <= set(OPS)
    assert "conv(" in call("ops").stdout
    (conv,) = as_json("ops", "conv")
    assert conv["onnx"] and "pads" in conv["attrs"] and conv["doc"] in call("ops", "conv").stdout
    assert "there is no operator named 'nothing'" in call("ops", "nothing", status=2).stderr


# ---- all verbs --------------------------------------------------------------------------------------------------

MODEL_VERBS = [v for v in VERBS if v not in ("passes", "ops", "cache", "compile")]


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_broken_models_are_typed_errors(verb: str, tmp_path: Path, unsupported: str) -> None:
    status = 1 if verb == "check" else 2
    (tmp_path / "broken.onnx").write_bytes(Path(DIGITS).read_bytes()[:1000])
    (tmp_path / "broken.gir").write_text("module @m { graph @g(%x: f32[2] -> %x {} }")
    for path, error in (("broken.onnx", "HostileModelError"), ("broken.gir", "IRError"), (unsupported, "ImportProblem")):
        result = call(verb, str(tmp_path / path), status=status)
        assert error in result.output and "Traceback" not in result.output
        assert as_json(verb, str(tmp_path / path), status=status)["error"] == error
    assert "does not exist" in call(verb, str(tmp_path / "missing.onnx"), status=2).stderr


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_names_of_a_model_never_reach_the_terminal_raw(verb: str, hostile: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(["\x1b[2J", "[bold]b"]))
    given = {"run": ["--input", f"x={tmp_path / 'x.npy'}", "-v"],
             "bench": ["--input", f"x={tmp_path / 'x.npy'}", "--profile", "--seconds", "0"],
                 "precision": ["--input", f"x={tmp_path / 'x.npy'}", "--all"]}.get(verb, [])  # fmt: skip
    for form in ([], ["--json"]):
        out = call(verb, hostile, *given, *form)
        assert harmless(out.output)
    if verb == "check":
        assert r"[red]\x1b[2J" in call(verb, hostile).stdout  # as it stands: not taken for markup


def test_clean_and_plain() -> None:
    assert clean(HOSTILE) == "[red]\\x1b[2J\\u202e\\x07[/red]\\r\nok"
    assert clean("\udc80\u2028é") == "\\udc80\\u2028é" and clean("x" * 9, 4) == "xxxx... (9 characters)"
    import ml_dtypes

    assert plain(np.array([[1 + 2j]], np.complex64))["values"] == [[[1.0, 2.0]]]
    assert plain(np.array([1.5], ml_dtypes.bfloat16)) == {"dtype": "bf16", "shape": [1], "values": [1.5]}
    assert plain(np.array([-3], ml_dtypes.int4))["values"] == [-3]
    assert plain({"a": [True, None, -np.inf, np.array("é\x00", object)]}) == {
        "a": [True, None, "-inf", {"dtype": "str", "shape": [], "values": "é\\x00"}]
    }


def test_usage() -> None:
    assert all(v in call("--help").stdout for v in VERBS)
    call("nothing", status=2)
    for verb in VERBS:
        verbs = [(verb, v) for v in ("list", "size", "verify", "prune", "clear")] if verb == "cache" else [(verb,)]
        assert all("--json" in call(*v, "--help").stdout for v in verbs)


def test_progress_on_a_terminal_and_silence_in_a_pipe(small: str) -> None:
    command = [sys.executable, "-m", "graphmill", "run", small, "--random", "0"]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert piped.stderr == "" and "z: f32[$N,3] shape [1, 3]" in piped.stdout
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm"}
    subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, timeout=120, check=True, env=env)
    os.close(slave)
    assert b"compiling" in os.read(master, 1 << 16)
    os.close(master)


def test_a_failing_process_has_its_status(unsupported: str) -> None:
    done = subprocess.run([sys.executable, "-m", "graphmill", "run", unsupported], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("ImportProblem: ")
