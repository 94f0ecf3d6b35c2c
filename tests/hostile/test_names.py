"""Names of a model are text and nothing else: no kernel's text, no terminal and no parser obeys them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hostile_harness import model, node
from onnx import helper

WORDS = {
    "python": "x');__import__('os').system('touch /tmp/owned')#",
    "newlines": "a\n    import os\n    os.abort()\nb",
    "quotes": "'\"\"\"'''`${x}{y}%s{0.__class__}",
    "null": "a\0b",
    "escapes": "\x1b[2J\x1b[31mred\x07\x9b0m",
    "direction": "\u202egnp.exe\u2066",
    "markup": "[bold red]x[/] [link=file:///etc/passwd]y[/link]",
    "ir": "%y = relu(%x) : f32[2] loc(\"a\")\n} module @m { graph @main() -> {",
    "separators": "a+b;c,d->e|f\u2028g\u0085h",
    "empty-looking": "\u200b \t",
    "surrogates": "\ud7ff\U0010ffff\ufeff",
    "long": "n" * 20_000,
    "dunder": "__class__",
    "keyword": "lambda",
    "kernel": "p, tile, ntiles",
}  # fmt: skip
X = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
W = np.arange(20, dtype=np.float32).reshape(4, 5) / 7


def named(word: str):
    """A net of kernels of several kinds, every name of which holds the word."""
    n = lambda s: word + s  # noqa: E731
    nodes = [node("MatMul", [n("x"), n("w")], [n("m")], name=n("node")), node("Relu", [n("m")], [n("r")], name=n("node2"), doc_string=word),
             node("Exp", [n("r")], [n("e")], name=n("")), node("ReduceSum", [n("e")], [n("s")], name=n("s"), keepdims=0),
             node("Softmax", [n("r")], [n("y")]), node("Transpose", [n("y")], [n("t")], perm=[1, 0]), node("Add", [n("s"), n("w")], [n("z")])]  # fmt: skip
    m = model(nodes, {}, [n("t"), n("z")], {n("w"): W})
    m.graph.input.append(helper.make_tensor_value_info(n("x"), 1, [n("dim"), 4]))
    m.graph.name = m.producer_name = m.doc_string = word
    m.metadata_props.add(key=word, value=word)
    return m


def want() -> list[np.ndarray]:
    r = np.maximum(X @ W, 0)
    e = np.exp(r - r.max(1, keepdims=True))
    return [(e / e.sum(1, keepdims=True)).T, np.exp(r).sum() + W]


@pytest.mark.parametrize("word", [pytest.param(w, id=k) for k, w in WORDS.items()])
def test_names_are_only_text(worker, tmp_path, word):
    path = tmp_path / "model.onnx"
    path.write_bytes(named(word).SerializeToString())
    ran = worker.ask(verb="run", path=str(path), inputs={word + "x": X})
    assert ran["status"] == "ok", ran
    assert list(ran["outputs"]) == [word + "t", word + "z"]
    for got, right in zip(ran["outputs"].values(), want()):
        np.testing.assert_allclose(got, right, 1e-4)
    seen = worker.ask(verb="inspect", path=str(path))
    assert seen["status"] == "ok", seen
    out = seen["outputs"]
    assert out["texts"] == out["again"], "the printed IR does not parse back to itself"
    assert out["kernels"], "no kernel was made, so that nothing is shown"
    if word not in ("__class__", "lambda", "p, tile, ntiles"):  # what kernels hold by themselves
        plain = worker.ask(verb="inspect", path=str(neutral(tmp_path)))["outputs"]["kernels"]
        assert sorted(out["kernels"]) == sorted(plain), "a kernel's text depends on names"


def neutral(folder):
    path = folder / "neutral.onnx"
    path.write_bytes(named("plain").SerializeToString())
    return path


@pytest.mark.parametrize("word", [pytest.param(w, id=k) for k, w in WORDS.items()])
def test_a_terminal_is_not_obeyed(worker, tmp_path, word):
    m = named(word)
    m.graph.node[1].op_type = word  # an unknown operator: its name is shown
    path = tmp_path / "model.onnx"
    path.write_bytes(m.SerializeToString())
    answer = worker.ask(verb="check", path=str(path))
    assert answer["status"] == "ok", answer
    (code, text), (json_code, as_json) = answer["outputs"]["text"], answer["outputs"]["json"]
    assert code == json_code == 1
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not json.loads(as_json)["ok"]


@pytest.mark.parametrize("word", [pytest.param(w, id=k) for k, w in WORDS.items()])
def test_attribute_strings(worker, tmp_path, word):
    cases = [node("Einsum", ["x", "x"], ["y"], equation=word), node("Conv", ["x", "x"], ["y"], auto_pad=word), node("Pad", ["x", "p"], ["y"], mode=word),
             node("Gelu", ["x"], ["y"], approximate=word), node("ScatterND", ["x", "p", "x"], ["y"], reduction=word),
             node("Relu", ["x"], ["y"], domain=word), node("StringConcat", ["s", "s"], ["y"])]  # fmt: skip
    for n in cases:
        m = model([n], {"x": X}, ["y"], {"p": np.zeros(4, np.int64), "s": np.array([word], object)})
        path = tmp_path / "model.onnx"
        path.write_bytes(m.SerializeToString())
        answer = worker.ask(verb="run", path=str(path), inputs={"x": X})
        if n.op_type == "StringConcat":
            assert answer["status"] == "ok", answer
            assert answer["outputs"]["y"].tolist() == [word * 2]
        else:
            assert answer["status"] == "error", answer
            assert answer["typed"], answer
