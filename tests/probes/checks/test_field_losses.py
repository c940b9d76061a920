"""Losses as the field writes them, each in a right form that passes and in a wrong one that is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss

VOCABULARY, WIDTH = 128, 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes))


def tokens(seed=0, high=VOCABULARY, samples=3, length=12):
    return torch.randint(3, high, (samples, length), generator=torch.Generator().manual_seed(seed))


def answered(prompt=4):
    """Three samples whose prompts are masked."""
    ids = tokens()
    labels = ids.clone()
    labels[:, :prompt] = -100
    return {"input_ids": ids, "labels": labels}


def by(loss, offset):
    """``loss`` with its rows paired with the labels ``offset`` further on."""
    return lambda model, batch: loss(model, batch, offset)


def paired(logits, labels, offset):
    return logits[:, : logits.shape[1] - offset].flatten(0, 1), labels[:, offset:].flatten()


def judged(model, batch, loss, **options):
    """The verdict, and the codes of what was found."""
    report = check_loss(model, batch, loss, **options)
    return report.verdict, [one.code for one in report.findings if one.severity != "warning"]


def head_in_a_checkpoint(model, batch, offset):
    def loss(hidden, labels):
        return F.cross_entropy(*paired(model.lm_head(hidden), labels, offset))

    return checkpoint(loss, model.model(input_ids=batch["input_ids"])[0], batch["labels"], use_reentrant=False)


def hardest_tokens(model, batch, offset, keep=0.6):
    logits, labels = paired(model(input_ids=batch["input_ids"]).logits, batch["labels"], offset)
    loss = F.cross_entropy(logits, labels, reduction="none")[labels != -100]
    return loss.topk(int(keep * len(loss))).values.mean()


def dropped_tokens(model, batch, offset):
    gone = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(3)) < 0.2
    logits = model(input_ids=batch["input_ids"].masked_fill(gone, 1)).logits
    return F.cross_entropy(*paired(logits, batch["labels"], offset))


def mixed(model, batch, offset):
    """Mixup: two samples in one, trained on the targets of both."""
    embedded, other = model.model.embed_tokens(batch["input_ids"]), batch["labels"].roll(1, 0)
    logits = model(inputs_embeds=0.7 * embedded + 0.3 * embedded.roll(1, 0)).logits
    own, others = (F.cross_entropy(*paired(logits, labels, offset)) for labels in (batch["labels"], other))
    return 0.7 * own + 0.3 * others


def batch_twice(model, batch, offset):
    logits = model(input_ids=batch["input_ids"].repeat(2, 1)).logits
    loss = F.cross_entropy(*paired(logits, batch["labels"].repeat(2, 1), offset))
    one, other = logits.log_softmax(-1).chunk(2)
    return loss + F.kl_div(one, other, reduction="batchmean", log_target=True)


def two_forwards(model, batch, offset, one=1):
    """R-Drop: both forwards are trained, and on each other."""
    logits = [model(input_ids=batch["input_ids"]).logits for _ in range(2)]
    sides = [F.cross_entropy(*paired(z, batch["labels"], at)) for z, at in zip(logits, (one, offset), strict=True)]
    first, other = (z.log_softmax(-1) for z in logits)
    return sum(sides) / 2 + F.kl_div(first, other, reduction="batchmean", log_target=True) / 10


OFFSETS = [(1, ("pass", [])), (0, ("fail", ["LA102"])), (2, ("fail", ["LA103"]))]


@pytest.mark.parametrize(("offset", "told"), OFFSETS)
@pytest.mark.parametrize("loss", [head_in_a_checkpoint, hardest_tokens, dropped_tokens, batch_twice, two_forwards])
def test_a_shift_in_each_form(model, loss, offset, told):
    assert judged(model, answered(), by(loss, offset)) == told


def test_forwards_of_other_inputs_are_not_judged_by_themselves(model):
    def loss(model, batch):  # a denoising beside the next token
        noised = batch["input_ids"].clone()
        noised[:, ::3] = 1
        sides = [(batch["input_ids"], 1), (noised, 0)]
        return sum(F.cross_entropy(*paired(model(input_ids=ids).logits, batch["labels"], at)) for ids, at in sides)

    assert judged(model, answered(), loss) == ("incomplete", ["LA802"])


def test_samples_that_the_loss_mixes_are_a_blind_spot_and_a_model_that_mixes_them_leaks(model):
    class Centred(type(model)):
        def forward(self, input_ids):
            embedded = self.model.embed_tokens(input_ids)
            return super().forward(inputs_embeds=embedded - embedded.mean(0, keepdim=True) / 2)

    assert judged(model, answered(), by(mixed, 1)) == ("incomplete", ["LA802", "LA805"])
    leaking = Centred(model.config)
    ids = tokens()
    seen = judged(
        leaking,
        {"input_ids": ids, "labels": ids},
        lambda model, batch: F.cross_entropy(*paired(model(batch["input_ids"]).logits, batch["labels"], 1)),
    )
    assert seen == ("fail", ["LA401"])


@pytest.mark.parametrize("real_logits", [False, True])
@pytest.mark.parametrize("keep", [0.1, 0.6])
def test_rows_that_a_loss_leaves_out_by_its_logits_are_no_missing_ones(model, keep, real_logits):
    def halved(model, batch):
        labels = batch["labels"].clone()
        labels[:, 1::2] = -100
        return hardest_tokens(model, {**batch, "labels": labels}, 1, keep)

    def twice(model, batch):
        return hardest_tokens(model, {name: value.repeat(2, 1) for name, value in batch.items()}, 1, keep)

    right = by(lambda *given: hardest_tokens(*given, keep), 1)
    assert judged(model, answered(), right, real_logits=real_logits) == ("pass", [])
    assert judged(model, answered(), twice, real_logits=real_logits) == ("pass", [])
    assert judged(model, answered(), halved, real_logits=real_logits) == ("fail", ["LA201"])


def easiest_tokens(logits, labels):
    every = F.cross_entropy(logits, labels, reduction="none")[labels != -100]
    return every.topk(int(0.6 * len(every)), largest=False).values.mean()


def hardest_beyond_another_model(logits, labels):
    other = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    rows = labels != -100
    every, known = (F.cross_entropy(z, labels, reduction="none")[rows] for z in (logits, other))
    return every[(every - known).topk(len(every) // 2).indices].mean()


def hardest_in_slices(logits, labels):
    every = F.cross_entropy(logits, labels, reduction="none")[labels != -100]
    return torch.stack([one.max() for one in every.split(3)]).mean()


def penalised(logits, labels):
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    return F.cross_entropy(logits, labels) + 1e-3 * entropy + 1e-4 * logits.pow(2).mean()


CHOOSING = [easiest_tokens, hardest_beyond_another_model, hardest_in_slices]


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("of_rows", [*CHOOSING, penalised])
def test_rows_that_no_logits_train_are_missing_and_no_others(model, of_rows, halved):
    def loss(model, batch):
        labels = batch["labels"].clone()
        labels[:, 1::2] = -100 if halved else labels[:, 1::2]
        return of_rows(*paired(model(input_ids=batch["input_ids"]).logits, labels, 1))

    assert judged(model, answered(), loss) == (("fail", ["LA201"]) if halved else ("pass", []))


def test_rows_of_which_nobody_knows_where_they_belong_are_blind_and_none_is_missing(model):
    def other_ids(model, batch):
        ids = batch["input_ids"].clone()
        ids[0] = (ids[0] + 5) % VOCABULARY
        return F.cross_entropy(*paired(model(input_ids=ids).logits, batch["labels"], 1))

    assert judged(model, answered(), other_ids) == ("incomplete", ["LA803"])


class TiedWithBias(nn.Module):
    """Logits are a product with the embedding, and a bias beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body = nn.Embedding(VOCABULARY, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.more = nn.Parameter(torch.randn(VOCABULARY) / 4)

    def forward(self, ids):
        return self.body(self.embed(ids))[0] @ self.embed.weight.T + self.more


@pytest.mark.parametrize(("offset", "told"), OFFSETS)
def test_a_bias_beside_a_tied_product_is_no_head(offset, told):
    def loss(model, batch):
        return F.cross_entropy(*paired(model(batch["input_ids"]), batch["labels"], offset))

    ids = tokens()
    assert judged(TiedWithBias(), {"input_ids": ids, "labels": ids.clone()}, loss) == told


TEXT_END, SPEECH_END = 32, 40


class TwoVocabularies(nn.Module):
    """Text and speech in one sequence, each with an end of its own that is appended to its targets."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.text, self.speech = nn.Embedding(TEXT_END, WIDTH), nn.Embedding(SPEECH_END, WIDTH)
        self.body = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.text_head, self.speech_head = nn.Linear(WIDTH, TEXT_END + 1), nn.Linear(WIDTH, SPEECH_END + 1)

    def forward(self, text, speech):
        hidden = self.body(torch.cat([self.text(text), self.speech(speech)], 1))[0]
        length = text.shape[1]
        return self.text_head(hidden[:, :length]), self.speech_head(hidden[:, length:])


@pytest.mark.parametrize(("swapped", "told"), [(False, set()), (True, {"LA106"})])
def test_an_end_that_the_loss_appends_is_no_code_of_another_stream(swapped, told):
    text, speech = tokens(1, TEXT_END), tokens(2, TEXT_END)
    speech[:, 5] = TEXT_END  # as a code it is one of many

    def loss(model, batch):
        given = (batch["text"], batch["speech"])
        logits = model(*given)
        ends = (TEXT_END, SPEECH_END)
        targets = [F.pad(ids[:, 1:], (0, 1), value=end) for ids, end in zip(given, ends, strict=True)]
        pairs = zip(logits, targets[::-1] if swapped else targets, strict=True)
        return sum(F.cross_entropy(one.flatten(0, 1), ids.clamp(max=one.shape[-1] - 1).flatten()) for one, ids in pairs)

    streams = {key: {"head": f"{key}_head", "ids": key} for key in ("text", "speech")}
    assert set(judged(TwoVocabularies(), {"text": text, "speech": speech}, loss, streams=streams)[1]) == told


class Recurrent(nn.Module):
    """A model that no adapter knows, whose rows are followed from its ids."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.body = nn.Embedding(VOCABULARY, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids):
        return self.out(self.body(self.table(ids))[0])


@pytest.mark.parametrize(("offset", "told"), OFFSETS)
def test_the_only_sample_of_a_batch_may_be_given_twice(offset, told):
    def loss(model, batch):
        logits = model(batch["input_ids"].repeat(2, 1))
        return F.cross_entropy(*paired(logits, batch["labels"].repeat(2, 1), offset))

    ids = tokens(samples=1)
    assert judged(Recurrent(), {"input_ids": ids, "labels": ids.clone()}, loss) == told


def test_of_the_only_sample_that_is_given_twice_labels_say_what_is_trained():
    def unmasked(model, batch):
        logits = model(batch["input_ids"].repeat(2, 1))
        return F.cross_entropy(*paired(logits, batch["input_ids"].repeat(2, 1), 1))

    ids = tokens(samples=1)
    labels = ids.clone()
    labels[:, :5] = -100
    assert judged(Recurrent(), {"input_ids": ids, "labels": labels}, unmasked) == ("fail", ["LA202"])


def test_two_samples_of_two_keys_are_not_one_that_is_given_twice():
    def loss(model, batch):
        both = torch.cat([batch["input_ids"], batch["rejected"]])
        chosen, rejected = model(both)[:, :-1].log_softmax(-1).gather(-1, both[:, 1:, None]).sum((1, 2))
        return -F.logsigmoid((chosen - rejected) / 10) - chosen

    ids = tokens(samples=1)
    batch = {"input_ids": ids, "labels": ids.clone(), "rejected": tokens(1, samples=1)}
    report = check_loss(Recurrent(), batch, loss)
    assert all(one.is_blind for one in report.findings)
