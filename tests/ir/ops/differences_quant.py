"""Where a peer differs from quantization as the specification has it."""

DIFFERENCES = {
    ("ort", "conv_integer", 2): "takes no zero point an output channel",
    ("reference", "dynamic_quantize_linear", 3): "divides by zero where all is zero; ONNX Runtime takes 1 for the scale",
    ("reference", "quantize_linear", 6): "numbers beyond i32 become the least integer instead of the greatest",
}
