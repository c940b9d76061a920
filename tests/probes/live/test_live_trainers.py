"""The sample losses of the fault matrix, trained on for two steps and watched: what can be seen of them is said."""

import copy
import inspect
import logging

import pytest
import torch
from fault_cases import CORRECT, FAULTS
from fault_matrix import batch_of, load, model_for, narrows, short
from live_runs import watched

MARKS = {"llama": [], "higgs_v2": [pytest.mark.higgs_v2]}
#: What is seen of a fault where that is not its finding.
SEEN = {
    "fused_audio:audio_copy": set(),  # one gradient for eight codebooks
    "fused_audio:next_codebook": set(),
    "swallowed_error:before_the_model": set(),  # the model is never called
    "graph_cut:no_grad": set(),  # nor with gradients on
}
QUICK = (
    "copy_audio:loss",
    "fused:both_heads",
    "fused:linear",
    "calls:micro_batches",
    "segments_in_one_piece",
    "text_skipped",
)


def due(case):
    """What must be said: nothing is declared, and a step is one backward, so that no denominator is wrong."""
    return SEEN.get(case.loss, {error for error in case.errors if not error.startswith("LA302")})


def runs(case):
    """Whether a loss gets to its backward; the data of ``chatml`` is judged elsewhere."""
    raises = case.fault == 1 or "out_of_range" in case.loss or case.loss.endswith("shift_labels_given")
    return case.model != "chatml" and not raises


def params():
    for case in filter(runs, (*CORRECT, *FAULTS)):
        quick = case.model == "higgs" and any(name in case.loss for name in QUICK)
        marks = [*MARKS.get(case.model, [pytest.mark.higgs]), *([] if quick else [pytest.mark.deep])]
        yield pytest.param(case, id=str(case), marks=marks)


def train(case):
    """Two plain steps on fresh copies of the case's batch."""
    narrow = narrows(case)
    model, loss = copy.deepcopy(model_for(case.model, narrow=narrow)).train(), load(case.loss)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    counts = [name for name in ("num_items_in_batch", "num_items") if name in inspect.signature(loss).parameters]
    for _ in range(2):
        batch = {key: copy.deepcopy(value) for key, value in batch_of(case, 2, narrow=narrow).items()}
        named = dict.fromkeys(counts, None) if "num_items" in counts else dict.fromkeys(counts, torch.tensor(56))
        value = loss(model, batch, **named)
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("case", list(params()))
def test_a_watched_run_says_what_can_be_seen(case):
    logging.disable()
    try:
        report, _ = watched(lambda: train(case))
    finally:
        logging.disable(logging.NOTSET)
    assert {short(found) for found in report.findings if found.is_error} == due(case)
    warnings = {short(found) for found in report.findings if not found.is_error}
    # codebooks that share the input of a fused head cannot be told apart from outside (docs/doors.md)
    untold = {"LA802 audio"} & warnings if "fused" in case.loss else set()
    assert case.fault or warnings - untold <= {*case.warnings, "LA301 text", "LA301 audio"}
    if not case.fault:
        assert report.verdict == ("incomplete" if untold else "pass")
