"""Losses on language models: every correct one stays silent, every fault has its name, and nothing is left behind."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import LENGTH, OLD, VOCAB, tiny_model
from torch.utils.checkpoint import checkpoint

from alignment import InputError
from probes.errors import UsageError
from probes.models.causal_lm import CausalLMAdapter
from probes.witness.witness import Options, witness


def watch(model, batch, loss, **options):
    return witness(model, CausalLMAdapter(model), batch, loss, Options(**options))


def codes(seen):
    return tuple(finding.code for finding in seen.findings)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("LlamaForCausalLM")


def right_padded():
    """Two samples of unequal length, a prompt without labels."""
    out = text_batch()
    out["input_ids"][1, 20:] = 0
    out["attention_mask"][1, 20:] = 0
    out["labels"][1, 20:] = -100
    return out


def left_padded():
    out = right_padded()
    return {key: torch.stack([tensor[0], tensor[1].roll(4)]) for key, tensor in out.items()}


def alike():
    """Samples of the same ids, of which different parts are labelled: their hidden rows are equal."""
    out = right_padded()
    out["input_ids"], out["attention_mask"] = (out[key][1].repeat(2, 1) for key in ("input_ids", "attention_mask"))
    out["labels"] = out["labels"][1].repeat(2, 1)
    out["labels"][0, :12] = -100
    return out


def repetitive():
    """Few ids that come again and again, in both samples."""
    out = right_padded()
    out["input_ids"] = out["input_ids"] // 24
    out["labels"] = out["input_ids"].masked_fill(out["labels"] == -100, -100)
    return out


BATCHES = [right_padded, left_padded, alike, repetitive]


@pytest.fixture
def batch():
    return right_padded()


# -- building blocks --------------------------------------------------------------------------------


def logits_of(model, batch, **kwargs):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **kwargs).logits


def hidden_of(model, batch):
    return model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state


def shifted(batch, by=1):
    """Targets of every position but the last ``by``, flat."""
    return batch["labels"][:, by:].flatten()


def cross_entropy(logits, targets, **kwargs):
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), **kwargs)


def mean_of(losses, targets):
    return losses.sum() / (targets != -100).sum()


# -- correct losses -----------------------------------------------------------------------------------


def inside_the_model(model, batch):
    return model(**batch).loss


def outside_the_model(model, batch):
    return cross_entropy(logits_of(model, batch)[:, :-1], batch["labels"][:, 1:])


def as_a_tuple(model, batch):
    return model(**batch, return_dict=False)[0]


def by_forward(model, batch):
    return model.forward(**batch).loss


def smoothed(model, batch):
    return cross_entropy(logits_of(model, batch)[:, :-1], batch["labels"][:, 1:], label_smoothing=0.1)


def with_z_loss(model, batch):
    logits = logits_of(model, batch)[:, :-1]
    z = logits.logsumexp(-1)[batch["labels"][:, 1:] != -100]
    return cross_entropy(logits, batch["labels"][:, 1:]) + 1e-4 * z.square().mean()


def class_weighted(model, batch):
    weight = torch.linspace(0.5, 2, VOCAB)
    return cross_entropy(logits_of(model, batch)[:, :-1], batch["labels"][:, 1:], weight=weight)


def focal(model, batch):
    targets = shifted(batch)
    loss = cross_entropy(logits_of(model, batch)[:, :-1], targets, reduction="none")
    return mean_of((1 - torch.exp(-loss)).square() * loss, targets)


def by_gather(model, batch):
    targets, logits = shifted(batch), logits_of(model, batch)[:, :-1].flatten(0, 1)
    picked = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return mean_of((logits.logsumexp(-1) - picked) * (targets != -100), targets)


def as_a_sum(model, batch):
    return cross_entropy(logits_of(model, batch)[:, :-1], shifted(batch), reduction="sum") / 32


def masked_in_place(model, batch):
    logits = logits_of(model, batch)
    logits[..., 4:16] = -torch.inf  # ids that no batch has
    return cross_entropy(logits[:, :-1], shifted(batch))


def scaled_in_place(model, batch):
    """Rows by a temperature of their own, which leaves no row like another."""
    logits = logits_of(model, batch)
    logits *= torch.linspace(0.5, 1.5, LENGTH)[:, None].to(logits)
    return cross_entropy(logits[:, :-1], shifted(batch))


def head_in_chunks(model, batch):
    hidden, targets = hidden_of(model, batch)[:, :-1].flatten(0, 1), shifted(batch)
    pairs = zip(hidden.split(7), targets.split(7), strict=True)
    return sum(cross_entropy(model.lm_head(h), t, reduction="sum") for h, t in pairs) / (targets != -100).sum()


def head_on_labelled_rows(model, batch):
    hidden, targets = hidden_of(model, batch)[:, :-1].flatten(0, 1), shifted(batch)
    rows = targets != -100
    return cross_entropy(model.lm_head(hidden[rows]), targets[rows])


def head_on_the_last_rows(model, batch):
    keep = "num_logits_to_keep" if OLD else "logits_to_keep"
    logits = logits_of(model, batch, **{keep: LENGTH - 5})
    return cross_entropy(logits[:, :-1], batch["labels"][:, 6:])


def head_sequence_first(model, batch):
    logits = model.lm_head(hidden_of(model, batch).transpose(0, 1))
    return cross_entropy(logits[:-1], batch["labels"].T[1:])


def fused(model, batch):
    hidden = hidden_of(model, batch)[:, :-1].flatten(0, 1)
    return F.linear_cross_entropy(hidden, model.lm_head.weight, shifted(batch))


def fused_on_listed_states(model, batch):
    out = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    return F.linear_cross_entropy(out.hidden_states[-1][:, :-1].flatten(0, 1), model.lm_head.weight, shifted(batch))


def by_the_weight_alone(model, batch):
    logits = hidden_of(model, batch) @ model.lm_head.weight.T
    return cross_entropy(logits[:, :-1], batch["labels"][:, 1:])


def inputs_cut(model, batch):
    return cross_entropy(model(input_ids=batch["input_ids"][:, :-1]).logits, batch["labels"][:, 1:])


def inputs_cut_below_the_head(model, batch):
    hidden = model.model(batch["input_ids"][:, :-1]).last_hidden_state.flatten(0, 1)
    return cross_entropy(torch.cat([model.lm_head(part) for part in hidden.split(5)]), shifted(batch))


def sample_by_sample(model, batch):
    total = 0
    for row in (0, 1):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        total += cross_entropy(logits_of(model, one)[:, :-1], one["labels"][:, 1:], reduction="sum")
    return total / (batch["labels"][:, 1:] != -100).sum()


def packed_by_the_trainer(model, batch):
    real = batch["attention_mask"].bool()
    lengths = batch["attention_mask"].sum(1).tolist()
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    labels = batch["labels"].clone()
    labels[:, 0] = -100
    logits = model(input_ids=batch["input_ids"][real][None], position_ids=places).logits
    return cross_entropy(logits[:, :-1], labels[real][None, 1:])


def padded_anew(model, batch):
    ids = F.pad(batch["input_ids"], (0, 8))
    return cross_entropy(model(input_ids=ids).logits[:, : LENGTH - 1], batch["labels"][:, 1:])


def in_another_order(model, batch):
    return outside_the_model(model, {key: value.flip(0) for key, value in batch.items()})


def twice(model, batch):
    """As R-Drop does: two forwards under different dropout."""
    return (outside_the_model(model, batch) + inputs_cut(model, batch)) / 2


def given_embeddings(model, batch):
    embedded = model.get_input_embeddings()(batch["input_ids"])
    return model(inputs_embeds=embedded, attention_mask=batch["attention_mask"], labels=batch["labels"]).loss


def by_transformers_smoother(model, batch):
    from transformers.trainer_pt_utils import LabelSmoother

    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return LabelSmoother(0.1)(out, batch["labels"], shift_labels=True)


def checkpointed(reentrant):
    def loss(model, batch):
        hidden, targets = hidden_of(model, batch)[:, :-1].flatten(0, 1), shifted(batch)

        def part(rows, labels):
            return cross_entropy(model.lm_head(rows), labels, reduction="sum")

        pairs = zip(hidden.split(7), targets.split(7), strict=True)
        return sum(checkpoint(part, *pair, use_reentrant=reentrant) for pair in pairs) / (targets != -100).sum()

    loss.__name__ = f"checkpointed_head{'_reentrant' if reentrant else ''}"
    return loss


class OwnFunction(torch.autograd.Function):
    """Takes its gradients in the forward, as Liger's fused cross-entropy does."""

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        with torch.enable_grad():
            leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
            loss = F.cross_entropy(leaves[0] @ leaves[1].T, targets)
            ctx.save_for_backward(*torch.autograd.grad(loss, leaves))
        return loss.detach()

    @staticmethod
    def backward(ctx, grad):
        return *(saved * grad for saved in ctx.saved_tensors), None


def own_function(model, batch):
    return OwnFunction.apply(hidden_of(model, batch)[:, :-1].flatten(0, 1), model.lm_head.weight, shifted(batch))


def beside_a_reference(model, batch):
    with torch.no_grad():
        reference = logits_of(model, batch)
    return outside_the_model(model, batch) + 0 * reference.sum()


def under_autocast(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return model(**batch).loss


CORRECT = [
    inside_the_model,
    outside_the_model,
    as_a_tuple,
    by_forward,
    smoothed,
    with_z_loss,
    class_weighted,
    focal,
    by_gather,
    as_a_sum,
    masked_in_place,
    head_in_chunks,
    head_on_labelled_rows,
    head_on_the_last_rows,
    head_sequence_first,
    fused,
    fused_on_listed_states,
    by_the_weight_alone,
    inputs_cut,
    inputs_cut_below_the_head,
    sample_by_sample,
    packed_by_the_trainer,
    padded_anew,
    in_another_order,
    twice,
    given_embeddings,
    by_transformers_smoother,
    checkpointed(reentrant=False),
    checkpointed(reentrant=True),
    own_function,
    beside_a_reference,
    under_autocast,
]


def named(function):
    return function.__name__


def needs_fused(function):
    missing = "fused" in function.__name__ and not hasattr(F, "linear_cross_entropy")
    return pytest.param(function, marks=pytest.mark.skipif(missing, reason="torch has no linear_cross_entropy"))


def test_logits_may_be_scaled_in_place_and_weigh_as_they_are_scaled(llama, batch):
    def apart(model, batch):
        return cross_entropy((logits_of(model, batch) * scale)[:, :-1], shifted(batch))

    scale = torch.linspace(0.5, 1.5, LENGTH)[:, None]
    one, other = watch(llama, batch, scaled_in_place), watch(llama, batch, apart)
    assert codes(one) == codes(other) == ()
    assert torch.equal(one.actual[0].target, other.actual[0].target)
    assert torch.allclose(one.actual[0].weight, other.actual[0].weight, rtol=1e-2)


@pytest.mark.parametrize("make", BATCHES, ids=named)
@pytest.mark.parametrize("loss", [needs_fused(loss) for loss in CORRECT], ids=named)
def test_correct_losses_are_silent(llama, loss, make, request):
    if loss is in_another_order and make is alike:
        request.applymarker(pytest.mark.xfail(reason="in one forward, samples alike are told apart by place alone"))
    seen = watch(llama, make(), loss)
    assert codes(seen) == (), [finding.message for finding in seen.findings]
    actual = seen.actual[0]
    assert actual.offset[actual.trained].unique().tolist() == [1]
    assert torch.equal(actual.trained, seen.expected[0].trained)
    if loss not in (class_weighted, focal, smoothed, by_transformers_smoother, as_a_sum):
        assert float(actual.weight.sum()) == pytest.approx(1, abs=2e-3)
    assert seen.notes == ()


@pytest.mark.parametrize("name", ["Gemma2ForCausalLM", "CohereForCausalLM", "GraniteForCausalLM"])
@pytest.mark.parametrize("loss", [inside_the_model, outside_the_model, as_a_tuple], ids=named)
def test_weights_are_read_where_the_loss_sees_the_logits(name, loss, batch):
    """A cap of 0.3 or a scale of 16 behind the head would show in weights read at the head."""
    extra = {"Gemma2": {"final_logit_softcapping": 0.3}, "Cohere": {"logit_scale": 16.0}}
    model = tiny_model(name, **extra.get(name.removesuffix("ForCausalLM"), {"logits_scaling": 16.0}))
    seen = watch(model, batch, loss)
    assert codes(seen) == ()
    assert seen.actual[0].weight[seen.actual[0].trained].tolist() == pytest.approx([1 / 32] * 32, rel=1e-3)


# -- faults ---------------------------------------------------------------------------------------------


def distilled(offset, hard):
    """Towards a teacher that is sure of some tokens, a third of them not the labels', beside a share of hard loss."""

    def loss(model, batch):
        targets = shifted(batch, offset)
        logits = logits_of(model, batch)[:, : LENGTH - offset].flatten(0, 1)
        draw = torch.Generator().manual_seed(0)
        other = torch.randint(0, VOCAB, targets.shape, generator=draw)
        believed = torch.where(torch.rand(targets.shape, generator=draw) < 1 / 3, other, targets.clamp(min=0))
        sure = 15 * torch.rand(targets.shape, generator=draw)
        teacher = torch.randn(logits.shape, generator=draw).scatter_add(-1, believed[..., None], sure[..., None])
        soft = -(teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1)[targets != -100].mean()
        return (1 - hard) * soft + hard * cross_entropy(logits, targets)

    return loss


@pytest.mark.parametrize("hard", [0, 0.1, 0.5], ids=str)
def test_a_distilled_loss_is_at_most_unread_and_its_copy_is_named(llama, hard):
    assert codes(watch(llama, right_padded(), distilled(1, hard))) == ("LA802",)
    assert codes(watch(llama, right_padded(), distilled(0, hard))) == ("LA102",)


def at_offset(offset):
    """A loss that pairs logits[t] with the label ``offset`` positions on."""

    def loss(model, batch):
        labels = torch.full_like(batch["labels"], -100)
        size = LENGTH - abs(offset)
        first, source = max(0, -offset), max(0, offset)
        labels[:, first : first + size] = batch["labels"][:, source : source + size]
        return cross_entropy(logits_of(model, batch), labels)

    return loss


def chunked_copy(model, batch):
    hidden = hidden_of(model, batch).flatten(0, 1)
    return cross_entropy(torch.cat([model.lm_head(part) for part in hidden.split(7)]), batch["labels"])


def fused_copy(model, batch):
    return F.linear_cross_entropy(
        hidden_of(model, batch).flatten(0, 1), model.lm_head.weight, batch["labels"].flatten()
    )


def logits_cut_alone(model, batch):
    return cross_entropy(logits_of(model, batch)[:, :-1].contiguous(), batch["labels"])


def prompt_trained(model, batch):
    targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return cross_entropy(logits_of(model, batch)[:, :-1], targets[:, 1:])


def half_trained(model, batch):
    return cross_entropy(logits_of(model, batch)[:, 12:-1], batch["labels"][:, 13:])


def flat_shift(model, batch):
    """One shift over the flattened batch: the last row of sample 0 is trained on the first of sample 1."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100).flatten()
    return cross_entropy(logits_of(model, batch).flatten(0, 1)[:-1], labels[1:])


def flat_double_shift(model, batch):
    """Shifted, flattened, and shifted again in one piece, as Moshi and GIT did in transformers 4.57."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:].flatten()
    return cross_entropy(logits_of(model, batch)[:, :-1].flatten(0, 1)[:-1], labels[1:])


def mean_of_means(model, batch):
    rows = [{key: value[row : row + 1] for key, value in batch.items()} for row in (0, 1)]
    return sum(outside_the_model(model, row) for row in rows) / 2


def detached(model, batch):
    return outside_the_model(model, batch).detach()


def swallowed(model, batch):
    logits_of(model, batch)
    return torch.zeros((), requires_grad=True) * 1.0


def own_checks(model, batch):
    """What a loss that compares the lengths itself has in hand."""
    return logits_of(model, batch)[..., :-1, :].contiguous(), batch["labels"]


def says_both_lengths(model, batch):
    logits, labels = own_checks(model, batch)
    if logits.size(1) != labels.size(1):
        raise ValueError(f"alignment failed: {logits.size(1)} vs {labels.size(1)}")


def says_both_row_counts(model, batch):
    logits, labels = own_checks(model, batch)
    logits, labels = logits.view(-1, logits.shape[-1]), labels.view(-1)
    if len(logits) != len(labels):
        raise RuntimeError(f"{len(logits)} rows of logits, {len(labels)} labels")


def asserts(model, batch):
    logits, labels = own_checks(model, batch)
    assert logits.size(1) == labels.size(1)


def raises_for_another_reason(model, batch):
    logits, labels = own_checks(model, batch)
    raise ValueError(f"no scale for {tuple(logits.shape)[:1]} and {tuple(labels.shape)[:1]}")


def asserts_something_else(model, batch):
    logits, labels = own_checks(model, batch)
    shapes = logits.shape, labels.shape
    assert "scale" in batch, ""
    return shapes


@pytest.mark.parametrize("loss", [says_both_lengths, says_both_row_counts, asserts])
def test_a_length_check_of_the_loss_itself_is_told_like_the_error_it_foresees(llama, batch, loss):
    (found,) = watch(llama, batch, loss).findings
    assert (found.code, found.count) == ("LA101", 1)
    assert f"{LENGTH - 1} vs {LENGTH} per sample; logits were cut by `[..., :-1, :]`" in found.message


@pytest.mark.parametrize("loss", [raises_for_another_reason, asserts_something_else])
def test_an_error_after_a_look_at_the_lengths_is_not_taken_for_a_length_check(llama, batch, loss):
    with pytest.raises(UsageError, match="the loss function raised"):
        watch(llama, batch, loss)


FAULTS = [
    pytest.param(at_offset(0), ("LA102",), id="copy"),
    pytest.param(chunked_copy, ("LA102",), id="copy, head in chunks"),
    needs_fused(fused_copy),
    pytest.param(at_offset(2), ("LA103",), id="double shift"),
    pytest.param(at_offset(-1), ("LA104",), id="backwards"),
    pytest.param(at_offset(3), ("LA104",), id="three on"),
    pytest.param(logits_cut_alone, ("LA101",), id="logits cut alone"),
    pytest.param(prompt_trained, ("LA202",), id="prompt trained"),
    pytest.param(half_trained, ("LA201",), id="half trained"),
    pytest.param(flat_double_shift, ("LA103",), id="flat double shift"),
    pytest.param(flat_shift, ("LA202", "LA204"), id="flat shift"),
    pytest.param(mean_of_means, ("LA301",), id="mean of means"),
    pytest.param(detached, ("LA605",), id="detached"),
    pytest.param(swallowed, ("LA605",), id="swallowed"),
]
FAULTS[2] = pytest.param(fused_copy, ("LA102",), id="copy, fused", marks=FAULTS[2].marks)


@pytest.mark.parametrize(("loss", "expected"), FAULTS)
def test_faults_have_their_names(llama, batch, loss, expected):
    assert codes(watch(llama, batch, loss)) == expected


def test_a_flat_double_shift_tells_the_rows_that_another_sample_trains(llama, batch):
    (found,) = watch(llama, batch, flat_double_shift).findings
    assert found.message.endswith("the labels are shifted twice; 1 of them on a token of another sample")


def test_a_loss_that_holds_on_to_its_own_labels(llama, batch):
    """No barcode reaches such labels: the sources are then inferred from the batch as it is."""
    labels = batch["labels"]
    copy = watch(llama, batch, lambda m, b: cross_entropy(logits_of(m, b), labels))
    assert codes(copy) == ("LA102",)
    right = watch(llama, batch, lambda m, b: cross_entropy(logits_of(m, b)[:, :-1], labels[:, 1:]))
    assert codes(right) == ()


def test_a_loss_on_other_ids_than_the_batch_is_refused(llama, batch):
    with pytest.raises(InputError, match="the ids that the model was given are not those of the batch"):
        watch(llama, batch, lambda m, b: m(input_ids=b["input_ids"].flip(1), labels=b["labels"]).loss)


@pytest.mark.parametrize("call", ["__call__", "forward"])
def test_labels_withheld_from_the_model(llama, batch, call):
    def loss(model, batch):
        out = getattr(model, call)(**batch)
        assert out.loss is None
        return cross_entropy(out.logits[:, :-1], batch["labels"][:, 1:])

    seen = watch(llama, batch, loss, withhold=True)
    assert codes(seen) == ()
    assert seen.inner_labels == set()


def test_a_model_whose_hidden_rows_are_not_finite(batch):
    model = tiny_model("LlamaForCausalLM")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    assert codes(watch(model, batch, outside_the_model)) == ("LA501",)
