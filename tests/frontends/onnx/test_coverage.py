"""What `check` lists."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from graphmill.frontends.onnx.coverage import check
from graphmill.ir.errors import HostileModelError
from onnx.parser import parse_model


def model(body: str):
    return parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{body}')


def test_rows_by_operator_and_state():
    m = model("g (float[2, 2] x) => (float[2, 2] y, float d) { t = Relu(x)  y = Relu(t)  d = Det(y) }")
    m.graph.node[2].name = "/det"
    report = check(m)
    assert report.ok and not report.problems
    assert [(r.op.rpartition(".")[2].lower(), r.state, r.count, r.nodes) for r in report.rows] == [
        ("det", "reference", 1, ["/det"]), ("relu", "native", 2, ["%t", "%y"])]  # fmt: skip
    assert report.counts() == {"native": 2, "reference": 1, "unsupported": 0}


def test_problems_are_listed_and_not_raised():
    report = check(model("g (float[2] x) => (float[2] y) { t = Nothing(x)  y = Relu(t) }"))
    assert not report.ok and report.rows[0].state == "unsupported" and report.rows[0].op == "Nothing"
    assert [p.op for p in report.problems] == ["Nothing"] and report.rows[1].op == "relu"
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["ok"] is False and plain["problems"][0]["opset"] == 20 and plain["counts"]["unsupported"] == 1


def test_a_target_s_answer_is_used():
    report = check(
        model("g (float[2] x) => (float[2] y) { y = Relu(x) }"), lambda node: ("unsupported", f"no {node.op.name} today")
    )
    assert not report.ok and str(report.rows[0]) == "relu: 1 unsupported (no relu today)"


def test_nodes_of_regions_count():
    report = check(
        model("""g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = a () => (float[2] r) { r = Relu(x) }, else_branch = b () => (float[2] s) { s = Relu(x) }>
    }""")
    )
    assert next(r.count for r in report.rows if r.op == "relu") == 2


def test_unreadable_files_raise():
    with pytest.raises(HostileModelError):
        check(b"garbage")


def test_llvmlite_is_not_imported():
    code = "import graphmill.frontends.onnx.coverage, sys; sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
