"""Checks an operator's `examples`: its inference and its numpy reference, against onnx.reference and ONNX Runtime.

    from op_harness import check_example, example_params

`check_example(name, index)` runs one example:
- `infer` on concrete types, on symbolic dims and on unknown ranks, each with and without known contents, must agree with the
  dtypes and shapes that the reference returns;
- `dims`, where the operator has it, must agree with the reference's contents;
- a model of that one node, made by inverting the operator's `Onnx` record, must be valid ONNX and give the same results in
  onnx.reference and in ONNX Runtime, wherever these support it.

Where a peer is known to be wrong, or the specification leaves a case open, a file `differences_<family>.py` beside this one holds
    DIFFERENCES = {("reference" | "ort", op name, example index or None for all): "the reason"}
An entry that names one example fails when the peer agrees after all, so that the tables do not go stale.
"""

from __future__ import annotations

import importlib
import pkgutil
import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import graphmill.ir.ops
import numpy as np
import onnx
import onnxruntime
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.interp import run
from graphmill.ir.op import OPS, Example, InferContext, Onnx, OnnxCall, OpDef
from graphmill.ir.symbols import evaluate, symbol, symbols_of
from graphmill.ir.types import ONNX_DTYPES, STR, DType, SequenceType, TensorType, Type, dtype_of, type_of
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

NEWEST = 28
ORT_OPSET = 23  # the newest that the ONNX Runtime of the test environment surely implements
_CODES = {d: code for code, d in ONNX_DTYPES.items()}
_TOLERANCE = {"f64": (1e-11, 1e-13), "f32": (2e-5, 1e-6), "f16": (4e-3, 1e-4), "bf16": (2e-2, 1e-3), "c64": (2e-5, 1e-6),
              "c128": (1e-11, 1e-13)}  # fmt: skip
_ORT_DIRECT = {"f64", "f32", "f16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool", "str"}


def load_all() -> None:
    """Registers every operator: imports all families."""
    for m in pkgutil.iter_modules(graphmill.ir.ops.__path__):
        importlib.import_module(f"graphmill.ir.ops.{m.name}")


def differences() -> dict[tuple[str, str, int | None], str]:
    out: dict = {}
    for path in sorted(Path(__file__).parent.glob("differences_*.py")):
        out |= runpy.run_path(str(path))["DIFFERENCES"]
    return out


DIFFERENCES = differences()


def examples_of(d: OpDef) -> list[Example]:
    return list(d.examples()) if d.examples else []


def example_params(families: set[str] | None = None) -> list:
    """(operator name, index of its example) for pytest.mark.parametrize; `families` bounds it to files of ir/ops."""
    ops = [OPS[n] for n in OPS if families is None or OPS[n].family in families]
    return [pytest.param(d.name, i, id=f"{d.name}-{i}") for d in ops for i in range(len(examples_of(d)))]


def run_reference(d: OpDef, e: Example) -> list[Any]:
    """The results of the operator's own reference on an example, as run-time values."""
    attrs = {k: a.default for k, a in d.attrs.items()} | dict(e.attrs)
    with np.errstate(all="ignore"):
        out = d.reference(*e.operands, **attrs)
    results = list(out) if isinstance(out, tuple) else [out]
    return [r if isinstance(r, (list, dict, type(None))) else np.asarray(r) for r in results[: e.results]]


def check_example(name: str, index: int) -> None:
    """All checks of one example (see the module's text)."""
    d = OPS[name]
    e = examples_of(d)[index]
    results = run_reference(d, e)
    assert len(results) == e.results, f"the reference returned {len(results)} results, the example asks for {e.results}"
    check_infer(d, e, results)
    check_peers(d, e, index, results)


def check_examples(name: str) -> None:
    """`check_example` on every example of an operator."""
    for i in range(len(examples_of(OPS[name]))):
        check_example(name, i)


# ---- inference --------------------------------------------------------------------------------------------------


def _symbolic(t: Type | None, values: dict[str, int]) -> Type | None:
    """The type with every dim above 1 as a symbol; equal sizes share one, `values` takes what it stands for."""
    if not isinstance(t, TensorType) or t.shape is None:
        return t
    dims = []
    for size in t.shape:
        if size > 1:
            values[f"n{size}"] = size
        dims.append(symbol(f"n{size}") if size > 1 else size)
    return t.with_(shape=tuple(dims))


def _unranked(t: Type | None) -> Type | None:
    return t.with_(shape=None) if isinstance(t, TensorType) else t


def check_infer(d: OpDef, e: Example, results: list[Any]) -> None:
    types = [None if x is None else type_of(x) for x in e.operands]
    values: dict[str, int] = {}
    contents = [x if isinstance(x, np.ndarray) else None for x in e.operands]
    for what, ts in (
        ("static", types),
        ("symbolic", [_symbolic(t, values) for t in types]),
        ("unranked", [_unranked(t) for t in types]),
    ):
        for known in (contents, ()):
            _check_types(d, e, f"{what} operands, contents {'known' if known else 'unknown'}", ts, known, results, values)
    if d.dims is not None:
        _check_dims(d, e, types, contents, results)


def _context(d: OpDef, e: Example, types: list, contents: Any) -> InferContext:
    attrs = {k: a.default for k, a in d.attrs.items()} | dict(e.attrs)
    return InferContext(d, types, attrs, e.results, contents)


def _check_types(d: OpDef, e: Example, what: str, types: list, contents: Any, results: list[Any], values: dict[str, int]) -> None:
    out = d.infer(_context(d, e, types, contents))
    inferred = list(out) if isinstance(out, (list, tuple)) else [out]
    assert len(inferred) >= len(results), f"{what}: infer gave {len(inferred)} types for {len(results)} results"
    for i, (t, r) in enumerate(zip(inferred, results)):
        label = f"{what}, result {i}: infer says {t}, the reference returned {type_of(r) if r is not None else None}"
        if isinstance(t, TensorType):
            assert isinstance(r, np.ndarray) and t.dtype is dtype_of(r), label
            if t.shape is None:
                assert not (what.startswith("static") and contents), f"{label}: the rank must be known here"
                continue
            assert len(t.shape) == r.ndim, label
            for dim, size in zip(t.shape, r.shape):
                if all(s.name in values for s in symbols_of(dim)):
                    assert evaluate(dim, values) == size, label
        elif isinstance(t, SequenceType):
            assert isinstance(r, list), label
            for x in r:
                assert not isinstance(t.elem, TensorType) or t.elem.dtype is dtype_of(x), label


def _check_dims(d: OpDef, e: Example, types: list, contents: list, results: list[Any]) -> None:
    """Contents given as objects, as shape arithmetic gives them, must come out as the reference computes them."""
    if not all(isinstance(x, np.ndarray) and x.dtype.kind in "iub" and x.size <= 64 for x in contents if x is not None):
        return
    objects: list[Any] = []
    for x in contents:
        o = None if x is None else np.empty(x.shape, object)
        if o is not None:
            o[...] = x.astype(object)
        objects.append(o)
    got = d.dims(_context(d, e, types, objects))
    if got is None:
        return
    for g, r in zip(got if isinstance(got, (list, tuple)) else [got], results):
        if g is not None:
            assert np.shape(g) == r.shape and all(x is None or x == y for x, y in zip(np.ravel(g).tolist(), r.ravel().tolist())), (
                f"dims says {g}, the reference {r}"
            )


# ---- one-node models --------------------------------------------------------------------------------------------


def onnx_form(d: OpDef) -> Onnx | None:
    """How the default ONNX domain spells the operator; None for one that only other domains have."""
    return next((f for f in d.onnx if f.domain in ("", "ai.onnx.ml")), None)


def export_call(d: OpDef, e: Example, form: Onnx) -> tuple[OnnxCall, dict[str, np.ndarray]]:
    """The example as an ONNX node (`Onnx.rename` and `Onnx.export` undone), and constants that the export added."""
    arrays = {f"i{i}": x for i, x in enumerate(e.operands) if x is not None}
    added: dict[str, np.ndarray] = {}

    def const(array: np.ndarray) -> str:
        added[f"c{len(added)}"] = np.asarray(array)
        return f"c{len(added) - 1}"

    attrs = {k: a.default for k, a in d.attrs.items()} | dict(e.attrs)
    inputs = [f"i{i}" if f"i{i}" in arrays else None for i in range(len(e.operands))]
    call = OnnxCall(form.op_type, form.domain, NEWEST, "node", inputs,
                    {k: v for k, v in attrs.items() if v is not None}, e.results, const, lambda h: {**arrays, **added}.get(h),
                    lambda h: np.ndim({**arrays, **added}[h]), lambda h: dtype_of({**arrays, **added}[h]))  # fmt: skip
    if form.export is not None:
        form.export(call)
    back = {ours: theirs for theirs, ours in form.rename.items()}
    call.attrs = {back.get(k, k): _CODES[v] if isinstance(v, DType) else v for k, v in call.attrs.items()}
    return call, added


def _schema_default(schema: onnx.defs.OpSchema, name: str) -> Any:
    a = schema.attributes[name].default_value
    value = helper.get_attribute_value(a) if a.name else None
    return value.decode() if isinstance(value, bytes) else value


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return np.float32(a) == np.float32(b)
    return not isinstance(a, np.ndarray) and a == b


def _attribute(name: str, value: Any, schema: onnx.defs.OpSchema) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(name, numpy_helper.from_array(value))
    kind = str(schema.attributes[name].type).rsplit(".", 1)[-1] if name in schema.attributes else None
    if kind == "FLOAT":
        value = float(value)
    elif kind == "INT":
        value = int(value)
    elif kind in ("INTS", "FLOATS", "STRINGS"):
        return helper.make_attribute(name, list(value), attr_type=getattr(onnx.AttributeProto, kind))
    return helper.make_attribute(name, value)


def _tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    if array.dtype == object:
        return helper.make_tensor(name, onnx.TensorProto.STRING, array.shape, [str(s).encode() for s in array.ravel()])
    return numpy_helper.from_array(array, name)


def _value_info(name: str, value: Any) -> onnx.ValueInfoProto:
    if isinstance(value, list):
        elem = type_of(value[0]) if value else TensorType(ONNX_DTYPES[1], None)
        return helper.make_tensor_sequence_value_info(name, _CODES[elem.dtype], None)
    return helper.make_tensor_value_info(name, _CODES[dtype_of(value)], np.shape(value))


def make_model(
    call: OnnxCall, values: dict[str, Any], outputs: list[Any], constants: set[str], opset: int, widen: bool
) -> onnx.ModelProto:
    """A model of one node. Names in `constants` become initializers; `widen` casts results that ONNX Runtime cannot hand out."""
    schema = onnx.defs.get_schema(call.op_type, opset, call.domain)
    known = {k for k, v in call.attrs.items() if k in schema.attributes and _same_value(v, _schema_default(schema, k))}
    attrs = [_attribute(k, v, schema) for k, v in call.attrs.items() if k not in known]
    node = onnx.NodeProto(op_type=call.op_type, domain=call.domain, name=call.name)
    node.input.extend(x or "" for x in call.inputs)
    node.attribute.extend(attrs)
    nodes, outs = [node], []
    for i, r in enumerate(outputs):
        node.output.append("" if r is None else f"o{i}")
        if r is None:
            continue
        if widen and isinstance(r, np.ndarray) and dtype_of(r).name not in _ORT_DIRECT:
            nodes.append(helper.make_node("Cast", [f"o{i}"], [f"w{i}"], to=onnx.TensorProto.FLOAT))
            outs.append(helper.make_tensor_value_info(f"w{i}", onnx.TensorProto.FLOAT, r.shape))
        else:
            outs.append(_value_info(f"o{i}", r))
    graph = helper.make_graph(nodes, "g", [_value_info(n, v) for n, v in values.items() if n not in constants], outs,
                              [_tensor(n, v) for n, v in values.items() if n in constants])  # fmt: skip
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(call.domain, _ml_opset(call.op_type))] if call.domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=13 if opset > 23 else 10)


def _ml_opset(op_type: str) -> int:
    """The newest opset of ai.onnx.ml that has the operator, which some later one may deprecate."""
    versions = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "ai.onnx.ml"]
    gone = [s.since_version - 1 for s in versions if s.name == op_type and s.deprecated]
    return min([max(s.since_version for s in versions), *gone])


def check_peers(d: OpDef, e: Example, index: int, results: list[Any]) -> None:
    form = onnx_form(d)
    if form is None or d.regions:
        return
    call, added = export_call(d, e, form)
    values = {f"i{i}": x for i, x in enumerate(e.operands) if x is not None} | added
    model = make_model(call, values, results, set(added), NEWEST, False)
    onnx.checker.check_model(model)
    for peer, ask in (("reference", run_onnx_reference), ("ort", run_ort)):
        reason = DIFFERENCES.get((peer, d.name, None))
        if reason is not None:
            continue
        got = ask(call, values, results, set(added))
        if got is None:
            continue
        listed = DIFFERENCES.get((peer, d.name, index))
        try:
            compare(got, results, d, peer)
        except AssertionError:
            if listed is None:
                raise
        else:
            assert listed is None, f"{peer} agrees with {d.name}'s example {index} after all: take it out of DIFFERENCES"


def run_onnx_reference(call: OnnxCall, values: dict[str, Any], results: list[Any], added: set[str]) -> list[Any] | None:
    """The results of onnx.reference; None where it does not implement the operator."""
    model = make_model(call, values, results, added, NEWEST, False)
    try:
        evaluator = ReferenceEvaluator(model)
    except NotImplementedError:
        return None
    with np.errstate(all="ignore"):
        try:
            return evaluator.run(None, {n: v for n, v in values.items() if n not in added})
        except Exception as error:
            return [error] * len(results)


def run_ort(call: OnnxCall, values: dict[str, Any], results: list[Any], added: set[str]) -> list[Any] | None:
    """The results of ONNX Runtime without its optimizers; None where it does not implement the operator for these types."""
    constants = added | {n for n, v in values.items() if isinstance(v, np.ndarray) and dtype_of(v).name not in _ORT_DIRECT}
    try:
        schema = onnx.defs.get_schema(call.op_type, ORT_OPSET, call.domain)
        if not set(call.attrs) <= set(schema.attributes):
            return None
        model = make_model(call, values, results, constants, ORT_OPSET, True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.defs.SchemaError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None  # newer than that opset
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception as error:
        if any(s in str(error) for s in ("NOT_IMPLEMENTED", "Could not find an implementation", "is not a registered function/op")):
            return None
        return [error] * len(results)
    feed = {n: _ort_value(v) for n, v in values.items() if n not in constants}
    try:
        return session.run(None, feed)
    except Exception as error:
        return [error] * len(results)


def _ort_value(v: Any) -> Any:
    return [_ort_value(x) for x in v] if isinstance(v, list) else v


# ---- old opsets -------------------------------------------------------------------------------------------------


def run_node(op_type: str, opset: int, *operands: Any, constant: Iterable[int] = (), results: int = 1, **attrs: Any) -> Any:
    """One ONNX node at an opset, read and run by the interpreter: its result, or the list of its results.

    Operands whose index is in `constant` are initializers, None stands for one left out.
    """
    names = ["" if x is None else f"x{i}" for i, x in enumerate(operands)]
    node = helper.make_node(op_type, names, [f"y{i}" for i in range(results)], **attrs)
    given = {f"x{i}": np.asarray(x) for i, x in enumerate(operands) if x is not None}
    fixed = {f"x{i}" for i in constant}
    outputs = [onnx.ValueInfoProto(name=f"y{i}") for i in range(results)]
    graph = helper.make_graph([node], "g", [_value_info(n, v) for n, v in given.items() if n not in fixed], outputs,
                              [_tensor(n, v) for n, v in given.items() if n in fixed])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    got = list(run(read(model), {n: v for n, v in given.items() if n not in fixed}).values())
    return got[0] if results == 1 else got


def infer_types(name: str, *types: Any, contents: Any = (), results: int = 1, **attrs: Any) -> Any:
    """What the operator's `infer` says for operands of these types (given as TensorTypes, or as (dtype name, shape))."""
    d = OPS[name]
    operands = [t if t is None or isinstance(t, TensorType) else TensorType(dtype_of(t[0]), t[1]) for t in types]
    return d.infer(InferContext(d, operands, {k: a.default for k, a in d.attrs.items()} | attrs, results, contents))


# ---- comparison -------------------------------------------------------------------------------------------------


def compare(got: list[Any], want: list[Any], d: OpDef, peer: str) -> None:
    """AssertionError unless a peer's results equal ours: integers, strings and bools exactly, floats by dtype's tolerance."""
    for i, (g, w) in enumerate(zip(got, [r for r in want if r is not None])):
        assert not isinstance(g, Exception), f"{peer} failed: {type(g).__name__}: {g}"
        if isinstance(w, list):
            assert len(g) == len(w), f"{peer}, result {i}: a sequence of {len(g)}, ours of {len(w)}"
            compare(list(g), w, d, peer)
            continue
        assert_close(np.asarray(g), w, d.tolerance, d.has("random"), f"{peer}, result {i}")


def assert_close(
    got: np.ndarray, want: np.ndarray, tolerance: tuple[float, float] | None = None, random: bool = False, what: str = ""
) -> None:
    """Equal shapes and values; the types may differ where ONNX Runtime's results had to be widened to f32."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, ours {want.shape}"
    kind = dtype_of(want)
    if dtype_of(got) is not kind:
        assert kind.name not in _ORT_DIRECT and dtype_of(got).name == "f32", f"{what}: {got.dtype}, ours {want.dtype}"
        want = want.astype(np.float32)
    if random or not want.size:
        return
    if kind is STR:
        assert [str(s) for s in got.ravel()] == [str(s) for s in want.ravel()], f"{what}: {got} , ours {want}"
    elif kind.is_float or kind.kind == "complex":
        rtol, atol = tolerance or _TOLERANCE.get(kind.name, (0.0, 0.0))
        wide = np.complex128 if kind.kind == "complex" else np.float64
        np.testing.assert_allclose(want.astype(wide), got.astype(wide), rtol, atol, equal_nan=True, err_msg=what)
    else:
        np.testing.assert_array_equal(want.astype(got.dtype), got, err_msg=what)
