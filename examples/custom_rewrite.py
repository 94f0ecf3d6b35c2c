"""A rewrite of your own: an equation, and a guard that refuses it where it would be wrong. `explain` knows about both."""

import graphmill as gm
import numpy as np
import onnx
from graphmill.ir.rewrite import scalar_constant


def positive(match):
    """sqrt(x * x * c) is |x| * sqrt(c) only for c >= 0. None lets the match pass, text refuses it."""
    c = scalar_constant(match["c"])
    if c is None or c < 0:
        return "c is not known to be positive"
    return None


gm.rewrite("sqrt(mul(mul(x, x), c)) => mul(abs(x), sqrt(c))", guard=positive)

MODEL = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
    model (float[N] x, float unknown) => (float[N] known, float[N] other) {
        square = Mul(x, x)
        four = Constant <value_float = 4.0> ()
        scaled = Mul(square, four)
        known = Sqrt(scaled)
        square_again = Mul(x, x)
        scaled_again = Mul(square_again, unknown)
        other = Sqrt(scaled_again)
    }""")


def main() -> None:
    # The two squares are one common subexpression; without `cse` before `user` each equation stands by itself.
    exe = gm.compile(MODEL, passes="infer,fold,user,fold,cse,dce,fuse")
    out = exe.run({"x": np.float32([-1, 2, -3]), "unknown": np.float32(9)})
    np.testing.assert_allclose(out["known"], [2, 4, 6])
    np.testing.assert_allclose(out["other"], [3, 6, 9])
    for decision in exe.report.decisions:
        if decision.rule.startswith("sqrt"):
            print(decision)


if __name__ == "__main__":
    main()
