"""The roofline's command on small models: what kernels have to do, that each is timed, and that the pictures are whole."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import graphmill as gm
import numpy as np
import onnx.parser
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bench_models
import export
import peaks
import profile_rows
import roofline
import svg

NET = """<ir_version: 8, opset_import: ["" : 17]> net (float[n,8,10,10] x) => (float[n,6] y)
    <float[16,8,3,3] k, float[400,6] w, float[6] b> {
        c = Conv<pads=[1,1,1,1]>(x, k) r = Relu(c) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        f = Flatten(p) m = MatMul(f, w) a = Add(m, b) y = Softmax(a) }"""


def net() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NET)
    r = np.random.default_rng(0)
    del model.graph.initializer[:]
    for name, shape in (("k", (16, 8, 3, 3)), ("w", (400, 6)), ("b", (6,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(r.standard_normal(shape).astype("f4"), name))
    return model


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    onnx.save(net(), tmp_path / "net.onnx")
    about = {"inputs": [["x", "FLOAT", ["n", 8, 10, 10]]], "feed": {"x": {"kind": "float", "shape": [2, 8, 10, 10]}}, "ops": {}}
    export.add(tmp_path, {"name": "net", "file": "net.onnx", "mb": 0, **about})
    return tmp_path


def test_every_kernel_is_timed() -> None:
    exe = gm.compile(net(), shapes={"n": 2}, threads=1)
    x = np.ones((2, 8, 10, 10), "f4")
    want = exe.run({"x": x})["y"]
    rows = profile_rows.profile(exe, {"x": x})
    steps = [s for s in exe.plan.steps if hasattr(s, "source")]
    assert [r.what for r in rows] == [profile_rows.words(s.node) for s in steps] and all(r.seconds > 0 for r in rows)
    work = {r.what: r.flops for r in rows}
    assert work["conv + relu"] == 2 * (2 * 16 * 100) * 72 + 2 * 16 * 100
    assert work["matmul + add"] == 2 * 2 * 400 * 6 + 12 and work["max_pool"] == 2 * 16 * 25 * 4
    assert next(r.nbytes for r in rows if r.what == "matmul + add") == 4 * (2 * 400 + 400 * 6 + 6 + 12)
    np.testing.assert_array_equal(exe.run({"x": x})["y"], want)  # and runs are as before


def test_symbolic_sizes_are_told() -> None:
    with pytest.raises(ValueError, match="fix the sizes with compile"):
        profile_rows.profile(gm.compile(net(), threads=1), {"x": np.ones((2, 8, 10, 10), "f4")})


@pytest.mark.slow
def test_peaks() -> None:
    found = peaks.measure()
    assert set(found) == {"fma", "memory", "cache", "triad"} and all(0 < v < 1e5 for v in found.values())


def test_the_page(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "measure", lambda: {"fma": 100.0, "memory": 20.0, "cache": 80.0, "triad": 25.0})
    page, picture, data = (exports / f"page.{e}" for e in ("md", "svg", "json"))
    wanted = ["--folder", str(exports), "--markdown", str(page), "--plot", str(picture), "--json", str(data), "net"]
    assert roofline.main(wanted) == 0
    assert "## net" in page.read_text() and "](page.svg)" in page.read_text() and "| all (" in page.read_text()
    assert json.loads(data.read_text())["peaks"]["fma"] == 100
    texts = ["".join(t.itertext()) for t in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"GFLOP/s", "kernel", "convolution", "product", "net", "20 GB/s: read from memory"} <= set(texts)
    with pytest.raises(SystemExit, match="has no unet"):
        roofline.main(["--folder", str(exports), "unet"])


def test_points_lie_where_they_belong() -> None:
    marks = [svg.Point(1, 10, "f", "g", 1, "left & below"), svg.Point(100, 100, "f", "g", 0.1, "right <above>")]
    root = ET.fromstring(svg.roofline(marks, 100, {"slope": 10}, "title", "x", "y"))
    first, second = list(root.iter("{http://www.w3.org/2000/svg}circle"))[:2]
    x, y, r = (([float(c.get(k)) for c in (first, second)]) for k in ("cx", "cy", "r"))
    assert x[0] < x[1] and y[0] > y[1] and r[0] > r[1]


def test_bars(tmp_path: Path) -> None:
    results = [
        {"model": m, "threads": 1, "ratios": {"onnxruntime": {"cpu": [0, v, 9], "wall": [0, 7, 9]}}}
        for m, v in (("a", 2), ("b", 0.5))
    ]
    data, out = tmp_path / "speed.json", tmp_path / "speed.svg"
    data.write_text(json.dumps({"results": results}))
    assert bench_models.main(["plot", str(data), str(out)]) == 0
    root = ET.parse(out).getroot()
    tips = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "a: 2.00 onnxruntime, 1 thread" in tips and "b: 0.50 onnxruntime, 1 thread" in tips
    heights = [float(r.get("height")) for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("width") == "13"]
    assert heights[0] == pytest.approx(heights[1], rel=1e-2)  # twice as fast and half as fast
