"""The second witness: the forward that the loss itself makes is judged, whatever masks and positions it makes."""

import ast
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import OLD, tiny_model
from torch import nn

import probes.replay
from alignment.findings import Finding
from probes import check_loss
from probes.checks.decode import decode_check
from probes.checks.padding import padding_matters
from probes.models import adapter_for
from probes.models.forward import forward
from probes.replay.perturbation import Rounding

LENGTH, PREFIX = 24, 8


def tokens(size=2, length=LENGTH):
    return torch.randint(4, 128, (size, length), generator=torch.Generator().manual_seed(1))


def llama():
    return tiny_model("LlamaForCausalLM", vocab_size=128)


def own(model, batch):
    return model(**batch).loss


def codes(report):
    return [one.code for one in report.findings]


def seen_through(*, prefix=0, everything=False):
    """A (1, 1, T, T) mask to add: causal, but for a prefix that sees itself, or no mask at all."""
    hidden = torch.full((LENGTH, LENGTH), torch.finfo(torch.float32).min).triu(1)
    hidden[:prefix, :prefix] = 0
    return torch.zeros_like(hidden)[None, None] if everything else hidden[None, None]


def masked_by_the_loss(mask):
    def loss(model, batch):
        logits = model(
            input_ids=batch["input_ids"], attention_mask=mask.expand(len(batch["input_ids"]), -1, -1, -1)
        ).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    return loss


def test_nothing_of_the_gradient_reader_is_imported():
    folder = Path(probes.replay.__file__).parent
    names = {
        (node.module or "")
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    assert len(names) > 10
    reader = (
        "witness",
        "alignment.recovery",
        "alignment.hidden",
        "alignment.glance",
        "alignment.sketch",
        "alignment.sources",
    )
    assert not [name for name in names if name.startswith(reader)]


# -- masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("everything", "said"), [(False, []), (True, ["LA401"])], ids=["causal", "both ways"])
def test_a_mask_that_the_loss_makes(everything, said):
    x = tokens()
    report = check_loss(
        llama(), {"input_ids": x, "labels": x.clone()}, masked_by_the_loss(seen_through(everything=everything))
    )
    assert codes(report) == said
    assert report.check("causality").status == ("fail" if said else "pass")


@pytest.mark.parametrize("prefix", [2, 6, 12, 20])
@pytest.mark.parametrize("trained", [False, True])
def test_a_visible_prefix_of_any_length_is_right_unless_it_is_trained(prefix, trained):
    x = tokens()
    labels = x.clone() if trained else x.masked_fill(torch.arange(LENGTH) < prefix, -100)
    report = check_loss(llama(), {"input_ids": x, "labels": labels}, masked_by_the_loss(seen_through(prefix=prefix)))
    assert codes(report) == ["LA401"] * trained


class Plain(nn.Module):
    """A decoder of one's own, whose boolean mask may be the wrong way round."""

    def __init__(self, *, inverted):
        super().__init__()
        torch.manual_seed(0)
        self.inverted, self.embed, self.place = inverted, nn.Embedding(128, 32), nn.Embedding(64, 32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 128)

    def forward(self, input_ids):
        length = input_ids.shape[1]
        hidden = self.embed(input_ids) + self.place(torch.arange(length))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        query, key, value = self.qkv(hidden).chunk(3, -1)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=later if self.inverted else ~later)
        return self.out(hidden + seen.nan_to_num())


@pytest.mark.parametrize("inverted", [False, True])
def test_an_inverted_mask_in_a_plain_module(inverted):
    def loss(model, batch):
        return F.cross_entropy(model(batch["input_ids"])[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    x = tokens()
    report = check_loss(Plain(inverted=inverted), {"input_ids": x, "labels": x.clone()}, loss, heads="out")
    assert codes(report) == ["LA401"] * inverted


KEYLESS = {
    "ids alone": (lambda x: {"x": x}, lambda z, given: (z[:, :-1], given["x"][:, 1:])),
    "targets beside": (lambda x: {"x": x[:, :-1], "y": x[:, 1:]}, lambda z, given: (z, given["y"])),
}


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("make", "pair"), KEYLESS.values(), ids=KEYLESS)
def test_an_inverted_mask_in_a_module_of_which_nothing_is_named(make, pair, inverted):
    """Each row reads all that comes and nothing of what was: rows and ids are equally many, and lie alike."""

    def loss(model, batch):
        logits, targets = pair(model(batch["x"]), batch)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    report = check_loss(Plain(inverted=inverted), make(tokens()), loss)
    assert codes(report) == ["LA401"] * inverted
    (stream,) = report.streams.values()
    assert stream["offsets"].keys() <= {"1", "outside"}  # the last target of all is no input where it is cut off


# -- packed documents -------------------------------------------------------------------------------------


def packed(**more):
    x = tokens(1)
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    labels = x.masked_fill(positions == 0, -100)
    return {"input_ids": x, "position_ids": positions, "labels": labels, **more}


@pytest.mark.skipif(OLD, reason="transformers 4.46 keeps documents apart under flash attention alone")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"use_cache": False}, []),
        ({"use_cache": True}, ["LA401"]),
        ({"attention_mask": torch.ones(1, LENGTH, dtype=torch.long)}, ["LA401"]),
    ],
    ids=["apart", "a cache beside them", "a mask of ones"],
)
def test_packed_documents_that_see_each_other(more, said):
    report = check_loss(llama(), packed(**more), own)
    assert codes(report) == said
    if said:
        assert "only other documents of the sample are replaced" in report.findings[0].message
        assert "block-diagonal" in report.findings[0].fix
    else:
        assert "2 of 2 packed documents" in report.check("causality").detail


BORDERS = {
    "cu_seq_lens": {"cu_seq_lens_q": torch.tensor([0, 10, LENGTH])},
    "seq_idx": {"seq_idx": torch.tensor([0] * 10 + [1] * 14)[None]},
    "position_ids": {"position_ids": torch.cat([torch.arange(10), torch.arange(14)])[None]},
    "the mask alone": {},
}
BLOCKS = torch.block_diag(torch.ones(10, 10), torch.ones(14, 14)).bool().tril()[None, None]


def without_borders(model, batch):
    """A loss that hands on masks and positions, and no borders: without flash attention they would hide nothing."""
    return own(model, {key: value for key, value in batch.items() if key not in ("cu_seq_lens_q", "seq_idx")})


@pytest.mark.parametrize("given", BORDERS.values(), ids=BORDERS)
def test_a_mask_of_blocks_keeps_documents_apart_however_their_borders_are_given(given):
    batch = {**packed(attention_mask=BLOCKS), **given}
    report = check_loss(llama(), batch if given else without_positions(batch), without_borders)
    assert codes(report) == []
    assert "2 of 2 packed documents" in report.check("causality").detail


@pytest.mark.parametrize("given", [value for value in BORDERS.values() if value], ids=list(BORDERS)[:3])
def test_documents_that_see_each_other_whatever_tells_their_borders(given):
    causal = torch.ones_like(BLOCKS).tril()
    report = check_loss(llama(), {**packed(attention_mask=causal), **given}, without_borders)
    assert codes(report) == ["LA401"]
    assert "other documents of the sample" in report.findings[0].message


def without_positions(batch):
    return {key: value for key, value in batch.items() if key != "position_ids"}


# -- what is said -----------------------------------------------------------------------------------------


def test_a_fused_loss_that_calls_no_head_is_judged_by_what_it_would_have_read():
    def loss(model, batch):
        hidden = model.model(batch["input_ids"]).last_hidden_state[:, :-1]
        return F.cross_entropy((hidden @ model.lm_head.weight.T).flatten(0, 1), batch["labels"][:, 1:].flatten())

    x, model = tokens(), llama()
    batch = {"input_ids": x, "labels": x.clone()}
    assert codes(check_loss(model, batch, loss)) == []
    model.model.norm.register_forward_hook(lambda _m, _a, out: out + 0.1 * out.roll(-1, dims=1))
    assert codes(check_loss(model, batch, loss)) == ["LA401"]


def test_a_loss_that_is_not_the_same_with_other_tokens_is_a_blind_spot():
    x = tokens()
    batch = {"input_ids": x, "labels": x.clone()}
    known = x.clone()

    def loss(model, batch):
        if not torch.equal(batch["input_ids"], known):
            raise KeyError("a token that the table does not hold")
        return own(model, batch)

    report = check_loss(llama(), batch, loss)
    (found,) = report.findings
    assert isinstance(found, Finding)
    assert (found.code, found.severity, report.verdict) == ("LA805", "blind", "incomplete")
    assert "run again, the loss raises KeyError" in found.message
    asked = check_loss(llama(), batch, loss, replay=False)
    assert (codes(asked), asked.verdict) == ([], "pass")
    assert asked.check("causality").status == "skip"


def test_a_copy_explains_what_its_rows_have_read():
    x = tokens()

    def loss(model, batch):
        return F.cross_entropy(model(batch["input_ids"]).logits.flatten(0, 1), batch["labels"].flatten())

    assert codes(check_loss(llama(), {"input_ids": x, "labels": x.clone()}, loss)) == ["LA102"]


def test_full_cuts_at_every_position_and_a_few_are_enough_by_default():
    x = tokens()
    batch = {"input_ids": x, "labels": x.clone()}
    assert 2 <= len(check_loss(llama(), batch, own).causality["cuts"]) <= 8
    report = check_loss(llama(), batch, own, replay="full")
    assert len(report.causality["cuts"]) == x.numel()
    assert "46 of 46 trained rows" in report.check("causality").detail


def test_a_leak_behind_no_cut_is_not_seen_and_the_report_says_how_much_was():
    """Eight cuts in twelve samples: the eleventh, which leaks, has none."""
    x, model = tokens(12, 12), llama()

    def tenth_sees_next(_module, _args, out):
        sees = (torch.arange(len(out)) == 10)[:, None, None]
        return torch.where(sees, out + 0.1 * out.roll(-1, dims=1), out)

    model.model.norm.register_forward_hook(tenth_sees_next)
    batch = {"input_ids": x, "labels": x.clone()}
    report = check_loss(model, batch, own)
    covered, trained = map(int, re.search(r"\((\d+) of (\d+) trained rows", report.check("causality").detail).groups())
    assert (codes(report), trained) == ([], 132)
    assert 0 < covered < trained / 2
    assert codes(check_loss(model, batch, own, replay="full")) == ["LA401"]


def test_weights_gradients_and_random_state_are_afterwards_as_before():
    model, x = llama(), tokens()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_loss(model, {"input_ids": x, "labels": x.clone()}, own)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_default_replay_runs_the_loss_a_handful_of_times():
    model, x = llama(), tokens()
    calls = []

    def loss(model, batch):
        calls.append(1)
        return own(model, batch)

    check_loss(model, {"input_ids": x, "labels": x.clone()}, loss, replay=False)
    assert len(calls) == 1  # without one, once as before there was any
    check_loss(model, {"input_ids": x, "labels": x.clone()}, loss)
    assert len(calls) - 1 <= 2 + 5  # the base, and two samples cut at once


def rows_multiplied(model, run):
    """How many rows were multiplied with the weight of a head."""
    rows, linear = [], F.linear

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is linear and args[1] is model.lm_head.weight:
                rows.append(args[0].shape[:-1].numel())
            return func(*args, **(kwargs or {}))

    with Count():
        report = run()
    return sum(rows), report


def written_to(model, batch):
    logits = model(batch["input_ids"]).logits[:, :-1]
    logits[..., :4] -= 30.0
    logits.mul_(0.5)
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.mark.parametrize("loss", [own, written_to], ids=["read", "written to"])
def test_a_replay_computes_the_logits_of_a_linear_head_once(loss):
    x, model = tokens(), llama()
    batch = {"input_ids": x, "labels": x.clone()}
    read, _ = rows_multiplied(model, lambda: check_loss(model, batch, loss, replay=False))
    for leaks in (False, True):
        if leaks:
            model.model.norm.register_forward_hook(lambda _m, _a, out: out + 0.1 * out.roll(-1, dims=1))
        rows, report = rows_multiplied(model, lambda: check_loss(model, batch, loss))
        assert (rows - read, codes(report)) == (x.numel(), ["LA401"] * leaks)


def test_a_head_of_zeros_hides_no_leak():
    """Heads often begin at zero: their logits move with nothing, and what they read does."""
    model, x = llama(), tokens()
    nn.init.zeros_(model.lm_head.weight)
    batch = {"input_ids": x, "labels": x.clone()}
    assert check_loss(model, batch, own).check("causality").status == "pass"
    model.model.norm.register_forward_hook(lambda _m, _a, out: out + 0.1 * out.roll(-1, dims=1))
    assert codes(check_loss(model, batch, own)) == ["LA401"]


# -- padding and decoding, in the forward that is trained -------------------------------------------------


def gpt():
    return tiny_model("GPT2LMHeadModel", vocab_size=128)


def padded():
    x = tokens()
    mask = torch.ones_like(x)
    mask[0, :9] = 0
    return {"input_ids": x.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": x.masked_fill(mask == 0, -100)}


def with_positions(model, batch):
    return model(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).loss


@pytest.mark.parametrize(
    ("loss", "said"), [(own, ["LA402"]), (with_positions, [])], ids=["counted", "made by the loss"]
)
def test_positions_that_the_loss_makes_are_those_that_count(loss, said):
    model, batch = gpt(), padded()
    adapter = adapter_for(model)
    movement = Rounding(model, adapter, batch, forward(model, adapter, batch))
    _, found = padding_matters(model, adapter, batch, adapter.view(model, batch), movement, loss)
    assert [one.code for one in found] == said
    check, _ = decode_check(model, adapter, batch, movement, loss)
    assert check.status == ("fail" if said else "pass"), check.detail


@pytest.mark.skipif(OLD, reason="attention is given its cache under another name")
@pytest.mark.parametrize("given", [False, True], ids=["by the loss", "in the batch"])
def test_a_model_that_trains_without_a_cache_and_decodes_with_one(given):
    model, x = llama(), tokens()
    attention = model.model.layers[1].self_attn
    whole = attention.forward

    def other_with_a_cache(*args, **kwargs):
        out = whole(*args, **kwargs)
        return out if kwargs.get("past_key_values") is None else (0.5 * out[0], *out[1:])

    attention.forward = other_with_a_cache
    batch = {"input_ids": x, "labels": x.clone(), **({"use_cache": False} if given else {})}

    def loss(model, batch):
        return model(**{**batch, "use_cache": False}).loss

    adapter = adapter_for(model)
    check, found = decode_check(model, adapter, batch, None, loss)
    assert (check.status, [one.code for one in found]) == ("fail", ["LA604"])
    attention.forward = whole
    assert decode_check(model, adapter, batch, None, loss)[0].status == "pass"


def test_a_loss_that_knows_fewer_ids_than_the_head_is_given_those_that_it_knows():
    ids = tokens() % 100 + 4

    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"]).logits[:, :-1, :104]  # columns that stand for no id
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    report = check_loss(llama(), {"input_ids": ids, "labels": ids.clone()}, loss)
    assert (report.verdict, codes(report)) == ("pass", [])
