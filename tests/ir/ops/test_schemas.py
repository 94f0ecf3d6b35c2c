"""Operators against ONNX's newest schemas: operands, the element types that they take, attributes and their defaults."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphmill.ir.op import OPS, REQUIRED, Onnx, OpDef
from graphmill.ir.types import DTYPES, DType
from onnx import helper
from op_harness import NEWEST, load_all

load_all()
FAMILIES = {"math", "activation", "compare", "cast", "reduce", "linalg", "quant"}
_ONNX_NAMES = {
    "float": "f32", "double": "f64", "float16": "f16", "bfloat16": "bf16", "string": "str", "bool": "bool", "complex64": "c64",
    "complex128": "c128", "float8e4m3fn": "f8e4m3fn", "float8e4m3fnuz": "f8e4m3fnuz", "float8e5m2": "f8e5m2",
    "float8e5m2fnuz": "f8e5m2fnuz", "float8e8m0": "f8e8m0", "float6e2m3": "f6e2m3", "float6e3m2": "f6e3m2", "float4e2m1": "f4e2m1",
} | {f"{k}int{n}": f"{k or 'i'}{n}" for k in ("", "u") for n in (2, 4, 8, 16, 32, 64)}  # fmt: skip

# Attributes whose default is spelled otherwise: None and () for "not given", DType attributes for 0.
_UNSET = (None, (), 0)


def _tensor_types(names: list[str]) -> set[DType]:
    return {DTYPES[_ONNX_NAMES[n[len("tensor(") : -1]]] for n in names if n.startswith("tensor(")}


def _ours() -> list:
    found = [(OPS[n], f) for n in OPS for f in OPS[n].onnx if OPS[n].family in FAMILIES and not f.domain]
    return [pytest.param(d, f, id=d.name) for d, f in found]


@pytest.mark.parametrize("d, form", _ours())
def test_operands(d: OpDef, form: Onnx) -> None:
    schema = onnx.defs.get_schema(form.op_type, NEWEST, form.domain)
    kinds = onnx.defs.OpSchema.FormalParameterOption
    assert len(d.operands) == len(schema.inputs)
    for ours, theirs in zip(d.operands, schema.inputs):
        assert ours.optional == (theirs.option == kinds.Optional), theirs.name
        assert ours.variadic == (theirs.option == kinds.Variadic), theirs.name
        if d.name != "identity":
            assert set(ours.dtypes) == _tensor_types(list(theirs.types)), theirs.name
    assert form.since == min(
        s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == form.op_type and not s.domain
    )


@pytest.mark.parametrize("d, form", _ours())
def test_attributes(d: OpDef, form: Onnx) -> None:
    schema = onnx.defs.get_schema(form.op_type, NEWEST, form.domain)
    assert {form.rename.get(n, n) for n in schema.attributes} == set(d.attrs)
    for name, attribute in schema.attributes.items():
        ours = d.attrs[form.rename.get(name, name)].default
        value = helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None
        value = value.decode() if isinstance(value, bytes) else value
        if attribute.required:
            assert ours is REQUIRED, name
        elif value in _UNSET:
            assert ours in _UNSET, name
        else:
            assert np.float32(ours) == np.float32(value) if isinstance(value, float) else ours == value, name
