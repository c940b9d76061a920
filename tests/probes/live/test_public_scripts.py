"""Training loops of the kinds that public reports are about, each right and wrong, and what ``run`` says of them."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import watched
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import BartConfig, BartForConditionalGeneration, LlamaConfig, LlamaForCausalLM

VOCAB, LENGTH, END = 100, 24, 2
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
#: Nobody says which rows are due.
UNTOLD = {"LA804"}


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **SIZES))


class Own(nn.Module):
    """Embedding, a recurrent layer, and a head that may be wider than the vocabulary."""

    def __init__(self, width=VOCAB):
        super().__init__()
        torch.manual_seed(0)
        self.wte, self.mix = nn.Embedding(VOCAB, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, width, bias=False)

    def forward(self, ids):
        return self.head(self.mix(self.wte(ids))[0])


def said(model, loss, *, micro=1, **options):
    """Train three steps on ``loss(step)``: the verdict and the codes."""

    def train():
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.1)
        for step in range(3):
            for _ in range(micro):
                loss(step).backward()
            optimizer.step()
            optimizer.zero_grad()

    report, _ = watched(train, **options)
    return report.verdict, {one.code for one in report.findings}


def drawn(*shape, low=3, high=VOCAB):
    return torch.randint(low, high, shape)


# -- windows of a long text, and a decoder that starts with its end token ------------------------------


def windows(contiguous):
    """Inputs, and what follows each of them; tokens as frequent as those of text are."""
    text = torch.multinomial(1 / torch.arange(1.0, VOCAB + 1), 4096, replacement=True)
    if contiguous:
        begin = int(torch.randint(1024, ()))
        part = text[begin : begin + 8 * LENGTH + 1]
        return part[:-1].view(8, LENGTH), part[1:].view(8, LENGTH)
    begins = torch.randint(len(text) - LENGTH - 1, (8,))[:, None] + torch.arange(LENGTH)
    return text[begins], text[begins + 1]


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_windows_cross_no_border(own, contiguous):
    model = Own() if own else llama()

    def loss(_):
        inputs, targets = windows(contiguous)
        logits = model(inputs) if own else model(input_ids=inputs).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()) / 4

    assert said(model, loss, micro=4, heads=["head"] if own else ()) == ("pass", set())


def test_an_end_that_starts_the_next_sample_is_no_border_either():
    parts = ("encoder", "decoder")
    sizes = {f"{part}_{name}": 1 for part in parts for name in ("layers", "attention_heads")}
    sizes |= {f"{part}_ffn_dim": 16 for part in parts} | {"d_model": 16, "vocab_size": VOCAB}
    ids = {"decoder_start_token_id": END, "eos_token_id": END, "forced_eos_token_id": END}
    torch.manual_seed(0)
    model = BartForConditionalGeneration(BartConfig(max_position_embeddings=32, **sizes, **ids))

    def loss(_):
        labels = F.pad(drawn(6, 10, low=5), (0, 1), value=END)
        decoder = F.pad(labels[:, :-1], (1, 0), value=END)
        logits = model(input_ids=drawn(6, 8, low=5), decoder_input_ids=decoder).logits
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)

    assert said(model, loss) == ("pass", set())


# -- losses of log-probabilities, of logits that are seen or fused -------------------------------------


def picked(hidden, weight, target):
    return F.log_softmax(hidden @ weight.T, -1).gather(-1, target[..., None])[..., 0]


def log_probs(model, ids, fused, shift=1):
    target = ids[:, shift:]
    if fused:
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-shift]
        return checkpoint(picked, hidden, model.lm_head.weight, target, use_reentrant=False)
    return F.log_softmax(model(input_ids=ids).logits[:, :-shift], -1).gather(-1, target[..., None])[..., 0]


@pytest.mark.parametrize("fused", [False, True])
def test_every_row_of_a_preference_is_read_pulled_or_pushed(fused):
    model = llama()

    def loss(_, shift=1):
        chosen, rejected = log_probs(model, drawn(6, 16), fused, shift).sum(-1).chunk(2)
        return -F.logsigmoid(0.1 * (chosen - rejected)).mean()

    assert said(model, loss) == ("pass", set())
    assert said(model, lambda step: loss(step, 2))[1] == {"LA103"}


@pytest.mark.parametrize("fused", [False, True])
def test_equal_rewards_are_a_gradient_of_zero_and_no_fault(fused):
    model = llama()

    def loss(step):
        reward = torch.zeros(4) if step < 2 else torch.rand(4)
        return -(log_probs(model, drawn(4, 16), fused) * (reward - reward.mean())[:, None]).mean()

    assert said(model, loss) == ("incomplete", UNTOLD)


# -- heads of padded width, compilation that is switched off, embeddings that are added up -------------


@pytest.mark.parametrize("cap", [None, 15])
@pytest.mark.parametrize("width", [VOCAB, VOCAB + 28])
def test_means_of_micro_batches_show_through_padded_columns_that_are_sliced_off(width, cap):
    model = Own(width)

    def loss(_):
        ids = drawn(4, LENGTH + 1)
        targets = ids[:, 1:].clone()
        for row in targets:
            row[: int(torch.randint(2, LENGTH - 2, ()))] = -100
        logits = model(ids[:, :-1])[..., :VOCAB]
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()) / 4

    assert said(model, loss, micro=4, heads=["head"]) == ("fail", {"LA302"})


@pytest.mark.filterwarnings("ignore:Using .torch.compile.module:UserWarning")  # beside the hooks of any watching
@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_whose_compilation_is_switched_off_is_read(inplace):
    model = llama()
    if inplace:
        model.compile(backend="eager")
    called = model if inplace else torch.compile(model, backend="eager")

    def loss(_):
        ids = drawn(3, 12)
        return called(input_ids=ids, labels=ids).loss

    with torch._dynamo.config.patch(disable=True):  # TORCH_COMPILE_DISABLE=1, which is read as torch is imported
        assert said(model, loss) == ("pass", set())


@pytest.mark.parametrize("double", [False, True])
def test_ids_are_found_behind_embeddings_that_are_added_up(double):
    talker, words = llama(), nn.Embedding(50, 16)

    def loss(_):
        codes = drawn(3, 14)
        labels = codes.masked_fill(torch.arange(14) < 4, -100)
        embeddings = words(drawn(3, 14, high=50)) + talker.get_input_embeddings()(codes)
        if double:
            embeddings, labels = embeddings[:, :-1], labels[:, 1:]
        return talker(inputs_embeds=embeddings, labels=labels).loss

    assert said(talker, loss) == (("fail", {"LA103"}) if double else ("pass", set()))
