"""Sizes that types do not tell, and that do not go together in a run: an error, whatever was run before; never a read elsewhere."""

from __future__ import annotations

import graphmill as gm
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.ir.parser import parse_module

BODIES = {
    "add": "(%x: f32[$n], %z: f32[7]) -> %y { %y = add(%x, %z) : ? }",
    "fused": "(%x: f32[$n,2], %z: f32[7,2]) -> %y { %a = mul(%x, %z) : ? %y = relu(%a) : ? }",
    "symbols": "(%x: f32[$n], %z: f32[$m]) -> %y { %y = add(%x, %z) : ? }",
    "rows": "(%x: f32[7,$n,4], %z: f32[7,7,4]) -> %y { %a = add(%x, %z) : ? %y = softmax(%a) : ? }",
    "capped": "(%x: f32[$n], %c: f32[7]) -> %y { %s = shape(%x) : ? %z = slice(%c, %from, %s) : ? %y = add(%x, %z) : ? }",
    "expand": "(%x: f32[$n], %c: f32[7]) -> %y { %s = shape(%x) : ? %z = slice(%c, %from, %s) : ? %y = expand(%z, %s) : ? }",
    "mask": "(%x: f32[1,1,$n,4], %z: f32[7,7]) -> %y { %k = slice(%x, %from, %seven, %two) : ? %y = attention(%x, %k, %k, %z) : ? }",
    "keys": "(%x: f32[1,1,$n,4], %z: f32[1,1,7,4]) -> %y { %y = attention(%z, %x, %z) : ? }",
    "matmul": "(%x: f32[2,$n], %z: f32[7,5]) -> %y { %y = matmul(%x, %z) : ? }",
    "gemm": "(%x: f32[2,$n], %z: f32[4,$m]) -> %y { %a = gemm(%x, %z) {transB = 1} : ? %y = relu(%a) : ? }",
    "conv": "(%x: f32[1,$n,4,4], %z: f32[3,7,1,1]) -> %y { %y = conv(%x, %z) : ? }",
    "concat": "(%x: f32[2,$n], %z: f32[2,7]) -> %y { %y = concat(%x, %z) {axis = 0} : ? }",
    "layer_norm": "(%x: f32[2,$n], %z: f32[7]) -> %y { %a = relu(%x) : ? %y = layer_norm(%a, %z) : ? }",
}
SHAPES = {"add": [1, 7], "fused": [1, 7], "symbols": [1, 7], "rows": [1, 7], "capped": [1, 5, 7], "expand": [1, 5, 7], "mask": [7]}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_sizes_that_do_not_go_together(name: str, target: str) -> None:
    consts = "const %from : i64[1] = [0] const %two : i64[1] = [2] const %seven : i64[1] = [7]"
    head = "module @m {opset = 23} { sym $n in [0, inf] sym $m in [0, inf]"
    module = parse_module(f"{head} {consts} graph @main{BODIES[name]} }}")
    exe = gm.compile(module, target, **({"device": "null"} if target == "cuda" else {}))
    assert not exe.report.not_native()

    def run(n: int) -> None:
        sizes = {"n": n, "m": 7}
        shapes = {v.name: [d if isinstance(d, int) else sizes[str(d)[1:]] for d in v.type.shape] for v in module.main.inputs}
        exe.run({name: np.ones(shape, np.float32) for name, shape in shapes.items()})

    for n in (*SHAPES.get(name, [7]), 9):
        if n == 9:
            with pytest.raises(RunError, match=r"broadcast|sizes|inner dimensions|channels|expected"):
                run(n)
        else:
            run(n)
    run(SHAPES.get(name, [7])[-1])
