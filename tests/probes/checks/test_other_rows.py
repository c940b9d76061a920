"""Models whose rows are not those of their ids, one after the other: the checklist asks what their loss tells."""

import pytest
import torch
import torch.nn.functional as F
from lm_tiny import tiny_model
from torch import nn

from probes import check_loss
from probes.checks.check import adapter_of
from probes.checks.preflight import Plan, preflight

END, MASK, VOCAB = 2, 4, 64


def own(model, batch):
    return model(**batch).loss


def checklist(model, batch):
    return preflight(Plan(model, adapter_of(model, dict(batch), own), dict(batch), own, random_init=False))


def drawn(*shape):
    return torch.randint(5, VOCAB, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("seen_too", "found"), [(False, []), (True, ["LA401"])], ids=["masked", "seen ones too"])
def test_a_masked_objective_is_paired_with_no_labels(seen_too, found):
    ids = drawn(2, 14)
    masked = torch.arange(14) % 3 == 1
    model = tiny_model("BertForMaskedLM", vocab_size=VOCAB).eval()
    labels = ids if seen_too else ids.masked_fill(~masked, -100)
    report = checklist(model, {"input_ids": ids.masked_fill(masked, MASK), "labels": labels})
    assert [one.code for one in report.findings] == found
    assert report.verdict == ("fail" if found else "pass"), report.in_short()
    assert report.check("text-loss").status == "skip"
    assert "masked" in report.check("text-loss").detail


class Spoken(nn.Module):
    """A language model behind frames of audio, whose rows stand before those of the ids."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(8, 32)
        self.llm = tiny_model("LlamaForCausalLM", vocab_size=VOCAB, hidden_size=32, eos_token_id=END)

    def forward(self, frames, input_ids, labels):
        heard = self.encoder(frames)
        embeds = torch.cat([heard, self.llm.get_input_embeddings()(input_ids)], 1)
        unlabelled = labels.new_full(heard.shape[:2], -100)
        return self.llm(inputs_embeds=embeds, labels=torch.cat([unlabelled, labels], 1))


@pytest.mark.parametrize("ends", [True, False], ids=["its end labelled", "its end not"])
def test_frames_that_a_model_puts_before_its_ids(ends):
    ids = drawn(2, 8)
    ids[:, -1] = END
    labels = ids.masked_fill(torch.arange(8) < 3, -100)
    labels[:, -1] = END if ends else -100
    report = checklist(Spoken(), {"frames": torch.ones(2, 6, 8), "input_ids": ids, "labels": labels})
    assert [one.code for one in report.findings] == ([] if ends else ["LA203"])
    assert report.verdict == ("pass" if ends else "fail"), report.in_short()
    assert "28 rows of logits for 16 ids" in report.check("text-length").detail


def test_a_masked_model_that_learns_from_another_alone_reads_both_ways_by_right():
    model, teacher = (tiny_model("BertForMaskedLM", vocab_size=VOCAB).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(0, 0.3, generator=generator)

    def distilled(model, batch):
        with torch.no_grad():
            goal = teacher(**batch).logits.softmax(-1)
        return F.kl_div(model(**batch).logits.log_softmax(-1), goal, reduction="batchmean")

    report = check_loss(model, {"input_ids": drawn(2, 14)}, distilled)
    assert [one.code for one in report.findings] == ["LA802"], report.in_short()
