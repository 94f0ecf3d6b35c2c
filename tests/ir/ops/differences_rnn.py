"""Where peers differ from ours about recurrent layers."""

_REFERENCE = "it knows neither clip, input_forget nor most activations, and turns short sequences round together with their padding"
_LAYOUT, _F64 = "ONNX Runtime has no layout 1", "ONNX Runtime has no f64"

DIFFERENCES = {
    ("reference", "gru", None): _REFERENCE,
    ("reference", "lstm", None): _REFERENCE,
    ("reference", "rnn", None): _REFERENCE,
    ("ort", "gru", 4): _LAYOUT,
    ("ort", "lstm", 4): _LAYOUT,
    ("ort", "rnn", 4): _LAYOUT,
    ("ort", "gru", 5): _F64,
    ("ort", "lstm", 5): _F64,
}
