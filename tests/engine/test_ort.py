"""graphmill.ort beside onnxruntime: one script over both, and packages that import onnxruntime, unchanged, after ort.install()."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphmill as gm
import numpy as np
import onnx
import pytest
from graphmill import ort
from onnx import TensorProto as T
from onnx import helper

real = pytest.importorskip("onnxruntime")
BOTH = {"onnxruntime": real, "graphmill": ort}
pytestmark = pytest.mark.filterwarnings("ignore:Specified provider")


def model(body: str, head: str = "") -> bytes:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]{head}> g {body}').SerializeToString()


ADD = model("""(float[N,3] x, float[N,?] y, int64 k) => (float[N,3] z, float u) <float[3] w = {1.0, 2.0, 3.0}>
            { z = Add(x, w) u = ReduceSum<keepdims = 0>(y) q = Identity(k) }""",
            ', producer_name: "me", domain: "d", model_version: 7, doc_string: "hello", metadata_props: ["a": "b"]')  # fmt: skip
x, y, k = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), np.array(3)
FEED = {"x": x, "y": y, "k": k}


def typed() -> bytes:
    tensor, value = helper.make_tensor_value_info, helper.make_value_info
    inputs = [helper.make_tensor_sequence_value_info("seq", T.FLOAT, ["N"]), tensor("text", T.STRING, [None]), tensor("half", T.FLOAT16, None),
              value("opt", helper.make_optional_type_proto(helper.make_tensor_type_proto(T.FLOAT, [2]))), tensor("b", T.BFLOAT16, [1]),
              tensor("f8", T.FLOAT8E4M3FN, [1]), tensor("i4", T.INT4, [1]), tensor("flag", T.BOOL, []), tensor("u8", T.UINT8, ["a", 2])]  # fmt: skip
    nodes = [
        helper.make_node(*n)
        for n in (("SequenceLength", ["seq"], ["n"]), ("Identity", ["text"], ["t"]), ("OptionalHasElement", ["opt"], ["h"]))
    ]
    outputs = [tensor("n", T.INT64, []), tensor("t", T.STRING, [None]), tensor("h", T.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def both(script: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What a script gives over both modules; for an exception its name, and the names of the Python classes that it is."""

    def outcome(module: Any) -> Any:
        try:
            return script(module)
        except Exception as e:
            return type(e).__name__

    real.set_default_logger_severity(4)
    return outcome(real), outcome(ort)


def equal(a: Any, b: Any) -> None:
    np.testing.assert_equal(b, a)


# ---- the same names ---------------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    modules_it_uses = {"contextlib"}
    assert {n for n in dir(real) if not n.startswith("_")} - modules_it_uses - set(dir(ort)) == set()
    for name in ("InferenceSession", "SessionOptions", "RunOptions", "IOBinding", "OrtValue", "OrtDevice"):
        theirs = {n for n in dir(getattr(real, name)) if not n.startswith("_")}
        assert theirs - set(dir(getattr(ort, name))) == set(), name
    state = real.capi.onnxruntime_pybind11_state
    errors = [n for n in dir(state) if isinstance(getattr(state, n), type) and issubclass(getattr(state, n), Exception)]
    assert len(errors) >= 12
    for name in errors:
        assert issubclass(getattr(ort.capi.onnxruntime_pybind11_state, name), gm.errors.GraphmillError), name


@pytest.mark.parametrize("name", ["GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder", "OrtAllocatorType", "OrtSparseFormat", "OrtDeviceMemoryType",
                                  "OrtMemoryInfoDeviceType", "OrtHardwareDeviceType", "OrtCompileApiFlags", "OrtExecutionProviderDevicePolicy",
                                  "OrtDeviceVendorId"])  # fmt: skip
def test_enumerations_have_the_same_numbers(name: str) -> None:
    a, b = both(lambda m: {e.name: int(e) for e in getattr(m, name).__members__.values()})
    assert a == b


def test_what_is_refused_says_what_to_do() -> None:
    for use in (
        lambda: ort.SparseTensor.sparse_coo_from_numpy(np.array([2]), x, x, None),
        lambda: ort.LoraAdapter(),
        lambda: ort.ModelCompiler(None, "m.onnx"),
        lambda: ort.set_seed(1),
        lambda: ort.SessionOptions().register_custom_ops_library("ops.so"),
        lambda: ort.RunOptions().add_active_adapter(None),
        lambda: ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0),
    ):
        with pytest.raises(gm.errors.UnsupportedError, match=r"NOT_IMPLEMENTED : .*[;:] (use|make|merge|give|write|graphmill)"):
            use()


# ---- what a session tells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [ADD, typed(), model("(float[A,B] x) => (z) { z = Relu(x) }")])
def test_inputs_and_outputs_print_the_same(source: bytes) -> None:
    def script(m: Any) -> Any:
        s = m.InferenceSession(source, providers=["CPUExecutionProvider"])
        return [(a.name, a.type, a.shape, str(a)) for a in s.get_inputs()], [(a.name, a.type) for a in s.get_outputs()]

    a, b = both(script)
    assert a == b


def test_outputs_without_a_declared_shape_have_the_inferred_one() -> None:
    a, b = both(lambda m: m.InferenceSession(model("(float[2,3] x) => (z) { z = Transpose(x) }")).get_outputs()[0].shape)
    assert a == b == [3, 2]


def test_metadata_and_providers() -> None:
    def script(m: Any) -> Any:
        s = m.InferenceSession(ADD, providers=["CPUExecutionProvider"])
        meta = s.get_modelmeta()
        told = {
            n: getattr(meta, n) for n in ("producer_name", "graph_name", "domain", "description", "graph_description", "version")
        }
        return (
            told,
            meta.custom_metadata_map,
            s.get_providers(),
            s.get_provider_options(),
            s.get_profiling_start_time_ns(),
            s.end_profiling(),
        )

    a, b = both(script)
    assert a == b
    assert both(lambda m: (m.get_device(), m.get_all_providers(), m.__version__))[1][0] == "CPU"


def test_options_have_the_same_fields_and_defaults() -> None:
    for name in ("SessionOptions", "RunOptions"):
        a, b = both(lambda m, name=name: {n: str(v) if "<" in repr(v) else v for n in dir(getattr(m, name)())
                                          if not n.startswith("_") and not callable(v := getattr(getattr(m, name)(), n)) and isinstance(v, (int, str, bool))
                                          and "<" not in repr(v)})  # fmt: skip
        assert a == b and a, name


@pytest.mark.parametrize("change", [
    lambda o: setattr(o, "intra_op_num_threads", "x"), lambda o: setattr(o, "graph_optimization_level", 99), lambda o: setattr(o, "nothing", 1),
    lambda o: o.get_session_config_entry("nothing"), lambda o: o.add_session_config_entry("a", 1), lambda o: setattr(o, "logid", "me"),
    lambda o: (o.add_session_config_entry("a", "b"), o.get_session_config_entry("a"))[1], lambda o: setattr(o, "intra_op_num_threads", -1),
])  # fmt: skip
def test_options_take_and_refuse_the_same(change: Callable) -> None:
    a, b = both(lambda m: change(m.SessionOptions()))
    assert a == b


def test_threads_dims_and_the_optimised_model(tmp_path: Path) -> None:
    def script(m: Any) -> Any:
        o = m.SessionOptions()
        o.intra_op_num_threads = 1
        o.graph_optimization_level = m.GraphOptimizationLevel.ORT_ENABLE_BASIC
        o.add_free_dimension_override_by_name("N", 2)
        o.add_free_dimension_override_by_name("unknown", 5)
        o.optimized_model_filepath = str(tmp_path / f"{m.__name__}.onnx")
        s = m.InferenceSession(ADD, o)
        again = real.InferenceSession(o.optimized_model_filepath)
        return (
            [i.shape for i in s.get_inputs()],
            s.run(["z"], FEED),
            again.run(["z"], FEED),
            s.get_session_options().intra_op_num_threads,
        )

    a, b = both(script)
    equal(a, b)
    o = ort.SessionOptions()
    o.intra_op_num_threads = 1
    assert ort.InferenceSession(ADD, o)._exe.threads == 1


def test_limits_by_config_entries() -> None:
    o = ort.SessionOptions()
    o.add_session_config_entry("graphmill.limits.seconds", "none")
    o.add_session_config_entry("graphmill.limits.nodes", "9")
    assert o.limits().seconds is None and o.limits().nodes == 9
    with pytest.raises(ValueError, match="there is no limit 'second'"):
        o.add_session_config_entry("graphmill.limits.second", "1")


def test_initializers_from_outside() -> None:
    def script(m: Any) -> Any:
        o = m.SessionOptions()
        value = m.OrtValue.ortvalue_from_numpy(np.float32([10, 20, 30]))
        o.add_initializer("w", value)
        return m.InferenceSession(ADD, o).run(["z"], FEED)[0]

    ours = script(ort)
    np.testing.assert_array_equal(ours, x + np.float32([10, 20, 30]))


def test_an_initializer_that_is_an_input_is_a_constant() -> None:
    source = model("(float[N] x, float b) => (float[N] z) <float b = {1.0}> { z = Add(x, b) }")
    s = ort.InferenceSession(source)
    assert [i.name for i in s.get_inputs()] == ["x"] and s.get_overridable_initializers() == []
    np.testing.assert_array_equal(s.run(None, {"x": x[0]})[0], x[0] + 1)
    with pytest.raises(gm.errors.InputError, match="its initializer is a constant here"):
        s.run(None, {"x": x[0], "b": np.float32(2)})


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [
    "/nonexistent/m.onnx", b"garbage", b"", 3, ADD[:100],
    model("(float[N] x) => (float[N] z) { z = Nope(x) }"),
    onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18, "foo" : 1]> g (float[N] x) => (float[N] z) { z = foo.Nope(x) }').SerializeToString(),
    model("(float[2] x, float[3] y) => (float[N] z) { z = Add(x, y) }"),
    model("(float[2] x) => (float[N] z) { z = Add(x, nope) }"),
    model("(float[2] x, int64[2] y) => (float[N] z) { z = Add(x, y) }"),
    onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 99]> g (float[2] x) => (float[N] z) { z = Relu(x) }').SerializeToString(),
])  # fmt: skip
def test_what_cannot_be_loaded_raises_the_same(source: Any) -> None:
    a, b = both(lambda m: m.InferenceSession(source))
    assert a == b and isinstance(a, str)


def test_files_that_cannot_be_loaded_raise_the_same(tmp_path: Path) -> None:
    for name, contents in {"bad.onnx": b"garbage", "empty.onnx": b""}.items():
        (tmp_path / name).write_bytes(contents)
        a, b = both(lambda m, name=name: m.InferenceSession(str(tmp_path / name)))
        assert a == b and isinstance(a, str), name


@pytest.fixture(scope="module")
def sessions() -> tuple[Any, Any]:
    return real.InferenceSession(ADD), ort.InferenceSession(ADD)


@pytest.mark.parametrize("names,feed", [
    (None, {"x": x}), (None, {**FEED, "q": x}), (None, {"xx": x, "y": y, "k": k}), (None, {**FEED, "x": x[0]}), (None, {**FEED, "x": np.ones((2, 4), np.float32)}),
    (None, {**FEED, "x": x.astype("f8")}), (None, {**FEED, "k": np.array(3, np.int32)}), (["nope"], FEED), ("u", FEED), (None, [x, y, k]), (None, {**FEED, "w": x[0]}),
    (None, {**FEED, "y": y[0]}),
])  # fmt: skip
def test_wrong_runs_raise_the_same(sessions: tuple[Any, Any], names: Any, feed: Any) -> None:
    def outcome(s: Any) -> str:
        with pytest.raises(Exception) as e:
            s.run(names, feed)
        return e.type.__name__

    assert outcome(sessions[0]) == outcome(sessions[1])


@pytest.mark.parametrize("names", [None, [], ["u"], ("u", "z"), ["u", "u"]])
@pytest.mark.parametrize(
    "given",
    [x, x.tolist(), np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), "value"],
    ids=["array", "list", "F", "OrtValue"],
)
def test_runs_give_the_same(sessions: tuple[Any, Any], names: Any, given: Any) -> None:
    out = []
    for m, s in zip((real, ort), sessions):
        out.append(s.run(names, {**FEED, "x": m.OrtValue.ortvalue_from_numpy(x) if isinstance(given, str) else given}))
    equal(*out)


def test_lists_of_floats_do_not_become_integers(sessions: tuple[Any, Any]) -> None:
    s = ort.InferenceSession(model("(int64[N] x) => (int64[N] z) { z = Neg(x) }"))
    np.testing.assert_array_equal(s.run(None, {"x": [1, 2]})[0], [-1, -2])
    with pytest.raises(gm.errors.InputError, match="element type float64, expected int64"):
        s.run(None, {"x": [1.5, 2.0]})


def test_strings_sequences_and_maps() -> None:
    source = model("(string[N] t, float[M] a) => (string[N] u, seq(float[M]) s) { u = Identity(t) s = SequenceConstruct(a, a) }")
    equal(*both(lambda m: [np.asarray(v, dtype=object if i == 0 else None).tolist() for i, v in
                           enumerate(m.InferenceSession(source).run(None, {"t": np.array(["a", "ü"]), "a": x[0]}))]))  # fmt: skip


# ---- stopping, threads ------------------------------------------------------------------------------------------


def test_terminate_before_and_during_a_run() -> None:
    o = ort.RunOptions()
    o.terminate = True
    fail = ort.capi.onnxruntime_pybind11_state.Fail
    with pytest.raises(fail, match="terminate flag"):
        ort.InferenceSession(ADD).run(None, FEED, o)
    source = model("""(int64 n, float[256,256] a) => (float[256,256] z) { t = Constant<value = bool {1}>() z = Loop(n, t, a)
        <body = b (int64 i, bool c, float[256,256] p) => (bool d, float[256,256] q) { d = Identity(c) q = MatMul(p, a) }> }""")
    entries = ort.SessionOptions()
    for name in ("loop_iterations", "seconds"):
        entries.add_session_config_entry(f"graphmill.limits.{name}", "none")
    s = ort.InferenceSession(source, entries)
    o = ort.RunOptions()
    threading.Timer(0.3, lambda: setattr(o, "terminate", True)).start()
    with pytest.raises(fail, match="terminate flag"):
        s.run(None, {"n": np.array(10**9), "a": np.eye(256, dtype=np.float32)}, o)
    o.terminate = False
    np.testing.assert_array_equal(
        s.run(None, {"n": np.array(2), "a": np.eye(256, dtype=np.float32)}, o)[0], np.eye(256, dtype=np.float32)
    )


def test_run_async(sessions: tuple[Any, Any]) -> None:
    for feed in (FEED, {**FEED, "x": x[0]}):
        told = []
        for s in sessions:
            done, got = threading.Event(), []
            s.run_async(["z"], feed, lambda r, u, e, got=got, done=done: (got.append((r, u, bool(e))), done.set()), "mine")
            assert done.wait(30)
            told.append(got)
        equal(*told)


# ---- OrtValue and IOBinding -------------------------------------------------------------------------------------


def test_ort_values() -> None:
    def script(m: Any) -> Any:
        a = x.copy()
        v = m.OrtValue.ortvalue_from_numpy(a)
        v.update_inplace(a * 2)
        told = [getattr(v, n)() for n in ("device_name", "shape", "data_type", "element_type", "tensor_size_in_bytes", "has_value", "is_tensor",
                                          "is_sparse_tensor", "is_tensor_sequence", "__dlpack_device__")]  # fmt: skip
        shared = v.data_ptr() == a.ctypes.data and np.shares_memory(v.numpy(), a)
        half = m.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ones(3, np.uint16), T.BFLOAT16).data_type()
        made = [m.OrtValue.ortvalue_from_shape_and_type([2, 3], t).numpy().dtype.name for t in (np.float32, T.INT8)]
        return told, shared, half, made, a, np.asarray(v), np.from_dlpack(v), m.OrtValue.from_dlpack(a).numpy()

    equal(*both(script))


@pytest.mark.parametrize("wrong", [
    lambda m: m.OrtValue.ortvalue_from_numpy([1]), lambda m: m.OrtValue.ortvalue_from_numpy(np.array(["a"])), lambda m: m.OrtValue.ortvalue_from_numpy(x, "foo", 0),
    lambda m: m.OrtValue.ortvalue_from_numpy(x).update_inplace(x[:1]), lambda m: m.OrtValue.ortvalue_from_numpy(x).update_inplace([1]), lambda m: m.OrtDevice.make("foo", 0),
    lambda m: m.set_default_logger_severity(9), lambda m: m.InferenceSession(ADD).io_binding().bind_cpu_input("nope", x),
    lambda m: m.InferenceSession(ADD, providers=[3], enable_fallback=0), lambda m: m.InferenceSession(ADD).set_providers([("a", 3)]),
    lambda m: m.InferenceSession(ADD, providers=["CPUExecutionProvider"], provider_options=[{}, {}], enable_fallback=0),
])  # fmt: skip
def test_wrong_values_raise_the_same(wrong: Callable) -> None:
    a, b = both(wrong)
    assert a == b and isinstance(a, str)


@pytest.mark.filterwarnings("ignore:'providers' values")
def test_the_fallback_serves_wrong_providers() -> None:
    for providers in (["CUDAExecutionProvider"], ["Nope"], [3]):
        a, b = both(lambda m, p=providers: m.InferenceSession(ADD, providers=p).get_providers())
        assert a == b == ["CPUExecutionProvider"]
    with pytest.raises(RuntimeError, match="Unknown Provider Type: Nope"):
        ort.InferenceSession(ADD, providers=["Nope"], enable_fallback=0)


def test_iobinding() -> None:
    def script(m: Any) -> Any:
        s = m.InferenceSession(ADD)
        b = s.io_binding()
        given, place = x.copy(), np.zeros((2, 3), np.float32)
        b.bind_input("x", "cpu", 0, np.float32, [2, 3], given.ctypes.data)
        b.bind_cpu_input("y", y)
        b.bind_ortvalue_input("k", m.OrtValue.ortvalue_from_numpy(k))
        b.bind_output("u")
        b.bind_output("z", "cpu", 0, np.float32, (2, 3), place.ctypes.data)
        s.run_with_iobinding(b)
        first = place.copy(), [o.numpy().copy() for o in b.get_outputs()], b.copy_outputs_to_cpu()
        given[:] = 5  # in place: the next run reads it
        s.run_with_iobinding(b)
        b.clear_binding_outputs()
        value = m.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
        b.bind_ortvalue_output("z", value)
        b.synchronize_inputs()
        s.run_with_iobinding(b, m.RunOptions())
        b.synchronize_outputs()
        return first, place, value.numpy()

    equal(*both(script))


@pytest.mark.parametrize("bind", [lambda b: None, lambda b: b.bind_output("z"),
                                  lambda b: (b.bind_cpu_input("y", y), b.bind_cpu_input("k", k),
                                             b.bind_output("z", "cpu", 0, np.float32, (1, 3), np.zeros((1, 3), np.float32).ctypes.data))])  # fmt: skip
def test_iobinding_that_does_not_fit(bind: Callable) -> None:
    def script(m: Any) -> None:
        s = m.InferenceSession(ADD)
        b = s.io_binding()
        b.bind_cpu_input("x", x)
        bind(b)
        s.run_with_iobinding(b)

    assert both(script) == ("RuntimeError", "RuntimeError")


def test_bound_outputs_are_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    s = ort.InferenceSession(ADD)
    place = np.zeros((2, 3), np.float32)
    want = s.run(["z", "u"], FEED)
    value = ort.OrtValue.ortvalue_from_shape_and_type(want[1].shape, want[1].dtype)
    b = s.io_binding()
    for name, a in FEED.items():
        b.bind_cpu_input(name, a)
    b.bind_output("z", "cpu", 0, np.float32, (2, 3), place.ctypes.data)
    b.bind_ortvalue_output("u", value)
    s.run_with_iobinding(b)
    monkeypatch.setattr(np, "copyto", lambda *a: pytest.fail("copied"))
    place[:] = 0
    s.run_with_iobinding(b, ort.RunOptions())
    np.testing.assert_array_equal(place, want[0])
    np.testing.assert_array_equal(value.numpy(), want[1])
    assert b.get_outputs()[1] is value


def test_bound_memory_that_overlaps_an_input() -> None:
    s = ort.InferenceSession(
        model("(float[N] x) => (float[N] y) { y = CumSum(x, axis) }".replace("{", "{ axis = Constant<value_int = 0>()"))
    )
    whole = np.arange(8, dtype=np.float32)
    b = s.io_binding()
    b.bind_input("x", "cpu", 0, np.float32, [6], whole.ctypes.data)
    b.bind_output("y", "cpu", 0, np.float32, [6], whole[2:].ctypes.data)
    want = np.cumsum(whole[:6])
    s.run_with_iobinding(b)
    np.testing.assert_array_equal(whole[2:], want)


def test_bfloat16_by_dlpack() -> None:
    import ml_dtypes

    a = np.array([1, 2], ml_dtypes.bfloat16)
    v = ort.OrtValue.from_dlpack(gm.as_dlpack(a))
    assert v.data_type() == "tensor(bfloat16)" and v.data_ptr() == a.ctypes.data
    assert ort.OrtValue.from_dlpack(v).numpy().tolist() == [1, 2]
    s = ort.InferenceSession(model("(bfloat16[N] x) => (bfloat16[N] y) { y = Neg(x) }"))
    assert s.run(None, {"x": gm.as_dlpack(a)})[0].tolist() == [-1, -2]


def test_an_ortvalue_of_a_read_only_array() -> None:
    a = x.copy()
    a.flags.writeable = False
    v = ort.OrtValue.ortvalue_from_numpy(a)
    with pytest.raises(RuntimeError, match="read-only"):
        v.update_inplace(x)


def test_run_with_ort_values() -> None:
    def script(m: Any) -> Any:
        return [
            v.numpy()
            for v in m.InferenceSession(ADD).run_with_ort_values(
                ["z"], {n: m.OrtValue.ortvalue_from_numpy(a) for n, a in FEED.items()}
            )
        ]

    equal(*both(script))


def test_profiling_writes_a_trace(tmp_path: Path) -> None:
    o = ort.SessionOptions()
    o.enable_profiling, o.profile_file_prefix = True, str(tmp_path / "trace")
    s = ort.InferenceSession(ADD, o)
    s.run(None, FEED)
    assert s.get_profiling_start_time_ns() > 0
    events = json.loads(Path(s.end_profiling()).read_text())
    assert [e["name"] for e in events] == ["model_loading", "model_run"]


# ---- in the place of onnxruntime --------------------------------------------------------------------------------


def python(code: str, *, installed: bool) -> str:
    """What a new process prints that runs `code`, on graphmill or on onnxruntime."""
    head = "from graphmill import ort; ort.install()\n" if installed else ""
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", head + code], capture_output=True, text=True, timeout=500, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_install_and_uninstall() -> None:
    out = python("""
import importlib.util, onnxruntime, onnxruntime as rt
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, NoSuchFile
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi.onnxruntime_inference_collection import OrtValue
assert importlib.util.find_spec("onnxruntime").name == "onnxruntime" and importlib.util.find_spec("onnxruntime.capi") is not None
assert rt.InferenceSession is ort.InferenceSession and C.SessionOptions is ort.SessionOptions and "graphmill" in rt.get_build_info()
try: rt.InferenceSession("/nonexistent.onnx")
except NoSuchFile as e: print("NO_SUCHFILE" in str(e))
try: import onnxruntime.quantization
except ModuleNotFoundError as e: print(e.name)
ort.install(); ort.uninstall(); ort.uninstall()
import onnxruntime
print("graphmill" in onnxruntime.get_build_info())
""", installed=True)  # fmt: skip
    assert out.split() == ["True", "onnxruntime.quantization", "False"]


READ = """
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR
image = Image.new("RGB", (640, 220), "white")
for i, text in enumerate(["Invoice 2024-117", "Total: 1,284.50 EUR", "Thank you for reading"]):
    ImageDraw.Draw(image).text((20, 20 + 65 * i), text, fill="black", font=ImageFont.load_default(36))
for box, text, score in RapidOCR()(np.asarray(image))[0]:
    print(text, np.round(box, 1).tolist(), round(float(score), 2))
"""
LABEL = """
from magika import Magika
m = Magika()
for c in [b"import os\\ndef f(x):\\n    return x + 1\\nprint(os.getcwd())\\n" * 3, b'{"a": [1, 2, 3], "b": {"c": null}}', b"#include <stdio.h>\\nint main(void) { return 0; }\\n",
          b"<html><body><p>x</p></body></html>", b"\\x89PNG\\r\\n\\x1a\\n" + bytes(200), b"SELECT a, b FROM t WHERE a > 3 ORDER BY b;\\n" * 3]:
    print(m.identify_bytes(c).output.label)
"""


@pytest.mark.models
@pytest.mark.parametrize("package,code,expected", [("rapidocr_onnxruntime", READ, "Total: 1,284.50 EUR"), ("magika", LABEL, "sql")])
def test_packages_work_unchanged(package: str, code: str, expected: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install {package})")
    ours = python(code, installed=True)
    assert expected in ours and ours == python(code, installed=False)
