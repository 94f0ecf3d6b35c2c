"""Speech that silero-vad's ONNX model finds, on onnxruntime and on graphmill in its place, by the same code.

    pip install --no-deps silero-vad onnxruntime
    python benchmarks/speech.py [RECORDING.wav]

The package itself imports torch; its model needs only the loop below: chunks of 512 samples at 16 kHz, each after the last 64 of
the one before, with the state carried on. Without a recording (mono, 16 bits, 16 kHz) vowels are made from pulses and resonances.
Exits with 1 where the two find different speech.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import wave
from pathlib import Path

import numpy as np

RATE, CHUNK, CONTEXT = 16000, 512, 64
THRESHOLD = 0.5
VOWELS = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)]  # formants in Hz


def recording(path: str) -> np.ndarray:
    """A mono recording of 16 bits at 16 kHz, as f32 in [-1, 1)."""
    with wave.open(path) as f:
        if (f.getnchannels(), f.getsampwidth(), f.getframerate()) != (1, 2, RATE):
            sys.exit(f"{path}: expected mono, 16 bits, {RATE} Hz")
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(np.float32) / 32768


def vowel(formants: tuple[int, ...], seconds: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Pulses at a falling pitch through one resonance for each formant."""
    n = int(seconds * RATE)
    phase = np.cumsum(np.linspace(pitch * 1.15, pitch * 0.85, n) * (1 + 0.01 * np.sin(np.arange(n) * 2 * np.pi * 5 / RATE)) / RATE)
    y = np.diff(np.floor(phase), prepend=0) + 0.02 * rng.standard_normal(n)
    for f in formants:
        r = np.exp(-np.pi * 90 / RATE)
        a, b = 2 * r * np.cos(2 * np.pi * f / RATE), -r * r
        out, one, two = np.zeros(n), 0.0, 0.0
        for i in range(n):
            one, two = y[i] + a * one + b * two, one
            out[i] = one
        y = out
    return y / np.abs(y).max() * np.sin(np.linspace(0, np.pi, n)) ** 0.5


def made_up() -> np.ndarray:
    """Three phrases of vowels with silence between."""
    rng = np.random.default_rng(0)
    parts = [np.zeros(RATE)]
    for _ in range(3):
        parts += [vowel(VOWELS[int(i)], 0.22, 120 + 20 * rng.random(), rng) for i in rng.integers(0, len(VOWELS), 7)]
        parts += [np.zeros(RATE)]
    audio = np.concatenate(parts)
    return (0.3 * audio + 0.001 * rng.standard_normal(len(audio))).astype(np.float32)


def probabilities(model: str, audio: np.ndarray) -> np.ndarray:
    """The probability of speech in each chunk."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"], sess_options=options)
    state, context, found = np.zeros((2, 1, 128), np.float32), np.zeros((1, CONTEXT), np.float32), []
    for at in range(0, len(audio) - CHUNK + 1, CHUNK):
        x = np.concatenate([context, audio[None, at : at + CHUNK]], axis=1)
        out, state = session.run(None, {"input": x, "state": state, "sr": np.array(RATE, np.int64)})
        context = x[:, -CONTEXT:]
        found.append(out.item())
    return np.array(found)


def stretches(p: np.ndarray) -> list[tuple[float, float]]:
    """Where the probability stays above the threshold, in seconds."""
    edges = np.flatnonzero(np.diff(np.r_[False, p > THRESHOLD, False]))
    return [(round(a * CHUNK / RATE, 3), round(b * CHUNK / RATE, 3)) for a, b in edges.reshape(-1, 2).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", help="mono, 16 bits, 16 kHz")
    path = parser.parse_args().recording
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        sys.exit("silero-vad is not installed: pip install --no-deps silero-vad")
    model = str(Path(spec.origin).parent / "data" / "silero_vad.onnx")
    audio = recording(path) if path else made_up()

    theirs = probabilities(model, audio)
    for name in [n for n in sys.modules if n.split(".")[0] == "onnxruntime"]:
        del sys.modules[name]
    from graphmill import ort

    ort.install()
    ours = probabilities(model, audio)
    print(f"{len(ours)} chunks, {len(audio) / RATE:.1f} s; largest difference of a probability {np.abs(ours - theirs).max():.2g}")
    print("onnxruntime:", stretches(theirs))
    print("graphmill:  ", stretches(ours))
    if not stretches(theirs):
        sys.exit("no speech was found: nothing is compared")
    sys.exit(stretches(ours) != stretches(theirs))


if __name__ == "__main__":
    main()
