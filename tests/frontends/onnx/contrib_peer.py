"""One node of the domain com.microsoft, by graphmill's reference interpreter and by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from graphmill.frontends.onnx.reader import read
from graphmill.ir import interp
from graphmill.ir.infer import infer_module
from onnx import helper, numpy_helper

Arrays = Sequence[np.ndarray | None]


def model(op_type: str, inputs: Arrays, attrs: dict[str, Any], outputs: Sequence[int] = (0,), constant: Collection[int] = (),
          dims: dict[int, tuple] | None = None, domain: str = "com.microsoft",
          result: int | None = None, opset: int = 17) -> onnx.ModelProto:  # fmt: skip
    """A model of one node that is asked for the outputs given by number; inputs in `constant` are initializers, `dims` replaces
    the declared dims of an input, `result` declares the element type of the outputs."""
    names = ["" if x is None else f"i{k}" for k, x in enumerate(inputs)]
    results = [f"o{k}" if k in outputs else "" for k in range(max(outputs) + 1)]
    infos = [helper.make_tensor_value_info(f"i{k}", helper.np_dtype_to_tensor_dtype(x.dtype), (dims or {}).get(k, x.shape))
             for k, x in enumerate(inputs) if x is not None and k not in constant]  # fmt: skip
    node = helper.make_node(op_type, names, results, "node", domain=domain, **attrs)
    declared = [helper.make_tensor_value_info(r, result, None) if result else onnx.ValueInfoProto(name=r) for r in results if r]
    fixed = [numpy_helper.from_array(inputs[k], f"i{k}") for k in constant]
    graph = helper.make_graph([node], "g", infos, declared, fixed)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def feeds_of(m: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    return {v.name: inputs[int(v.name[1:])] for v in m.graph.input}  # type: ignore[misc]


def ours(m: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """The outputs of the interpreter; their types must be the inferred ones."""
    module = read(m)
    infer_module(module)
    out = interp.run(module, feeds_of(m, inputs))
    for v, (name, x) in zip(module.main.outputs, out.items(), strict=True):
        assert v.tensor.dtype.np == x.dtype and v.tensor.rank in (None, x.ndim), f"{name}: {v.type} for {x.dtype}{x.shape}"
    return list(out.values())


def theirs(m: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds_of(m, inputs))


def check(op_type: str, inputs: Arrays, attrs: dict[str, Any] | None = None, outputs: Sequence[int] = (0,), *, off: float = 0.0,
          rtol: float = 1e-5, atol: float = 1e-5, **more: Any) -> list[np.ndarray]:  # fmt: skip
    """Compares all outputs with ONNX Runtime's; returns ours. Integers may be one apart in a share `off` of the elements."""
    m = model(op_type, inputs, attrs or {}, outputs, **more)
    mine, other = ours(m, inputs), theirs(m, inputs)
    for a, b in zip(mine, other, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, f"{op_type}: {a.dtype}{a.shape}, ONNX Runtime {b.dtype}{b.shape}"
        if a.dtype.kind in "iu":
            apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
            share = (apart > 0).mean() if apart.size else 0
            assert apart.max(initial=0) <= (1 if off else 0) and share <= off, f"{op_type}: {share} differ"
        elif a.dtype == object:
            assert a.tolist() == b.tolist(), f"{op_type} {attrs}"
        else:
            np.testing.assert_allclose(a, b, rtol, atol, err_msg=f"{op_type} {attrs}")
    return mine
