"""Speech models as they are public today, small and random: their inputs, heads and losses, and their streams declared.

One vocabulary for text and codes, laid one behind another or frame by frame; two heads on one sequence; a head of no
tokens; codes that are heard and not spoken.
"""

import torch
import torch.nn.functional as F
from speech_zoo import Architecture, B, Causal, D, ce, ids
from torch import nn

__all__ = ["SPEECH"]


def later(target, shift, fill=-100):
    """What stands ``shift`` places later on the last axis, and nothing past the end."""
    return F.pad(target[..., shift:], (0, shift), value=fill) if shift else target


class OneVocabulary(nn.Module):
    """A language model whose vocabulary holds text and speech."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.model, self.lm_head = nn.Embedding(size, D), Causal(), nn.Linear(D, size, bias=False)

    def forward(self, input_ids):
        return self.lm_head(self.model(self.embed(input_ids)))


# -- Orpheus: seven codes a frame, each codebook with ids of its own ----------------------------------

BOOKS, CODES, FIRST = 7, 16, 64
END, PAD = 63, 0


def interleaved_batch():
    """Text, then frames of seven codes and an end; the second sample is a frame shorter."""
    rows, labels = [], []
    for number, frames in enumerate((3, 2)):
        codes = FIRST + ids(30 + number, CODES, frames, BOOKS, low=0) + CODES * torch.arange(BOOKS)
        text, speech = ids(number, 60, 5), torch.cat([codes.flatten(), torch.tensor([END])])
        more = BOOKS * (3 - frames)
        rows.append(F.pad(torch.cat([text, speech]), (0, more), value=PAD))
        labels.append(F.pad(torch.cat([torch.full_like(text, -100), speech]), (0, more), value=-100))
    return {"input_ids": torch.stack(rows), "labels": torch.stack(labels)}


def shifted(shift, target=lambda batch: batch["labels"]):
    return lambda model, batch: ce(model(batch["input_ids"]), later(target(batch), shift))


def without_end(batch):
    return batch["labels"].masked_fill(batch["labels"] == END, -100)


# -- Llasa, Spark: text, tokens of the speaker and tokens of the speech, under a mask -----------------


def masked_batch():
    tokens = torch.cat([ids(0, 40, B, 6), ids(1, 60, B, 4, low=40), ids(2, 90, B, 12, low=60)], 1)
    return {"tokens": tokens, "loss_mask": (torch.arange(22) >= 10).long().expand(B, 22).contiguous()}


def under_mask(shift, mask_shift):
    def loss(model, batch):
        mask = later(batch["loss_mask"], mask_shift, fill=0)
        target = later(batch["tokens"], shift).masked_fill(mask == 0, -100)
        return ce(model(batch["tokens"]), target)

    return loss


# -- VibeVoice: a head for text, and one that removes noise from speech ------------------------------


class TextAndDiffusion(nn.Module):
    """Latents stand beside the text that they belong to; the next one is diffused from the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.connector = nn.Embedding(70, D), nn.Linear(8, D)
        self.language_model, self.lm_head = Causal(), nn.Linear(D, 70, bias=False)
        self.diffusion_head = nn.Sequential(nn.Linear(D + 8, D), nn.SiLU(), nn.Linear(D, 8))

    def forward(self, text, latents, noise):
        h = self.language_model(self.embed(text) + self.connector(latents))
        return self.lm_head(h), self.diffusion_head(torch.cat([h, noise], -1))


def diffusion_batch():
    noise = torch.Generator().manual_seed(4)
    latents, noisy = torch.randn(2, B, 16, 8, generator=noise)
    return {"text": ids(5, 70, B, 16), "latents": latents, "noise": noisy}


def with_diffusion(shift, mask=0):
    def loss(model, batch):
        logits, guessed = model(**batch)
        target = later(batch["text"], shift)
        target = target.masked_fill(torch.arange(16) < mask, -100)
        return ce(logits, target) + F.mse_loss(guessed[:, :-1], batch["latents"][:, 1:])

    return loss


# -- Qwen3-TTS: text and codes summed, codebook 0 from the talker, the others from a code predictor ---


class TalkerAndPredictor(nn.Module):
    """The code predictor has an embedding and a head for each of the other codebooks."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.codes = nn.Embedding(50, D), nn.ModuleList(nn.Embedding(40, D) for _ in range(3))
        self.talker, self.codec_head = Causal(), nn.Linear(D, 40, bias=False)
        self.code_predictor = Causal()
        self.lm_head = nn.ModuleList(nn.Linear(D, 40, bias=False) for _ in range(2))

    def forward(self, text, codes):  # (B, T), (B, T, 3)
        return self.talker(self.text(text) + sum(table(codes[..., k]) for k, table in enumerate(self.codes)))

    def rest(self, hidden, codes):  # (N, D), (N, 3)
        known = torch.stack([hidden, *(self.codes[k](codes[:, k]) for k in range(2))], 1)
        out = self.code_predictor(known)
        return [head(out[:, k + 1]) for k, head in enumerate(self.lm_head)]


def talker_batch():
    return {"text": ids(6, 50, B, 14), "codes": ids(7, 40, B, 14, 3)}


def talking(shift, *, behind=1, rest=1.0):
    """``behind``: by how many places the state lies before the frame that the predictor is given."""

    def loss(model, batch):
        codes, hidden = batch["codes"], model(**batch)
        first = ce(model.codec_head(hidden), later(codes[..., 0], shift))
        given = hidden[:, : hidden.shape[1] - behind].flatten(0, 1)
        frames = codes[:, behind:].flatten(0, 1)
        logits = model.rest(given, frames)
        return first + sum(ce(z, frames[:, k + 1]) for k, z in enumerate(logits)) * rest

    return loss


# -- Kimi-Audio: a head for text and one for audio, over one sequence of both ------------------------


class TwoHeads(nn.Module):
    """Layers are shared, and part before the heads; audio lags behind text."""

    def __init__(self) -> None:
        super().__init__()
        self.text_table, self.audio_table = nn.Embedding(80, D), nn.Embedding(48, D)
        self.shared, self.mimo = Causal(), Causal()
        self.lm_head, self.mimo_output = nn.Linear(D, 80, bias=False), nn.Linear(D, 48, bias=False)

    def forward(self, text_input_ids, audio_input_ids):
        h = self.shared(self.text_table(text_input_ids) + self.audio_table(audio_input_ids))
        return self.mimo_output(self.mimo(h)), self.lm_head(h)


def two_heads_batch():
    text, audio = ids(8, 80, B, 18), ids(9, 48, B, 18)
    audio[:, :6] = 0  # blank: it lags by six
    seen = torch.arange(18)
    return {
        "text_input_ids": text,
        "audio_input_ids": audio,
        "text_labels": text.masked_fill(seen < 3, -100),
        "audio_labels": audio.masked_fill(seen < 6, -100),
    }


def two_heads(text_shift, audio_shift, text="text_labels"):
    def loss(model, batch):
        audio_logits, text_logits = model(batch["text_input_ids"], batch["audio_input_ids"])
        spoken = ce(audio_logits, later(batch["audio_labels"], audio_shift))
        return ce(text_logits, later(batch[text], text_shift)) + spoken

    return loss


# -- Moshi: two codebooks that it speaks and two that it hears, which must not be trained -------------


class SpeaksAndHears(nn.Module):
    """A head for every codebook, those of the user too: in dialogue they are inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(60, D) for _ in range(4))
        self.transformer = Causal()
        self.linears = nn.ModuleList(nn.Linear(D, 60, bias=False) for _ in range(4))

    def forward(self, codes):  # (B, 4, T)
        h = self.transformer(sum(table(codes[:, k]) for k, table in enumerate(self.tables)))
        return torch.stack([head(h) for head in self.linears], 1)


def dialogue_batch():
    codes = ids(10, 60, B, 4, 16)
    labels = codes.clone()
    labels[:, 2:] = -100
    return {"codes": codes, "labels": labels}


def dialogue(target):
    return lambda model, batch: ce(model(batch["codes"]), later(target(batch), 1))


SPEECH = [
    Architecture(
        "interleaved codes (Orpheus)",
        lambda: OneVocabulary(FIRST + BOOKS * CODES),
        interleaved_batch,
        shifted(1),
        {
            "shifted twice": (shifted(2), "LA103"),
            "text trained too": (shifted(1, lambda batch: batch["input_ids"]), "LA202"),
            "end left out": (shifted(1, without_end), "LA203"),
        },
        {"text": {"head": "lm_head", "ids": "input_ids", "labels": "labels", "ends": [END], "padding": PAD}},
    ),
    Architecture(
        "speaker and speech tokens (Llasa, Spark)",
        lambda: OneVocabulary(90),
        masked_batch,
        under_mask(1, 1),
        {"copy": (under_mask(0, 0), "LA102"), "mask not shifted": (under_mask(1, 0), "LA201")},
        {"text": {"head": "lm_head", "ids": "tokens", "mask": "loss_mask"}},
    ),
    Architecture(
        "text head and diffusion head (VibeVoice)",
        TextAndDiffusion,
        diffusion_batch,
        with_diffusion(1),
        {"copy": (with_diffusion(0), "LA102"), "shifted twice": (with_diffusion(2), "LA103")},
        {"text": {"head": "lm_head", "ids": "text"}},
    ),
    Architecture(
        "talker with text, and code predictor (Qwen3-TTS)",
        TalkerAndPredictor,
        talker_batch,
        talking(1),
        {
            "predictor never trained": (talking(1, rest=0.0), "LA205"),
            "state that has read its frame": (talking(1, behind=0), "LA102"),
            "shifted twice": (talking(2), "LA103"),
        },
        {
            "audio[0]": {"head": "codec_head", "ids": "codes[..., 0]", "labels": "codes[..., 0]"},
            "audio[{k+1}]": {"head": "lm_head.{k}", "ids": "codes[..., {k+1}]", "labels": "codes[..., {k+1}]"},
        },
    ),
    Architecture(
        "two heads on one sequence (Kimi-Audio)",
        TwoHeads,
        two_heads_batch,
        two_heads(1, 1),
        {
            "audio not shifted": (two_heads(1, 0), "LA102"),
            "prompt trained": (two_heads(1, 1, text="text_input_ids"), "LA202"),
        },
        {
            "text": {"head": "lm_head", "ids": "text_input_ids", "labels": "text_labels"},
            "audio[0]": {
                "head": "mimo_output",
                "ids": "audio_input_ids",
                "labels": "audio_labels",
                "fillers": [0],
            },
        },
    ),
    Architecture(
        "a user who is heard and not spoken (Moshi)",
        SpeaksAndHears,
        dialogue_batch,
        dialogue(lambda batch: batch["labels"]),
        {
            "user trained": (dialogue(lambda batch: batch["codes"]), "LA202"),
            "user in place of its own": (
                dialogue(lambda batch: torch.where(batch["labels"] < 0, -100, batch["codes"].roll(2, 1))),
                "LA106",
            ),
        },
        {"audio[{k}]": {"head": "linears.{k}", "ids": "codes[:, {k}]", "labels": "labels[:, {k}]"}},
        silent=("audio[2]", "audio[3]"),
    ),
]
