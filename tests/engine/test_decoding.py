"""Decoders with caches on the CUDA target, through the shim: 16-bit signatures, appended caches, and how many launches a step takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import pytest
from graphmill.engine.artifact import load
from graphmill.ir.core import Module
from graphmill.ir.errors import InputError, IRError
from graphmill.ir.parser import parse_module

from ..kernels.cuda.harness import needs_shim

HEADS, SIZE, LAYERS = 2, 16, 2
WIDTH = HEADS * SIZE


def layer(i: int, new: str) -> list[str]:
    """The nodes of a layer for `new` tokens, as exporters write them."""
    b, wide, cut = ("1", "1", WIDTH) if new == "1" else ("$b", "$s", WIDTH)
    row, heads, all_heads = f"f32[{b},{wide},{cut}]", f"f32[{b},{wide},2,16]", f"f32[{b},2,{wide},16]"
    lines = [f"%p{i} = matmul(%x{i}, %w{i}) : f32[{b},{wide},{3 * cut}]",
             f"%q{i}, %k{i}, %v{i} = split(%p{i}) {{axis = 2, num_outputs = 3}} : {row}, {row}, {row}"]  # fmt: skip
    for x in "qkv":
        lines += [f"%{x}{i}r = reshape(%{x}{i}, %cut) : {heads}",
                  f"%{x}{i}h = transpose(%{x}{i}r) {{perm = [0,2,1,3]}} : {all_heads}"]  # fmt: skip
    for x in "kv":
        lines.append(f"%present_{x}{i} = concat(%past_{x}{i}, %{x}{i}h) {{axis = 2}} : f32[{b},2,$past + {wide},16]")
    return [*lines, f"%a{i} = attention(%q{i}h, %present_k{i}, %present_v{i}, %mask) : {all_heads}",
            f"%t{i} = transpose(%a{i}) {{perm = [0,2,1,3]}} : {heads}", f"%j{i} = reshape(%t{i}, %joined) : {row}",
            f"%o{i} = matmul(%j{i}, %u{i}) : {row}", f"%x{i + 1} = add(%x{i}, %o{i}) : {row}"]  # fmt: skip


def decoder(new: str = "1") -> Module:
    """Layers of attention with a cache each; `new` tokens, 1 or any."""
    rng, b, s = np.random.default_rng(0), *(("1", "1") if new == "1" else ("$b", "$s"))
    blobs = {
        f"{x}{i}": rng.normal(0, 0.2, (WIDTH, n * WIDTH)).astype(np.float32) for i in range(LAYERS) for x, n in (("w", 3), ("u", 1))
    }
    caches = [f"%past_{x}{i}: f32[{b},2,$past,16]" for i in range(LAYERS) for x in "kv"]
    out = [f"%present_{x}{i}" for i in range(LAYERS) for x in "kv"]
    numbers = {k: ", ".join(map(str, v.ravel().tolist())) for k, v in blobs.items()}
    consts = [f"const %{k} : f32[{v.shape[0]},{v.shape[1]}] = [{numbers[k]}]" for k, v in blobs.items()]
    symbols = ["sym $past in [0, inf]", *(["sym $b in [1, inf]", "sym $s in [1, inf]"] if new != "1" else [])]
    body = [line for i in range(LAYERS) for line in layer(i, new)]
    text = [*symbols, *consts, "const %cut : i64[4] = [0, 0, 2, 16]", "const %joined : i64[3] = [0, 0, 32]",
            f"graph @main(%x0: f32[{b},{s},32], %mask: f32[1,1,1,$past + {s}], {', '.join(caches)}) -> %x{LAYERS}, {', '.join(out)} {{",
            *body, "}"]  # fmt: skip
    return parse_module("module @decoder {opset = 23} {\n" + "\n".join(text) + "\n}")


def step_inputs(b: int, s: int, past: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(past)
    given = {f"past_{x}{i}": rng.normal(0, 1, (b, HEADS, past, SIZE)) for i in range(LAYERS) for x in "kv"}
    given |= {"x0": rng.normal(0, 1, (b, s, WIDTH)), "mask": rng.choice([0.0, 0.0, -60.0], (1, 1, 1, past + s))}
    return {k: v.astype(dtype) for k, v in given.items()}


def launches(exe: gm.Executable) -> int:
    return len(list(exe.plan.kernels()))


@needs_shim
@pytest.mark.parametrize(
    ("new", "sizes"), [("1", [(1, 1, 0), (1, 1, 5), (1, 1, 130)]), ("any", [(2, 3, 4), (3, 1, 17), (1, 20, 70)])]
)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 1e-2), ("bf16", 8e-2)])
def test_a_step(new: str, sizes: list, precision: str, tolerance: float) -> None:
    """Each layer is a projection, an attention that appends to both caches, and a product; casts of all caches are one launch."""
    exe, plain = (gm.compile(decoder(new), t, device="shim", precision=p) for t, p in (("cuda", precision), ("reference", "fp32")))
    assert launches(exe) == 3 * LAYERS + (0 if precision == "fp32" else 2)
    for b, s, past in sizes:
        given = step_inputs(b, s, past)
        want, got = plain.run(given), exe.run(given)
        for name, a in want.items():
            assert got[name].dtype == np.float32
            np.testing.assert_allclose(got[name], a, rtol=tolerance, atol=tolerance)


@needs_shim
@pytest.mark.parametrize(("precision", "dtype", "tolerance"), [("fp16", np.float16, 1e-2), ("bf16", ml_dtypes.bfloat16, 8e-2)])
def test_caches_of_16_bits(precision: str, dtype: Any, tolerance: float, tmp_path: Path) -> None:
    """What a step gives goes into the next one as it is; an artifact has the same signature."""
    plain = gm.compile(decoder(), "reference")
    made = gm.compile(decoder(), "cuda", device="shim", precision=precision, keep_io_types=False)
    made.save(tmp_path / "m.gmill")
    for exe in (made, load(str(tmp_path / "m.gmill"))):
        assert exe.options.keep_io_types is False and launches(exe) == 3 * LAYERS
        short = "f16" if precision == "fp16" else "bf16"
        assert exe.inputs["past_k0"] == f"{short}[1,2,$past,16]" and exe.outputs["present_v1"] == f"{short}[1,2,$past + 1,16]"
        given = step_inputs(1, 1, 4, dtype)
        for _ in range(3):
            got = exe.run(given)
            want = plain.run({k: v.astype(np.float32) for k, v in given.items()})
            for name, a in want.items():
                assert got[name].dtype == dtype
                np.testing.assert_allclose(got[name].astype(np.float32), a, rtol=tolerance, atol=tolerance)
            past = {k.replace("present", "past"): v for k, v in got.items() if k.startswith("present")}
            given = step_inputs(1, 1, past["past_k0"].shape[2], dtype) | past


def test_what_keeps_its_type() -> None:
    exe = gm.compile(decoder(), "cuda", device="null", precision="fp16", keep_io_types=["x0", "present_k1"])
    assert exe.inputs["x0"].startswith("f32") and exe.outputs["present_k1"].startswith("f32")
    assert exe.inputs["past_k1"].startswith("f16") and exe.outputs["present_k0"].startswith("f16")
    with pytest.raises(InputError, match="expected float16"):
        exe.run(step_inputs(1, 1, 3))
    with pytest.raises(IRError, match="there is none named nothing"):
        gm.compile(decoder(), "cuda", device="null", precision="fp16", keep_io_types=["nothing"])
    with pytest.raises(InputError, match="with precision = 'fp16' and 'bf16'"):
        gm.compile(decoder(), "cuda", device="null", keep_io_types=False)
    with pytest.raises(InputError, match="a list of names"):
        gm.compile(decoder(), "cuda", device="null", precision="fp16", keep_io_types="x0")
