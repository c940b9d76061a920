"""Adapters under ``run``: a head that is tied to trained embeddings and left behind by them is named (LA602)."""

import dataclasses

import peft
import pytest
from live_runs import batches, llama, loop, watched


def run(**options):
    model = llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], **options)
    adapted = peft.get_peft_model(model, lora)
    report, code = watched(lambda: loop(adapted, lambda model, batch: model(**batch).loss, batches(2)))
    assert report is not None
    return [f"{one.code} {one.severity}" for one in report.findings], code, report


@pytest.mark.filterwarnings("ignore:.*tie.*")  # PEFT warns of what is asked for here
def test_a_tied_head_that_the_trained_embeddings_leave_behind():
    found, code, report = run()
    assert (found, code) == (["LA602 error"], 1)
    assert "embeddings, which are trained, to its output embeddings, which are frozen" in report.findings[0].message


@pytest.mark.skipif(
    "ensure_weight_tying" not in {field.name for field in dataclasses.fields(peft.LoraConfig)}, reason="older PEFT"
)
def test_weights_that_peft_keeps_tied_are_right():
    assert run(ensure_weight_tying=True)[:2] == ([], 0)
