"""A notebook: the report as a page in a frame, and the magics of ``%load_ext loss_align``."""

import re

import pytest
from notebooks import executed

pytestmark = pytest.mark.once

MODEL = """
import torch, torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from probes import check_loss
config = LlamaConfig(vocab_size=128, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(config)
ids = torch.arange(40).view(2, 20) + 3
batch = {"input_ids": ids, "labels": ids.clone()}

def right(model, batch):
    return model(**batch).loss

def copy(model, batch):
    return F.cross_entropy(model(**batch).logits.flatten(0, 1), batch["labels"].flatten())
"""
TRAINING = """%%loss_align --steps 2
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    copy(model, batch).backward()
    optimizer.step()
    optimizer.zero_grad()
"trained"
"""
CELLS = {
    "load": "%load_ext loss_align",
    "model": MODEL,
    "right": "check_loss(model, batch, right)",
    "copy": "%loss_align model, batch, copy, ignore=['LA201']",
    "training": TRAINING,
    "after": "print(Out[5].verdict, len(model._forward_hooks))",
    "text": "print(check_loss(model, batch, copy))",
    "nothing": "%loss_align",
    "no model": "%loss_align 1, batch, copy",
    "no option": "%%loss_align --stepz 2\n'never run'",
    "raises": "%%loss_align\n1 / 0",
}


@pytest.fixture(scope="module")
def outputs(warm, tmp_path_factory):
    notebook = executed(warm, tmp_path_factory.mktemp("notebook"), *CELLS.values())
    return {name: cell["outputs"] for name, cell in zip(CELLS, notebook.cells, strict=True)}


def test_a_report_is_shown_as_its_page(outputs):
    (shown,) = outputs["right"]
    page = shown["data"]["text/html"]
    assert page.startswith('<iframe sandbox="allow-scripts allow-downloads"')
    assert "<h1>38 targets are trained as they must be" in page.replace("&lt;", "<")
    assert len(page) < 500_000
    assert "PASS: 38 targets in 1 stream" in shown["data"]["text/plain"]


def test_the_line_magic_checks_a_loss_and_names_the_cell(outputs):
    (shown,) = outputs["copy"]
    assert "LA102 copy-objective error on text" in shown["data"]["text/plain"]
    assert re.search(r"Cell In\[2\]:1\d: pairs each logit with the label", shown["data"]["text/plain"])


def test_the_cell_magic_watches_a_training_cell(outputs):
    value, report = outputs["training"]
    assert value["data"]["text/plain"] == "'trained'", "the cell shows what it shows without the magic"
    assert "watched 2 optimizer steps" in report["data"]["text/plain"]
    assert "LA102 copy-objective error on text" in report["data"]["text/plain"]
    (after,) = outputs["after"]
    assert after["text"] == "fail 0\n", "the report is the cell's value, and nothing is left behind"


def test_a_report_is_printed_as_one_text(outputs):
    (printed,) = outputs["text"]
    assert printed["output_type"] == "stream"
    assert printed["text"].rstrip().endswith("FAIL: 1 error; 40 targets in 1 stream, 1 head, causality")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("nothing", "name the model, the batch and the loss: %loss_align model, batch, loss"),
        ("no model", "loss-align: "),
        ("no option", "unrecognized arguments: --stepz 2; see %loss_align?"),
    ],
)
def test_bad_usage_is_one_sentence(outputs, cell, said):
    (told,) = outputs[cell]
    assert told["output_type"] == "stream"
    assert said in told["text"]
    assert "Traceback" not in told["text"]


def test_a_cell_that_raises_says_so_and_nothing_else(outputs):
    (told,) = outputs["raises"]
    assert told["ename"] == "ZeroDivisionError"
