"""An operator of your own: one numpy function, traced once, then fused and compiled like the built-in operators."""

import graphmill as gm
import numpy as np
import onnx


@gm.op("snake", domain="my.ops")
def snake(x, *, alpha=1.0):
    """x + sin(alpha x)^2 / alpha: the activation of "Neural Networks Fail to Learn Periodic Functions" (arXiv:2006.08195)."""
    return x + np.sin(alpha * x) ** 2 / alpha


MODEL = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18, "my.ops" : 1]>
    model (float[N,3] x, float[3] bias) => (float[N,3] y) {
        shifted = Add(x, bias)
        wave = my.ops.Snake <alpha = 2.0> (shifted)
        y = Relu(wave)
    }""")


def main() -> None:
    exe = gm.compile(MODEL)
    x, bias = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3), np.float32([0, 0.5, 1])
    y = exe(x, bias)
    z = x + bias
    np.testing.assert_allclose(y, np.maximum(z + np.sin(2 * z) ** 2 / 2, 0), rtol=1e-5, atol=1e-6)
    print(y)
    print(exe.report.summary())  # one native node: add, snake and relu are one kernel


if __name__ == "__main__":
    main()
