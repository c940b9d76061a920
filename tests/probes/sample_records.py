"""Real records for the tests of records: one small model, a right loss and one switched from shifted to direct."""

import copy
import functools

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from probes import check_loss
from probes.records.provenance import provenance
from probes.records.record import record_of_report

VOCAB, ROWS = 96, 20


def shifted(model, batch):
    return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def direct(model, batch):
    return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())


@functools.cache
def _told(loss):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    ids = torch.randperm(VOCAB - 10, generator=torch.Generator().manual_seed(0))[: 2 * ROWS].view(2, ROWS) + 10
    report = check_loss(model, {"input_ids": ids, "labels": ids.clone()}, loss)
    report.losses["text"] = report.losses["total"]
    report.shapes["logits"] = [2, ROWS, VOCAB]
    return record_of_report(report, provenance(model, report.environment, "loss-align record")).as_dict()


def record(loss=shifted, **changed):
    """The record as a dictionary; ``changed`` replaces entries of its report."""
    told = copy.deepcopy(_told(loss))
    told["report"].update(changed)
    return told
