"""Speech and text models of people's own: twenty architectures, each with its own batch keys and its own loss.

Small random torch modules, shaped as public models are. Every one has a right loss and wrong ones, with the code
that each must be given, and its streams as a user would declare them. No model here has ``input_ids``, ``labels`` or
``get_output_embeddings`` unless the one that it is like has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ZOO", "Architecture", "by_name"]

B, D = 2, 32


@dataclass(frozen=True)
class Architecture:
    """A model, its batch, its losses and its streams.

    Attributes:
        name: of the kind.
        model: makes it.
        batch: makes its batch.
        right: the loss that it is trained with.
        wrong: by name, losses with a fault, and the code that each must be given.
        streams: the declaration.
        offsets: of each stream under the right loss, where not +1.
        silent: streams that the batch has no target for.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Any]]
    right: Callable[..., Any]
    wrong: Mapping[str, tuple[Callable[..., Any], str]]
    streams: Mapping[str, Any]
    offsets: Mapping[str, int] = field(default_factory=dict)
    silent: tuple[str, ...] = ()


def ids(seed: int, high: int, *shape: int, low: int = 3) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def ce(logits: torch.Tensor, target: torch.Tensor, **more: Any) -> torch.Tensor:
    """Cross-entropy over (..., V) and (...)."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), **more)


class Causal(nn.Module):
    """A causal transformer of one layer and its last norm."""

    def __init__(self, width: int = D) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, device=x.device).triu(1)
        return self.norm(self.layer(x, src_mask=mask))


# -- a text head and K heads of codebooks ------------------------------------------------------------

K, VA, VT = 4, 64, 100


class TextAndBooks(nn.Module):
    """Text and K codebooks on one sequence, a head for each."""

    def __init__(self) -> None:
        super().__init__()
        self.text_table = nn.Embedding(VT, D)
        self.tables = nn.ModuleList(nn.Embedding(VA, D) for _ in range(K))
        self.body = nn.GRU(D, D, batch_first=True)
        self.text_head = nn.Linear(D, VT)
        self.heads = nn.ModuleList(nn.Linear(D, VA) for _ in range(K))

    def forward(self, text, codes):  # (B, T), (B, K, T) -> (B, T, VT), (B, K, T, VA)
        x = self.text_table(text) + sum(table(codes[:, k]) for k, table in enumerate(self.tables))
        h = self.body(x)[0]
        return self.text_head(h), torch.stack([head(h) for head in self.heads], 1)


def text_and_books(audio):
    def loss(model, batch):
        text, codes = model(batch["text"], batch["codes"])
        return ce(text[:, :-1], batch["text"][:, 1:]) + audio(codes, batch["codes"])

    return loss


# -- MOSS: channels of several vocabularies, ids (B, T, K) -------------------------------------------


class Channels(nn.Module):
    """Channel 0 holds text and speech, the others speech: heads of two vocabularies."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (120, 64, 64)
        self.tables = nn.ModuleList(nn.Embedding(size, D) for size in sizes)
        self.model = Causal()
        self.lm_heads = nn.ModuleList(nn.Linear(D, size) for size in sizes)

    def forward(self, input_ids):  # (B, T, 3)
        h = self.model(sum(table(input_ids[..., k]) for k, table in enumerate(self.tables)))
        return [head(h) for head in self.lm_heads]


def channels(shift):
    def loss(model, batch):
        per = zip(model(batch["input_ids"]), batch["labels"].unbind(-1), strict=True)
        return sum(ce(z[:, : z.shape[1] - shift], y[:, shift:]) for z, y in per)

    return loss


def channels_batch():
    codes = torch.stack([ids(k, 120 if k == 0 else 64, B, 18) for k in range(3)], -1)
    labels = codes.clone()
    labels[:, :5] = -100
    return {"input_ids": codes, "labels": labels}


# -- CSM: a backbone for codebook 0, a depth decoder with parameters for the rest --------------------


class Depth(nn.Module):
    """The heads of the depth decoder are one parameter, behind an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Embedding(80, D)
        self.audio = nn.Embedding(VA * K, D)
        self.backbone = nn.GRU(D, D, batch_first=True)
        self.decoder = nn.GRU(D, D, batch_first=True)
        self.codebook0_head = nn.Linear(D, VA, bias=False)
        self.audio_head = nn.Parameter(torch.randn(K - 1, D, VA) * 0.1)

    def forward(self, tokens, mask):  # (B, T, K + 1) both
        audio = self.audio(tokens[..., :-1] + VA * torch.arange(K))
        return self.backbone((torch.cat([audio, self.text(tokens[..., -1:])], -2) * mask[..., None]).sum(-2))[0]

    def depth(self, h, codes):  # (N, D), (N, K) -> (N, K - 1, VA)
        known = self.audio(codes[:, :-1] + VA * torch.arange(K - 1))
        out = self.decoder(torch.cat([h[:, None], known], 1))[0]
        return torch.einsum("nkd,kdv->nkv", out[:, 1:], self.audio_head)


def depth_batch():
    tokens, mask = torch.zeros(B, 14, K + 1, dtype=torch.long), torch.zeros(B, 14, K + 1, dtype=torch.bool)
    tokens[:, :5, -1], mask[:, :5, -1] = ids(0, 80, B, 5), True
    tokens[:, 5:, :K], mask[:, 5:, :K] = ids(1, VA, B, 9, K), True
    return {"tokens": tokens, "mask": mask}


def depth_right(model, batch):
    h, frame, codes = model(**batch), batch["mask"][:, 1:, 0], batch["tokens"][:, 1:, :K]
    first = ce(model.codebook0_head(h[:, :-1])[frame], codes[..., 0][frame])
    return first + ce(model.depth(h[:, :-1][frame], codes[frame]), codes[frame][:, 1:])


def depth_neighbour(model, batch):
    """The column of codebook 0 was dropped, and nothing shifted."""
    h, codes, frame = model(**batch), batch["tokens"][..., 1:], batch["mask"][..., 1:-1].any(-1)
    return ce(model.codebook0_head(h)[frame], codes[..., 0][frame])


def depth_copy(model, batch):
    h, frame, codes = model(**batch), batch["mask"][..., 0], batch["tokens"][..., :K]
    return ce(model.codebook0_head(h)[frame], codes[..., 0][frame]) + 0 * model.depth(h[frame], codes[frame]).sum()


# -- nanoGPT: inputs cut, targets shifted beforehand --------------------------------------------------


class Windows(nn.Module):
    """A text model under keys of its own; its head has more columns than there are ids."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.body, self.unembed = nn.Embedding(90, D), Causal(), nn.Linear(D, 101, bias=False)

    def forward(self, x):
        return self.unembed(self.body(self.wte(x)))


def windows_batch():
    data = ids(3, 90, B, 19)
    return {"x": data[:, :-1], "y": data[:, 1:]}


# -- the whole sequence is the batch; the model reads it without its last token ----------------------


def cut_inside(first, second=None):
    def loss(model, batch):
        rows = batch["x"][:, :-1]
        return ce(model(rows)[:, : 18 - first], batch["x"][:, 1 + first : second])

    return loss


# -- XTTS: text and mel on one GPT, a start token put in front inside --------------------------------


class TextThenMel(nn.Module):
    """Text, then mel codes behind a start token that only the model knows; heads for each part."""

    start, stop = 78, 79

    def __init__(self) -> None:
        super().__init__()
        self.text_table, self.mel_table = nn.Embedding(60, D), nn.Embedding(80, D)
        self.gpt = Causal()
        self.text_head, self.mel_head = nn.Linear(D, 60), nn.Linear(D, 80)

    def forward(self, text, mel):
        before = F.pad(mel, (1, 0), value=self.start)
        h = self.gpt(torch.cat([self.text_table(text[:, :-1]), self.mel_table(before)], 1))
        cut = text.shape[1] - 1
        return self.text_head(h[:, :cut]), self.mel_head(h[:, cut:])


def text_then_mel(target):
    def loss(model, batch):
        text, mel = model(batch["text"], batch["mel"])
        return ce(text, batch["text"][:, 1:]) + target(mel, batch["mel"])

    return loss


# -- CosyVoice: the input is put together inside, speech last ----------------------------------------


class BuiltInside(nn.Module):
    """Start, text, task and speech embeddings make one sequence; one head over all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.special, self.text, self.speech = nn.Embedding(2, D), nn.Embedding(70, D), nn.Embedding(50, D)
        self.llm, self.llm_decoder = Causal(), nn.Linear(D, 51)

    def forward(self, text_token, speech_token):
        count = len(text_token)
        start, task = (self.special.weight[i].expand(count, 1, D) for i in (0, 1))
        x = torch.cat([start, self.text(text_token), task, self.speech(speech_token)], 1)
        return self.llm_decoder(self.llm(x))


def built_inside(begin):
    """Targets: nothing for start and text, then the speech tokens and the end."""

    def loss(model, batch):
        speech = batch["speech_token"]
        ignored = speech.new_full((len(speech), batch["text_token"].shape[1] + begin), -1)
        target = torch.cat([ignored, F.pad(speech, (0, 1), value=50)], 1)
        logits = model(**batch)
        length = min(logits.shape[1], target.shape[1])
        return ce(logits[:, :length], target[:, :length], ignore_index=-1)

    return loss


# -- VALL-E: own keys, one sample of one dimension, a prompt of phonemes ------------------------------


class OneDimension(nn.Module):
    """No batch axis at all: phonemes and the first quantiser of one utterance."""

    def __init__(self) -> None:
        super().__init__()
        self.phones, self.codes = nn.Embedding(40, D), nn.Embedding(66, D)
        self.body, self.predict_layer = Causal(), nn.Linear(D, 66, bias=False)

    def forward(self, phonemes, audio):  # (P,), (T,) -> (T, 66)
        x = torch.cat([self.phones(phonemes), self.codes(audio)])
        return self.predict_layer(self.body(x[None])[0, len(phonemes) :])


def one_dimension(shift):
    def loss(model, batch):
        logits = model(batch["phonemes"], batch["audio"])
        return ce(logits[: len(logits) - shift], batch["audio"][shift:])

    return loss


# -- Parler: ids (B * K, T), one head for all codebooks ----------------------------------------------


class Flat(nn.Module):
    """Codebooks folded into the batch, as MusicGen and Parler do."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(VA, D) for _ in range(K))
        self.decoder, self.lm_head = Causal(), nn.Linear(D, K * VA, bias=False)

    def forward(self, decoder_codes):  # (B * K, T) -> (B, T, K * VA)
        codes = decoder_codes.reshape(-1, K, decoder_codes.shape[-1])
        return self.lm_head(self.decoder(sum(table(codes[:, k]) for k, table in enumerate(self.tables))))


def flat(shift):
    def loss(model, batch):
        logits = model(batch["decoder_codes"]).unflatten(-1, (K, VA))  # (B, T, K, VA)
        codes = batch["decoder_codes"].reshape(B, K, -1).transpose(1, 2)
        return ce(logits[:, : logits.shape[1] - shift], codes[:, shift:])

    return loss


# -- SoundStorm: masked levels -----------------------------------------------------------------------


class Levels(nn.Module):
    """Bidirectional; level q is masked in part, what lies above it wholly."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(41, D) for _ in range(3))
        self.lm = nn.TransformerEncoderLayer(D, 2, 64, 0.0, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(D, 40) for _ in range(3))

    def forward(self, inputs):  # (B, T, 3)
        h = self.lm(sum(table(inputs[..., k]) for k, table in enumerate(self.tables)))
        return torch.stack([head(h) for head in self.heads], 2)


def levels_batch():
    truth = ids(5, 40, B, 16, 3, low=0)
    inputs, hidden = truth.clone(), ids(6, 2, B, 16, low=0) == 1
    inputs[..., 1][hidden] = 40
    inputs[..., 2] = 40
    labels = torch.full_like(truth, -100)
    labels[..., 1] = truth[..., 1].masked_fill(~hidden, -100)
    return {"inputs": inputs, "truth": truth, "labels": labels}


def levels_right(model, batch):
    return ce(model(batch["inputs"]), batch["labels"])


def levels_above(model, batch):
    return ce(model(batch["inputs"]), batch["truth"].masked_fill(batch["inputs"] != 40, -100))


def levels_seen(model, batch):
    return ce(model(batch["inputs"])[:, :, 1], batch["truth"][..., 1])


# -- Qwen3-TTS: a talker, and a code predictor that is called on its frames ---------------------------


class Talker(nn.Module):
    """The talker predicts the first code of a frame; a predictor of its own, a head a codebook, the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.codes = nn.Embedding(80, D), nn.ModuleList(nn.Embedding(VA, D) for _ in range(3))
        self.model, self.codec_head = Causal(), nn.Linear(D, VA, bias=False)
        self.predictor = nn.GRU(D, D, batch_first=True)
        self.predictor_heads = nn.ModuleList(nn.Linear(D, VA, bias=False) for _ in range(2))

    def forward(self, text, codes):  # (B, T), (B, T, 3)
        return self.model(self.text(text) + sum(table(codes[..., k]) for k, table in enumerate(self.codes)))

    def rest(self, h, codes):  # (N, D), (N, 3) -> 2 of (N, VA)
        known = torch.stack([h, self.codes[0](codes[:, 0]), self.codes[1](codes[:, 1])], 1)
        out = self.predictor(known)[0]
        return [head(out[:, k + 1]) for k, head in enumerate(self.predictor_heads)]


def talker(shift, behind=1):
    def loss(model, batch):
        h, codes = model(**batch), batch["codes"]
        rows = h[:, : h.shape[1] - shift]
        first = ce(model.codec_head(rows), codes[:, shift:, 0])
        frames = codes[:, behind:].flatten(0, 1)
        rest = model.rest(h[:, : h.shape[1] - behind].flatten(0, 1), frames)
        return first + sum(ce(z, frames[:, k + 1]) for k, z in enumerate(rest))

    return loss


# -- a translator: an encoder, a decoder that is given its ids ----------------------------------------


class Translator(nn.Module):
    """Encoder and decoder of torch's own, keys of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, D), nn.Embedding(70, D)
        self.net = nn.Transformer(D, 2, 1, 1, 64, 0.0, batch_first=True)
        self.generator = nn.Linear(D, 75)

    def forward(self, src, tgt):
        mask = torch.full((tgt.shape[1], tgt.shape[1]), -torch.inf).triu(1)
        return self.generator(self.net(self.source(src), self.target(tgt), tgt_mask=mask))


def translator(shift):
    def loss(model, batch):
        return ce(
            model(batch["src"], batch["tgt"][:, :-1])[:, : 11 - max(shift - 1, 0)], batch["tgt"][:, shift : shift + 11]
        )

    return loss


# -- chunks: the head is called on one piece of the rows after the other ------------------------------


class Chunked(Windows):
    """Its forward makes the loss: the head is called on a few rows at a time."""

    def forward(self, x, shift=1):
        h = self.body(self.wte(x))
        rows, target = h[:, : h.shape[1] - shift].flatten(0, 1), x[:, shift:].flatten()
        pieces = zip(rows.split(7), target.split(7), strict=True)
        return sum(ce(self.unembed(one), wanted, reduction="sum") for one, wanted in pieces) / len(target)


def in_chunks(shift):
    def loss(model, batch):
        return model(batch["x"], shift)

    return loss


# -- a convolution as a head, logits (B, V, T) --------------------------------------------------------


class Convolved(nn.Module):
    """The head is a convolution: its vocabulary is the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(45, D), Causal(), nn.Conv1d(D, 45, 1)

    def forward(self, units):
        return self.head(self.body(self.table(units)).transpose(1, 2))


def convolved(shift):
    def loss(model, batch):
        logits = model(batch["units"])  # (B, V, T)
        return F.cross_entropy(logits[..., : logits.shape[-1] - shift], batch["units"][:, shift:])

    return loss


# -- logits by the embedding's own weight, no head at all ---------------------------------------------


class Tied(nn.Module):
    """``h @ table.weight.T``: no module makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(95, D), Causal()

    def forward(self, tokens):
        return self.body(self.table(tokens)) @ self.table.weight.T


def tied(shift):
    def loss(model, batch):
        logits = model(batch["tokens"])
        return ce(logits[:, : logits.shape[1] - shift], batch["tokens"][:, shift:])

    return loss


# -- time before samples ------------------------------------------------------------------------------


class TimeFirst(nn.Module):
    """(T, B) everywhere inside, as recurrent code is written."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.out = nn.Embedding(55, D), nn.GRU(D, D), nn.Linear(D, 55)

    def forward(self, tokens):  # (B, T) -> (T, B, V)
        return self.out(self.rnn(self.table(tokens).transpose(0, 1))[0])


def time_first(shift):
    def loss(model, batch):
        logits, tokens = model(batch["tokens"]), batch["tokens"].T
        return ce(logits[: len(logits) - shift], tokens[shift:])

    return loss


# -- heads of several distances on one body -----------------------------------------------------------


class Ahead(nn.Module):
    """A head for the next token, two for those after it."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.body, self.lm_head = nn.Embedding(90, D), Causal(), nn.Linear(D, 95)
        self.mtp = nn.ModuleList(nn.Linear(D, 95) for _ in range(2))

    def forward(self, x):
        h = self.body(self.wte(x))
        return [head(h) for head in (self.lm_head, *self.mtp)]


def several_ahead(*steps):
    def loss(model, batch):
        heads = zip(model(batch["x"]), steps, strict=True)
        return sum(ce(z[:, :-step], batch["x"][:, step:]) for z, step in heads)

    return loss


# -- Dia: channels behind a delay, begun by a filler, ended each on its own diagonal ------------------

BEGIN, END, FILL, DELAYS = 60, 61, 62, (0, 1, 3)


class Delayed(nn.Module):
    """Channels that come in one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(64, D) for _ in DELAYS)
        self.decoder, self.heads = Causal(), nn.ModuleList(nn.Linear(D, 64) for _ in DELAYS)

    def forward(self, codes, labels=None):  # (B, T, 3), and what the loss will want of it
        h = self.decoder(sum(table(codes[..., k]) for k, table in enumerate(self.tables)))
        return torch.stack([head(h) for head in self.heads], 2)


def delayed_batch(cut=False):
    """Two audios, the second shorter; ``cut``: off at the length before the delay, and ended in one row."""
    lengths, frames = (14, 10), 14 + max(DELAYS) + 2
    codes = torch.full((2, frames, len(DELAYS)), FILL)
    for sample, length in enumerate(lengths):
        for k, delay in enumerate(DELAYS):
            codes[sample, : 1 + delay, k] = BEGIN
            codes[sample, 1 + delay : 1 + delay + length, k] = ids(50 + 3 * sample + k, 60, length, low=0)
            codes[sample, 1 + delay + length, k] = END
        if cut:
            codes[sample, 1 + length :] = FILL
            codes[sample, 1 + length] = END
    return {"codes": codes, "labels": codes.masked_fill((codes == BEGIN) | (codes == FILL), -100)}


def delayed(shift, key="labels"):
    def loss(model, batch):
        logits = model(**batch)
        return ce(logits[:, : logits.shape[1] - shift], batch[key][:, shift:])

    return loss


# -- XTTS with a reference: part of the codes is what the voice is taken from -------------------------


class Conditioned(TextThenMel):
    """Codes that the voice is taken from stand inside the sequence, and are no targets."""

    def forward(self, text, mel, spoken):
        return super().forward(text, mel[:, :-1])


def conditioned_batch():
    mel = F.pad(ids(56, 78, 3, 12, low=0), (0, 1), value=79)
    places, reference = torch.arange(13), torch.tensor([[2, 6], [0, 4], [5, 9]])
    spoken = (places < reference[:, :1]) | (places >= reference[:, 1:])
    return {"text": ids(57, 60, 3, 7), "mel": mel, "spoken": spoken}


def conditioned(samples, shift=0):
    """``samples``: of which the reference is left out."""

    def loss(model, batch):
        text, mel = model(**batch)
        left_out = ~batch["spoken"] & torch.tensor(samples)[:, None]
        target = batch["mel"].masked_fill(left_out, -100)
        return ce(text, batch["text"][:, 1:]) + ce(mel[:, : mel.shape[1] - shift], target[:, shift:])

    return loss


# -- two speakers, one head that is called for each ---------------------------------------------------


class Duplex(nn.Module):
    """Both sides of a conversation: one head gives the codes of the one, then of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.body = nn.ModuleList(nn.Embedding(VA, D) for _ in range(2)), Causal()
        self.sides, self.head = nn.ModuleList(nn.Linear(D, D) for _ in range(2)), nn.Linear(D, VA, bias=False)

    def forward(self, mine, theirs):
        h = self.body(self.tables[0](mine) + self.tables[1](theirs))
        return [self.head(side(h)) for side in self.sides]


def duplex(first, second):
    def loss(model, batch):
        mine, theirs = model(**batch)
        return first(mine, batch) + second(theirs, batch)

    return loss


def side(key, shift=1):
    return lambda z, batch: ce(z[:, : z.shape[1] - shift], batch[key][:, shift:])


ZOO = [
    Architecture(
        "text and K codebooks",
        TextAndBooks,
        lambda: {"text": ids(1, VT, B, 20), "codes": ids(2, VA, B, K, 20)},
        text_and_books(lambda z, y: ce(z[:, :, :-1], y[:, :, 1:])),
        {
            "copy": (text_and_books(ce), "LA102"),
            "rotated codebooks": (text_and_books(lambda z, y: ce(z[:, :, :-1], y.roll(1, 1)[:, :, 1:])), "LA106"),
        },
        {
            "text": {"head": "text_head", "ids": "text"},
            "audio[{k}]": {"head": "heads.{k}", "ids": "codes[:, {k}]"},
        },
    ),
    Architecture(
        "channels of several vocabularies",
        Channels,
        channels_batch,
        channels(1),
        {"not shifted": (channels(0), "LA102"), "shifted twice": (channels(2), "LA103")},
        {"audio[{k}]": {"head": "lm_heads.{k}", "ids": "input_ids[..., {k}]", "labels": "labels[..., {k}]"}},
    ),
    Architecture(
        "backbone and depth decoder",
        Depth,
        depth_batch,
        depth_right,
        {"next codebook": (depth_neighbour, "LA106"), "copy": (depth_copy, "LA102")},
        {
            "audio[0]": {"head": "codebook0_head", "ids": "tokens[..., 0]", "mask": "mask[..., 0]"},
            **{
                f"audio[{k}]": {
                    "head": f"audio_head[:, {k - 1}]",
                    "ids": f"tokens[..., {k}]",
                    "mask": f"mask[..., {k}]",
                }
                for k in range(1, K)
            },
        },
    ),
    Architecture(
        "windows",
        Windows,
        windows_batch,
        lambda model, batch: ce(model(batch["x"]), batch["y"]),
        {
            "copy": (lambda model, batch: ce(model(batch["x"]), batch["x"]), "LA102"),
            "shifted again": (lambda model, batch: ce(model(batch["x"])[:, :-1], batch["y"][:, 1:]), "LA103"),
        },
        {"text": {"head": "unembed", "ids": "x", "labels": "y"}},
    ),
    Architecture(
        "cut inside the loss",
        Windows,
        lambda: {"x": ids(4, 90, B, 19)},
        cut_inside(0),
        {"shifted again": (cut_inside(1), "LA103"), "copy": (cut_inside(-1, -1), "LA102")},
        {"text": {"head": "unembed", "ids": "x"}},
    ),
    Architecture(
        "text then mel",
        TextThenMel,
        lambda: {"text": ids(5, 60, 3, 7), "mel": ids(6, 78, 3, 12, low=0)},
        text_then_mel(lambda z, y: ce(z, F.pad(y, (0, 1), value=79))),
        {
            "shifted again": (text_then_mel(lambda z, y: ce(z[:, :-2], y[:, 1:])), "LA103"),
            "copy": (text_then_mel(lambda z, y: ce(z[:, 1:], y)), "LA102"),
        },
        {"text": {"head": "text_head", "ids": "text"}, "audio": {"head": "mel_head", "ids": "mel", "ends": [79]}},
    ),
    Architecture(
        "built inside",
        BuiltInside,
        lambda: {"text_token": ids(7, 70, B, 6), "speech_token": ids(8, 50, B, 13, low=0)},
        built_inside(1),
        {"one late": (built_inside(2), "LA102"), "one early": (built_inside(0), "LA103")},
        {"audio": {"head": "llm_decoder", "ids": "speech_token", "ends": [50]}},
    ),
    Architecture(
        "one dimension",
        OneDimension,
        lambda: {"phonemes": ids(9, 40, 5), "audio": ids(10, 66, 21)},
        one_dimension(1),
        {"copy": (one_dimension(0), "LA102"), "shifted twice": (one_dimension(2), "LA103")},
        {"audio": {"head": "predict_layer", "ids": "audio"}},
    ),
    Architecture(
        "codebooks folded into the batch",
        Flat,
        lambda: {"decoder_codes": ids(11, VA, B * K, 15)},
        flat(1),
        {"copy": (flat(0), "LA102"), "shifted twice": (flat(2), "LA103")},
        {"audio[{k}]": {"head": "lm_head", "ids": "decoder_codes[{k}::4]"}},
    ),
    Architecture(
        "masked levels",
        Levels,
        levels_batch,
        levels_right,
        {"levels above": (levels_above, "LA202"), "what is seen": (levels_seen, "LA401")},
        {
            "audio[{k}]": {
                "head": "heads.{k}",
                "ids": "inputs[..., {k}]",
                "labels": "labels[..., {k}]",
                "objective": "masked",
                "fillers": [40],
            }
        },
        silent=("audio[0]", "audio[2]"),
    ),
    Architecture(
        "talker and code predictor",
        Talker,
        lambda: {"text": ids(12, 80, B, 11), "codes": ids(13, VA, B, 11, 3)},
        talker(1),
        {"copy": (talker(0), "LA102"), "shifted twice": (talker(2), "LA103"), "own frame": (talker(1, 0), "LA102")},
        {
            "audio[0]": {"head": "codec_head", "ids": "codes[..., 0]"},
            "audio[1]": {"head": "predictor_heads.0", "ids": "codes[..., 1]"},
            "audio[2]": {"head": "predictor_heads.1", "ids": "codes[..., 2]"},
        },
    ),
    Architecture(
        "translator",
        Translator,
        lambda: {"src": ids(14, 50, B, 9), "tgt": ids(15, 70, B, 12)},
        translator(1),
        {
            "copy": (translator(0), "LA102"),
            "shifted twice": (lambda m, b: ce(m(b["src"], b["tgt"][:, :-1])[:, :-1], b["tgt"][:, 2:]), "LA103"),
        },
        {"text": {"head": "generator", "ids": "tgt"}},
    ),
    Architecture(
        "head in chunks",
        Chunked,
        lambda: {"x": ids(16, 90, B, 18)},
        in_chunks(1),
        {"copy": (in_chunks(0), "LA102"), "shifted twice": (in_chunks(2), "LA103")},
        {"text": {"head": "unembed", "ids": "x"}},
    ),
    Architecture(
        "convolution as a head",
        Convolved,
        lambda: {"units": ids(17, 45, B, 14)},
        convolved(1),
        {"copy": (convolved(0), "LA102"), "shifted twice": (convolved(2), "LA103")},
        {"audio": {"head": "head", "ids": "units"}},
    ),
    Architecture(
        "tied, without a head",
        Tied,
        lambda: {"tokens": ids(18, 95, B, 14)},
        tied(1),
        {"copy": (tied(0), "LA102"), "shifted twice": (tied(2), "LA103")},
        {"text": {"head": "table.weight", "ids": "tokens"}},
    ),
    Architecture(
        "time before samples",
        TimeFirst,
        lambda: {"tokens": ids(19, 55, B, 14)},
        time_first(1),
        {"copy": (time_first(0), "LA102"), "shifted twice": (time_first(2), "LA103")},
        {"text": {"head": "out", "ids": "tokens"}},
    ),
    Architecture(
        "several ahead",
        Ahead,
        lambda: {"x": ids(20, 90, B, 18)},
        several_ahead(1, 2, 3),
        {"one short": (several_ahead(1, 1, 2), "LA104"), "base shifted again": (several_ahead(2, 2, 3), "LA103")},
        {
            "text": {"head": "lm_head", "ids": "x"},
            "mtp[{k}]": {"head": "mtp.{k}", "ids": "x", "ahead": 2, "ahead_step": 1},
        },
        {"mtp[0]": 2, "mtp[1]": 3},
    ),
    Architecture(
        "channels behind a delay",
        Delayed,
        delayed_batch,
        delayed(1),
        {"copy": (delayed(0), "LA102"), "shifted twice": (delayed(2), "LA103")},
        {
            "audio[{k}]": {
                "head": "heads.{k}",
                "ids": "codes[..., {k}]",
                "labels": "labels[..., {k}]",
                "ends": [END],
                "fillers": [BEGIN, FILL],
            }
        },
    ),
    Architecture(
        "text, reference and mel",
        Conditioned,
        conditioned_batch,
        conditioned([True, True, True]),
        {
            "reference of all but the last": (conditioned([False, False, True]), "LA202"),
            "shifted twice": (conditioned([True, True, True], 1), "LA103"),
        },
        {
            "text": {"head": "text_head", "ids": "text"},
            "audio": {"head": "mel_head", "ids": "mel", "mask": "spoken", "ends": [79]},
        },
    ),
    Architecture(
        "one head for two speakers",
        Duplex,
        lambda: {"mine": ids(58, VA, B, 15), "theirs": ids(59, VA, B, 15)},
        duplex(side("mine"), side("theirs")),
        {
            "copy of theirs": (duplex(side("mine"), side("theirs", 0)), "LA102"),
            "speakers swapped": (duplex(side("theirs"), side("mine")), "LA106"),
        },
        {
            "audio[0]": {"head": "head", "ids": "mine", "call": 0},
            "audio[1]": {"head": "head", "ids": "theirs", "call": 1},
        },
    ),
]


def by_name(name: str) -> Architecture:
    return next(one for one in ZOO if one.name == name)
