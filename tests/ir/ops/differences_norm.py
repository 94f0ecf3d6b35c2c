"""Where peers differ from ours about normalizations."""

DIFFERENCES = {
    ("reference", "group_norm", 2): "it computes f64 in f32, as the default stash_type says; ours holds sums in at least f32",
    ("reference", "group_norm", 4): "it cannot reshape an empty batch",
    ("reference", "instance_norm", 3): "it sums f16 in f16",
    ("reference", "log_softmax", 5): "it takes the logarithm of a softmax that came out as zero",
    ("reference", "lp_norm", 1): "it forgets the absolute value for p = 1",
    ("reference", "lrn", 0): "it normalizes as many channels as the batch has images",
    ("reference", "lrn", 1): "it normalizes as many channels as the batch has images",
    ("reference", "lrn", 2): "it normalizes as many channels as the batch has images",
    ("reference", "mean_variance_norm", 2): "the function body adds an f32 constant to f64",
    ("reference", "mean_variance_norm", 4): "the function body adds an f32 constant to f16",
    ("reference", "rms_norm", 4): "it returns the type of X, the schema says that of scale",
    ("ort", "group_norm", 2): "as onnx.reference",
    ("ort", "group_norm", 4): "it cannot reshape an empty batch",
    ("ort", "lrn", 1): "it has no even sizes",
}
