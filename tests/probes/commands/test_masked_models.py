"""``preflight`` and ``fuzz`` of a masked language model draw batches of its own objective."""

import json

import pytest
import transformers

import loss_align

LOSSES = """
import torch.nn.functional as F


def scores(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def right(model, batch):
    return F.cross_entropy(scores(model, batch).flatten(0, 1), batch["labels"].flatten())


def shifted(model, batch):
    return F.cross_entropy(scores(model, batch)[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def copied(model, batch):
    seen = batch["input_ids"].masked_fill(batch["labels"] >= 0, -100)
    return F.cross_entropy(scores(model, batch).flatten(0, 1), seen.flatten())
"""


@pytest.fixture(scope="module", params=["bert", "electra", "modernbert"])
def folder(request, tmp_path_factory):
    kind = {"bert": "Bert", "electra": "Electra", "modernbert": "ModernBert"}[request.param]
    if not hasattr(transformers, f"{kind}Config"):
        pytest.skip(f"this transformers has no {kind}Config")
    path = tmp_path_factory.mktemp(kind)
    sizes = {"vocab_size": 600, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, **special, intermediate_size=256)
    config.architectures = [f"{kind}ForMaskedLM"]
    config.save_pretrained(path)
    (path / "losses.py").write_text(LOSSES)
    return path


@pytest.mark.parametrize(("loss", "told"), [("", []), ("right", []), ("shifted", ["LA104"]), ("copied", ["LA401"])])
def test_rows_are_judged_by_what_was_masked(folder, tmp_path, loss, told):
    out, words = tmp_path / "report.json", ["--loss", f"{folder / 'losses.py'}:{loss}"] if loss else []
    code = loss_align.main(["preflight", "--model", str(folder), "--weights", "none", "--json", str(out), *words])
    report = json.loads(out.read_text())
    errors = {one["code"] for one in report["findings"] if one["severity"] == "error"}
    assert (code, errors >= set(told), bool(errors)) == (int(bool(told)), True, bool(told))


@pytest.mark.parametrize(("loss", "code"), [("right", 0), ("shifted", 1)])
def test_cases_are_drawn_with_masks_too(folder, capsys, loss, code):
    words = ["--weights", "none", "--loss", f"{folder / 'losses.py'}:{loss}", "--examples", "6"]
    assert loss_align.main(["fuzz", "--model", str(folder), *words]) == code
    assert ("LA104" in capsys.readouterr().out) is bool(code)
