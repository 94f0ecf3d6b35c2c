"""A converter: how to import an operator that graphmill does not know, as several operators that it does."""

import graphmill as gm
import numpy as np
import onnx


@gm.converter("my.models", "ScaledResidual")
def scaled_residual(b, call):
    """x + scale * relu(update), with `scale` an attribute of the ONNX node."""
    x, update = call.inputs
    scale = np.float32(call.attrs.get("scale", 1.0))
    return b.op("add", x, b.op("mul", b.op("relu", update), scale))


MODEL = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18, "my.models" : 1]>
    model (float[N,3] x, float[3,3] w) => (float[N,3] y) {
        update = MatMul(x, w)
        y = my.models.ScaledResidual <scale = 0.5> (x, update)
    }""")


def main() -> None:
    exe = gm.compile(MODEL)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    y = exe(x, w)
    np.testing.assert_allclose(y, x + 0.5 * np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)
    print(y)


if __name__ == "__main__":
    main()
