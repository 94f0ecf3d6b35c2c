"""Where a peer differs from activations as the specification has them."""

DIFFERENCES = {
    ("reference", "gelu", 5): "computes erf of f64 in f32",
    ("reference", "gelu", 6): "rounds to f16 after every step",
    ("reference", "gelu", 7): "rounds to bf16 after every step",
    ("reference", "hard_swish", 5): "computes f64 with f32 constants",
    ("reference", "softsign", 3): "fails on a scalar",
}
