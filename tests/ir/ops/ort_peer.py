"""Random examples of one operator against ONNX Runtime."""

from __future__ import annotations

from graphmill.ir.op import OPS, Example
from op_harness import check_infer, compare, export_call, onnx_form, run_ort, run_reference


def agrees(name: str, e: Example) -> bool:
    """Checks infer and reference of one example against ONNX Runtime; False where that cannot run it.

    Raises AssertionError with the example's attributes where the two differ.
    """
    d = OPS[name]
    results = run_reference(d, e)
    check_infer(d, e, results)
    call, added = export_call(d, e, onnx_form(d))
    values = {f"i{i}": x for i, x in enumerate(e.operands) if x is not None} | added
    got = run_ort(call, values, results, set(added))
    if got is None or any(isinstance(g, Exception) for g in got):
        return False
    try:
        compare(got, results, d, "ort")
    except AssertionError as error:
        shapes = [None if x is None else x.shape for x in e.operands]
        raise AssertionError(f"{name} {dict(e.attrs)} on {shapes}: {error}") from None
    return True
