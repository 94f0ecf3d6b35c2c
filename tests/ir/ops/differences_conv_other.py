"""Where onnx.reference is wrong about the relatives of convolution; ONNX Runtime agrees with ours in all of these."""

DIFFERENCES = {
    ("reference", "col2im", 5): "it cannot return an empty image",
    ("reference", "conv_transpose", 3): "it takes output_shape apart from the padding that it implies",
    ("reference", "conv_transpose", 6): "it has no groups with more than one output channel",
    ("reference", "conv_transpose", 7): "it cannot take an empty batch",
    ("reference", "deform_conv", 4): "it computes f64 in f32",
}
