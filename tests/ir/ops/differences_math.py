"""Where a peer differs from arithmetic as the specification has them."""

_IN_PLACE = "adds in place into the first operand, which fails when that has to broadcast"

DIFFERENCES = {
    (
        "ort",
        "clip",
        3,
    ): "bounds that were left out are the type's extremes there, so that infinity is clipped; ONNX's function body keeps it",
    ("reference", "erf", 5): "computes f64 in f32",
    ("ort", "mod", 4): "demands fmod = 1 for floats; opset 28 allows 0",
    ("reference", "pow", 4): "numpy refuses negative integer exponents",
} | {("reference", "mean", i): _IN_PLACE for i in (1, 2, 4, 5, 6)}
