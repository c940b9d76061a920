"""Losses of causal language models that are right, each in its own style, and batches that they are tried on."""

import pytest
import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import LENGTH, OLD, VOCAB
from torch.utils.checkpoint import checkpoint

from probes.models.causal_lm import CausalLMAdapter
from probes.witness.witness import Options, witness

#: A loss that never makes its logits.
NEEDS_FUSED = pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has no linear_cross_entropy")


def watch(model, batch, loss, **options):
    return witness(model, CausalLMAdapter(model), batch, loss, Options(**options))


def codes(seen):
    return tuple(finding.code for finding in seen.findings)


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
