"""Under `run`, models that are trained in threads of their own."""

import threading

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, watched


def together(*shifts):
    """Train one model a thread, step by step at the same time; each pairs rows with labels by its own shift."""
    turns = threading.Barrier(len(shifts))
    made = [llama() for _ in shifts]

    def train(model, shift):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for batch in batches(3):
            turns.wait()
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            turns.wait()  # the forward of one lies between the forward and the backward of the other
            rows, labels = logits[:, : logits.shape[1] - shift], batch["labels"][:, shift:]
            F.cross_entropy(rows.flatten(0, 1), labels.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()

    threads = [threading.Thread(target=train, args=pair) for pair in zip(made, shifts, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(("shift", "codes"), [(1, []), (0, ["LA102"])], ids=["right", "copy"])
def test_two_models_in_two_threads_are_told_apart(shift, codes):
    report, code = watched(lambda: together(shift, shift))
    assert [one.code for one in report.findings if one.is_error] == codes
    assert code == bool(codes)
    assert "LA801" in {one.code for one in report.findings}  # of the other nothing is said but that it is there
