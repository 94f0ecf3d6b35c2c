"""Where peers differ from ours about signals."""

DIFFERENCES = {
    ("ort", "blackman_window", 2): "it computes an f64 window in f32",
    ("ort", "hamming_window", 2): "it computes an f64 window in f32",
}
