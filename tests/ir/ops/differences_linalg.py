"""Where a peer differs from matrix products and determinants as the specification has them."""

DIFFERENCES = {
    ("reference", "det", 6): "numpy.linalg takes no f16",
    ("reference", "det", 7): "returns f64 for bf16",
    ("ort", "einsum", 9): "takes no upper-case label in the implicit form",
    ("ort", "matmul_integer", 6): "takes no zero point a row of A",
    ("reference", "matmul_integer", 6): "takes no zero point a row of A",
}
