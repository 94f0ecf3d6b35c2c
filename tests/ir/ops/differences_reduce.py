"""Where a peer differs from reductions as the specification has them."""

DIFFERENCES = {
    ("reference", "reduce_log_sum_exp", 6): "fails on a scalar",
    ("reference", "reduce_log_sum_exp", 11): "NaN for a row of -inf, whose sum of exponentials is 0 and its logarithm -inf",
    ("ort", "reduce_mean", 14): "0 for the mean of nothing; numpy and onnx.reference have NaN, the specification leaves it open",
    ("reference", "reduce_sum_square", 10): "widens i32 to i64",
    ("reference", "reduce_sum_square", 12): "widens u32 to u64",
}
