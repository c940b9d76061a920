"""A watched forward is run again with other inputs, and the training does not notice."""

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, loop, watched
from torch import nn


def own(model, batch):
    return model(**batch).loss


def sees_next(_module, _args, output):
    return output + 0.1 * output.roll(-1, dims=1)


@pytest.mark.parametrize("leak", [False, True])
def test_rows_that_see_what_they_are_trained_on_are_named_in_a_run(leak):
    model = llama()
    if leak:
        model.model.norm.register_forward_hook(sees_next)
    report, code = watched(lambda: loop(model, own, batches(4)))
    assert ([f.code for f in report.findings], code) == (["LA401"] * leak, int(leak))
    assert report.check("causality").status == ("fail" if leak else "pass")
    assert report.causality["cuts"]


def test_training_goes_on_bit_for_bit():
    def trained():
        torch.manual_seed(0)
        model = llama()
        model.model.norm.register_module("drop", nn.Dropout(0.2))
        model.model.norm.register_forward_hook(lambda norm, _args, output: norm.drop(output))
        model.train()
        loop(model, own, batches(4))
        return [value.clone() for value in model.state_dict().values()], torch.rand(1)

    alone, drawn = trained()
    found = []
    report, _ = watched(lambda: found.append(trained()))
    assert report.check("causality").status == "pass"
    assert all(torch.equal(one, other) for one, other in zip(alone, found[0][0], strict=True))
    assert torch.equal(drawn, found[0][1])


class Drafting(nn.Module):
    """A Llama whose body it calls itself, and a head that has read the next token too: it is to predict two ahead."""

    def __init__(self):
        super().__init__()
        self.main = llama()
        self.config = self.main.config
        size = self.config.hidden_size
        self.both = nn.Linear(2 * size, size, bias=False)
        self.draft = nn.Linear(size, self.config.vocab_size, bias=False)

    def get_output_embeddings(self):
        return self.main.lm_head

    def rows(self, input_ids, attention_mask):
        return self.main.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def forward(self, input_ids, attention_mask=None, labels=None):
        rows = self.rows(input_ids, attention_mask)
        following = self.main.model.embed_tokens(F.pad(input_ids[:, 1:], (0, 1)))
        return self.main.lm_head(rows), self.draft(self.both(torch.cat([rows, following], -1)))


class Embedding(Drafting):
    """The same, whose body is given embeddings."""

    def rows(self, input_ids, attention_mask):
        embeds = self.main.model.embed_tokens(input_ids)
        return self.main.model(inputs_embeds=embeds, attention_mask=attention_mask).last_hidden_state


class Opaque(Drafting):
    """The same, given something that cannot be kept."""

    def forward(self, input_ids, attention_mask=None, labels=None, extra=None):
        return super().forward(input_ids, attention_mask)


def drafted(model, ahead, **more):
    def loss(model, batch):
        main, draft = model(**batch, **more)
        labels = batch["labels"]
        told = F.cross_entropy(main[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return told + F.cross_entropy(draft[:, :-ahead].flatten(0, 1), labels[:, ahead:].flatten())

    return watched(lambda: loop(model, loss, batches(3)))[0]


@pytest.mark.parametrize(("ahead", "found"), [(1, ["LA401"]), (2, [])])
@pytest.mark.parametrize("kind", [Drafting, Embedding])
def test_a_wrapper_is_run_again_where_its_own_layers_stand_before_a_head(kind, ahead, found):
    """One ahead the head is trained on what it reads; two ahead it may have read the next token."""
    report = drafted(kind(), ahead)
    assert [one.code for one in report.findings] == found
    assert report.check("causality").status == ("fail" if found else "pass")


@pytest.mark.parametrize("ahead", [1, 2])
def test_what_such_a_head_has_read_is_no_pass_where_the_wrapper_cannot_be_run_again(ahead):
    report = drafted(Opaque(), ahead, extra=object())
    assert report.verdict == "incomplete"
    (found,) = report.findings
    assert found.code == "LA805"
    assert "which alone can be run again" in found.message
