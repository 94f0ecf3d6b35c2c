"""The benchmark models in torch, with seeded random weights: `build(name, batch)` makes one.

Speed does not depend on what weights hold, so none are downloaded. Answers do: where a signal dies between random weights, and
biases alone make the output, wrong kernels go unseen. So batch norms get the statistics of their inputs, as training would give
them, and ConvNeXt's layer scale, which starts at 1e-6, is drawn from [0.1, 0.3]; `change` measures what is left of the signal.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

VOCABULARY = 1000  # token ids are drawn below it: every model has at least as many


@dataclass
class Model:
    """A module with example inputs; `dynamic` names the axes of the inputs that may be symbolic, `always` those that always are."""

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]]
    always: dict[str, dict[int, str]] = field(default_factory=dict)


class Wrap(nn.Module):
    """A function of a module and of its inputs."""

    def __init__(self, f: Callable[..., Any], module: nn.Module):
        super().__init__()
        self.f, self.module = f, module

    def forward(self, *args: Tensor) -> Any:
        return self.f(self.module, *args)


def ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length))


# ---- images -----------------------------------------------------------------------------------------------------

TIMM = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3_small": "mobilenetv3_small_100",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_tiny": "convnext_tiny",
    "vit_b16": "vit_base_patch16_224",
}
# timm imports these for its data pipeline alone, which no model needs.
TORCHVISION = ("", ".transforms", ".transforms.functional", ".transforms.v2", ".datasets", ".datasets.folder", ".ops", ".ops.misc",
               ".models", ".models.feature_extraction", ".utils")  # fmt: skip


def timm_model(name: str) -> nn.Module:
    for part in TORCHVISION:
        sys.modules.setdefault("torchvision" + part, MagicMock())
    import timm

    return timm.create_model(TIMM[name], pretrained=False, exportable=True)


def image_model(module: nn.Module, batch: int, size: int, name: str = "x") -> Model:
    return Model(module, {name: torch.randn(batch, 3, size, size)}, {name: {0: "batch"}})


def double_conv(i: int, o: int) -> nn.Sequential:
    layers = [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class UNet(nn.Module):
    """Ronneberger et al. 2015, with padding and batch norms."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128, 256, 512)):
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.pool, self.out = nn.MaxPool2d(2), nn.Conv2d(channels[0], 2, 1)
        self.down = nn.ModuleList(double_conv(i, o) for i, o in [(3, channels[0]), *pairs])
        self.up = nn.ModuleList(nn.ConvTranspose2d(o, i, 2, 2) for i, o in pairs)
        self.merge = nn.ModuleList(double_conv(2 * i, i) for i in channels[:-1])

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else self.pool(x))
            kept.append(x)
        for i in reversed(range(len(self.up))):
            x = self.merge[i](torch.cat([kept[i], self.up[i](x)], 1))
        return self.out(x)


class ConvBn(nn.Module):
    def __init__(self, i: int, o: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c: int, add: bool):
        super().__init__()
        self.first, self.second, self.add = ConvBn(c, c, 3), ConvBn(c, c, 3), add

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.add else y


class C2f(nn.Module):
    def __init__(self, i: int, o: int, n: int, add: bool = True):
        super().__init__()
        half = o // 2
        self.split, self.join = ConvBn(i, o), ConvBn((2 + n) * half, o)
        self.blocks = nn.ModuleList(Bottleneck(half, add) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, 1))


class Sppf(nn.Module):
    def __init__(self, i: int, o: int):
        super().__init__()
        self.first, self.last, self.pool = ConvBn(i, o // 2), ConvBn(o * 2, o), nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.pool(x)
        z = self.pool(y)
        return self.last(torch.cat([x, y, z, self.pool(z)], 1))


class YoloV8n(nn.Module):
    """The nano detector of YOLOv8 at 640x640: backbone, neck, heads, and the decoding of boxes; without non-maximum suppression."""

    CLASSES, BINS = 80, 16

    def __init__(self) -> None:
        super().__init__()
        self.stage2 = nn.Sequential(ConvBn(3, 16, 3, 2), ConvBn(16, 32, 3, 2), C2f(32, 32, 1), ConvBn(32, 64, 3, 2), C2f(64, 64, 2))
        self.stage3 = nn.Sequential(ConvBn(64, 128, 3, 2), C2f(128, 128, 2))
        self.stage4 = nn.Sequential(ConvBn(128, 256, 3, 2), C2f(256, 256, 1), Sppf(256, 256))
        self.up = nn.Upsample(scale_factor=2)
        self.neck4, self.neck3 = C2f(384, 128, 1, False), C2f(192, 64, 1, False)
        self.pan4, self.pan5 = C2f(192, 128, 1, False), C2f(384, 256, 1, False)
        self.down3, self.down4 = ConvBn(64, 64, 3, 2), ConvBn(128, 128, 3, 2)
        self.box, self.cls = (nn.ModuleList(self.head(c, mid, out) for c in (64, 128, 256))
                              for mid, out in ((64, 4 * self.BINS), (80, self.CLASSES)))  # fmt: skip
        self.dfl = nn.Conv2d(self.BINS, 1, 1, bias=False)
        self.dfl.weight.data[:] = torch.arange(float(self.BINS)).view(1, self.BINS, 1, 1)
        cells = [(torch.arange(n), 640.0 / n) for n in (80, 40, 20)]
        grids = [torch.stack(torch.meshgrid(r, r, indexing="xy")).flatten(1) + 0.5 for r, _ in cells]
        self.register_buffer("anchors", torch.cat(grids, 1)[None])
        self.register_buffer("strides", torch.cat([torch.full((1, len(r) ** 2), s) for r, s in cells], 1))

    @staticmethod
    def head(c: int, mid: int, out: int) -> nn.Sequential:
        return nn.Sequential(ConvBn(c, mid, 3), ConvBn(mid, mid, 3), nn.Conv2d(mid, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.stage2(x)
        p4 = self.stage3(p3)
        p5 = self.stage4(p4)
        q4 = self.neck4(torch.cat([self.up(p5), p4], 1))
        q3 = self.neck3(torch.cat([self.up(q4), p3], 1))
        r4 = self.pan4(torch.cat([self.down3(q3), q4], 1))
        r5 = self.pan5(torch.cat([self.down4(r4), p5], 1))
        heads = [torch.cat([b(f), c(f)], 1).flatten(2) for f, b, c in zip((q3, r4, r5), self.box, self.cls)]
        box, cls = torch.cat(heads, 2).split((4 * self.BINS, self.CLASSES), 1)
        n = self.anchors.shape[2]
        sides = self.dfl(box.view(-1, 4, self.BINS, n).transpose(2, 1).softmax(1)).view(-1, 4, n)
        left_top, right_bottom = sides.chunk(2, 1)
        a, b = self.anchors - left_top, self.anchors + right_bottom
        return torch.cat([torch.cat([(a + b) / 2, b - a], 1) * self.strides, cls.sigmoid()], 1)


# ---- text and speech --------------------------------------------------------------------------------------------


def hugging_face(cls: str, config: str, **settings: Any) -> nn.Module:
    import transformers

    c = getattr(transformers, config)(**settings)
    c._attn_implementation = "eager"
    return getattr(transformers, cls)(c)


TEXT = {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"}}


def bert_base(batch: int) -> Model:
    m = hugging_face("BertModel", "BertConfig", vocab_size=30522)
    f = Wrap(lambda m, i, a: m(input_ids=i, attention_mask=a).last_hidden_state, m)
    return Model(f, {"input_ids": ids(batch, 128), "attention_mask": torch.ones(batch, 128, dtype=torch.long)}, TEXT)


def distilbert(batch: int) -> Model:
    m = hugging_face("DistilBertForSequenceClassification", "DistilBertConfig")
    f = Wrap(lambda m, i, a: m(input_ids=i, attention_mask=a).logits, m)
    return Model(f, {"input_ids": ids(batch, 128), "attention_mask": torch.ones(batch, 128, dtype=torch.long)}, TEXT)


def gpt2(batch: int) -> Model:
    m = hugging_face("GPT2LMHeadModel", "GPT2Config")
    f = Wrap(lambda m, i: m(input_ids=i, attention_mask=i * 0 + 1, use_cache=False).logits, m)
    return Model(f, {"input_ids": ids(batch, 64)}, {"input_ids": {0: "batch", 1: "seq"}})


def _step(m: nn.Module, x: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
    from transformers import DynamicCache

    cache = DynamicCache()
    for i in range(len(past) // 2):
        cache.update(past[2 * i], past[2 * i + 1], i)
    logits = m(input_ids=x, past_key_values=cache, use_cache=True).logits
    return (logits, *(t for layer in cache.layers for t in (layer.keys, layer.values)))


def gpt2_kv(batch: int) -> Model:
    """One step of decoding: a token, and the keys and values of 64 before it, however many these are."""
    past = {f"past_{kind}_{i}": torch.randn(batch, 12, 64, 64) for i in range(12) for kind in "kv"}
    axes = {k: {0: "batch", 2: "past"} for k in past}
    f = Wrap(_step, hugging_face("GPT2LMHeadModel", "GPT2Config"))
    return Model(f, {"input_ids": ids(batch, 1), **past}, {"input_ids": {0: "batch"}, **axes}, {k: {2: "past"} for k in past})


def whisper() -> nn.Module:
    """Whisper-tiny."""
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder")
             for name, n in (("layers", 4), ("attention_heads", 6), ("ffn_dim", 1536))}  # fmt: skip
    return hugging_face("WhisperModel", "WhisperConfig", vocab_size=51865, d_model=384, pad_token_id=50257, **sizes)


def whisper_enc(batch: int) -> Model:
    f = Wrap(lambda e, x: e(x).last_hidden_state, whisper().encoder)
    return Model(f, {"mel": torch.randn(batch, 80, 3000)}, {"mel": {0: "batch"}})


def whisper_dec(batch: int) -> Model:
    def f(d: nn.Module, i: Tensor, h: Tensor) -> Tensor:
        y = d(input_ids=i, attention_mask=i * 0 + 1, encoder_hidden_states=h, use_cache=False).last_hidden_state
        return y @ d.embed_tokens.weight.T

    inputs = {"ids": ids(batch, 16), "enc": torch.randn(batch, 1500, 384)}
    return Model(Wrap(f, whisper().decoder), inputs, {"ids": {0: "batch", 1: "seq"}, "enc": {0: "batch"}})


def t5() -> nn.Module:
    """T5-small, which is what T5Config's defaults describe."""
    return hugging_face("T5Model", "T5Config", decoder_start_token_id=0)


def t5_enc(batch: int) -> Model:
    f = Wrap(lambda e, i: e(input_ids=i).last_hidden_state, t5().encoder)
    return Model(f, {"ids": ids(batch, 64)}, {"ids": {0: "batch", 1: "seq"}})


def t5_dec(batch: int) -> Model:
    def f(d: nn.Module, i: Tensor, h: Tensor) -> Tensor:
        return d(input_ids=i, encoder_hidden_states=h, use_cache=False).last_hidden_state @ d.embed_tokens.weight.T

    inputs = {"ids": ids(batch, 16), "enc": torch.randn(batch, 64, 512)}
    return Model(Wrap(f, t5().decoder), inputs, {"ids": {0: "batch", 1: "seq"}, "enc": {0: "batch", 1: "enc_seq"}})


class Tagger(nn.Module):
    """Embedding, two bidirectional recurrent layers, a label for each token."""

    def __init__(self, kind: str):
        super().__init__()
        self.embed, self.label = nn.Embedding(5000, 128), nn.Linear(512, 32)
        self.rnn = getattr(nn, kind)(128, 256, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.label(self.rnn(self.embed(x))[0])


# ---- tables -----------------------------------------------------------------------------------------------------


def mlp(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*[layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())][:-1])


class Dlrm(nn.Module):
    """Naumov et al. 2019: 13 numbers, 26 categories of 10000 entries, products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom, self.top = mlp(13, 512, 256, 64), mlp(64 + 27 * 26 // 2, 512, 256, 1)
        self.tables = nn.ModuleList(nn.Embedding(10000, 64) for _ in range(26))
        self.register_buffer("pairs", torch.tril_indices(27, 27, -1))

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        d = self.bottom(dense)
        z = torch.stack([d] + [table(sparse[:, i]) for i, table in enumerate(self.tables)], 1)
        z = z @ z.transpose(1, 2)
        return torch.sigmoid(self.top(torch.cat([d, z[:, self.pairs[0], self.pairs[1]]], 1)))


def dlrm(batch: int) -> Model:
    inputs = {"dense": torch.randn(batch, 13), "sparse": torch.randint(0, 10000, (batch, 26))}
    return Model(Dlrm(), inputs, {"dense": {0: "batch"}, "sparse": {0: "batch"}})


def mlp64(batch: int) -> Model:
    return Model(mlp(64, 64, 64, 64), {"x": torch.randn(batch, 64)}, {"x": {0: "batch"}})


def tagger(kind: str) -> Callable[[int], Model]:
    return lambda batch: Model(Tagger(kind), {"ids": ids(batch, 64)}, {"ids": {0: "batch", 1: "seq"}})


MODELS: dict[str, Callable[[int], Model]] = {
    **{name: lambda batch, name=name: image_model(timm_model(name), batch, 224) for name in TIMM},
    "unet": lambda batch: image_model(UNet(), batch, 256),
    "yolov8n": lambda batch: image_model(YoloV8n(), batch, 640, "images"),
    **{f.__name__: f for f in (bert_base, distilbert, gpt2, gpt2_kv, whisper_enc, whisper_dec, t5_enc, t5_dec, dlrm, mlp64)},
    "lstm_tagger": tagger("LSTM"),
    "gru_tagger": tagger("GRU"),
}


def build(name: str, batch: int = 1) -> Model:
    """A benchmark model, for inference. The same name and batch give the same weights and inputs. Raises KeyError."""
    torch.manual_seed(0)
    m = MODELS[name](batch)
    m.module.eval().requires_grad_(False)
    for parameter, p in m.module.named_parameters():
        if parameter.endswith("gamma"):
            p.uniform_(0.1, 0.3)
    norms = [layer for layer in m.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.normal_(0, 0.2)
        layer.train()
        layer.momentum = 1.0  # the running statistics become those of the next batch
    if norms:
        m.module(*(torch.randn(2, *x.shape[1:]) for x in m.inputs.values()))
        m.module.eval()
    return m


def change(m: Model) -> float:
    """How much the first output changes with the inputs, as a share of its largest magnitude."""
    given = {name: x for name, x in m.inputs.items() if "mask" not in name}
    others = m.inputs | {n: x.flip(-1) if x.is_floating_point() else (x + 1) % VOCABULARY for n, x in given.items()}
    a, b = (y[0] if isinstance(y := m.module(*x.values()), tuple) else y for x in (m.inputs, others))
    return float((a - b).abs().max() / a.abs().max())
