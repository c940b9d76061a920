"""`run` and the lines behind what it finds: looked for in the second watched step, which trains as it would have."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, loop, mean, same_state, watched
from torch.utils.data import DataLoader

from probes.line.tape import Tape


def right(model, batch):
    return model(**batch).loss


def shifted_twice(model, batch):
    labels = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]  # planted
    return model(**{**batch, "labels": labels}).loss  # planted


def copied(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())  # planted


def two_ahead(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).logits
    return mean(logits[:, :-1], batch["labels"][:, 1:])  # planted


def end_masked(model, batch):
    labels = batch["labels"].clone()
    labels[:, 10:] = -100  # planted
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).logits
    return mean(logits, labels)


PLANTED = {shifted_twice: "LA103", copied: "LA102", two_ahead: "LA103", end_masked: "LA201"}


def planted_in(loss):
    lines, first = inspect.getsourcelines(loss)
    return {first + number for number, line in enumerate(lines) if "# planted" in line}


@pytest.mark.parametrize("loss", PLANTED, ids=lambda loss: loss.__name__)
def test_the_planted_lines_are_named(loss):
    report, _ = watched(lambda: loop(llama(), loss, batches(2)))
    found = next(one for one in report.findings if one.code == PLANTED[loss])
    assert planted_in(loss) <= {line.line for line in found.lines if line.own}, (found.lines, found.origin)


@pytest.mark.parametrize("loss", [shifted_twice, end_masked, right], ids=lambda loss: loss.__name__)
def test_training_stays_bit_for_bit_the_same(loss):
    plain, seen = llama(), llama()
    torch.manual_seed(1)
    loop(plain, loss, batches(4), accumulate=2)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    watched(lambda: loop(seen, loss, batches(4), accumulate=2))
    assert same_state(plain, seen)
    assert torch.equal(torch.get_rng_state(), after)


def scaled_loop(model, loss, data, accumulate=2):
    """A loop of half precision: autocast, a scaler of the loss, clipped gradients."""
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=128.0)
    for number, batch in enumerate(data, 1):
        with torch.autocast("cpu", torch.float16):
            value = loss(model, dict(batch)) / accumulate
        scaler.scale(value).backward()
        if number % accumulate == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def cast_loop(model, loss, data):
    def cast(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model, batch)

    loop(model, cast, data, accumulate=2)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize(
    ("train", "reentrant"),
    [(scaled_loop, None), (scaled_loop, True), (cast_loop, False)],
    ids=["", "reentrant", "cast"],
)
def test_so_it_does_in_half_precision_with_accumulation_and_checkpoints(train, reentrant):
    states, found = [], []
    for door in (lambda run: run(), lambda run: found.extend(watched(run)[0].findings)):
        model = llama()
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(1)
        door(lambda model=model: train(model, shifted_twice, batches(4)))
        states.append({**model.state_dict(), "random": torch.get_rng_state()})
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    (lines,) = [one.lines for one in found if one.code == "LA103"]
    assert planted_in(shifted_twice) <= {line.line for line in lines if line.own}


def test_an_error_of_ours_never_reaches_the_script(monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    plain, seen = llama(), llama()
    torch.manual_seed(1)
    loop(plain, shifted_twice, batches(3))
    monkeypatch.setattr(Tape, "_record", broken)
    torch.manual_seed(1)
    report, _ = watched(lambda: loop(seen, shifted_twice, batches(3)))
    assert same_state(plain, seen)
    assert [one.lines for one in report.findings if one.code == "LA103"] == [()]


def test_nothing_stands_around_torch_afterwards():
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    watched(lambda: loop(llama(), shifted_twice, batches(3)))
    assert _get_current_dispatch_mode() is None


def test_a_loss_that_nothing_is_said_of_is_not_followed(monkeypatch):
    from probes.live import lines

    monkeypatch.setattr(lines, "Lines", None)  # would raise
    report, _ = watched(lambda: loop(llama(), right, batches(2)))
    assert report.verdict == "pass"


def test_a_run_of_one_step_says_no_line():
    report, _ = watched(lambda: loop(llama(), copied, batches(1)), steps=1)
    assert [one.lines for one in report.findings if one.code == "LA102"] == [()]


def collate(samples):
    batch = {key: torch.stack([one[key] for one in samples]) for key in samples[0]}
    batch["labels"] = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)  # planted
    return batch


END, PAD = 2, 0


def stacked(samples):
    ids = torch.stack([one["input_ids"] for one in samples]).clamp(min=3)
    ids[:, -3:] = torch.tensor([END, PAD, PAD])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def end_masked_too(samples):
    batch = stacked(samples)
    labels = batch["input_ids"].clone()
    labels[(labels == PAD) | (labels == END)] = -100  # planted
    return {**batch, "labels": labels}


def padding_left_in(samples):
    batch = stacked(samples)
    return {**batch, "labels": batch["input_ids"].clone()}  # planted


@pytest.mark.parametrize(
    ("collate", "code"),
    [(collate, "LA103"), (end_masked_too, "LA203"), (padding_left_in, "LA202")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_the_collator_is_named_where_it_runs_in_this_process(collate, code):
    samples = [{key: value[0] for key, value in one.items()} for one in batches(4, size=1)]
    report, _ = watched(lambda: loop(llama(), right, DataLoader(samples, batch_size=2, collate_fn=collate)))
    found = next(one for one in report.findings if one.code == code)
    assert planted_in(collate) <= {line.line for line in found.lines if line.own}, (found.lines, found.origin)


def ids_trained(model, batch):
    labels = batch["input_ids"].clone()
    labels[:, :5] = -100
    logits = model(input_ids=batch["input_ids"], labels=labels).logits
    wrong = batch["input_ids"].clone()  # planted
    return mean(logits, wrong)


def test_labels_that_are_made_of_ids_are_told_from_ids_that_are_trained_in_their_place():
    report, _ = watched(lambda: loop(llama(), ids_trained, batches(3)))
    found = next(one for one in report.findings if one.code == "LA202")
    assert {line.line for line in found.lines if line.own} == planted_in(ids_trained), (found.lines, found.origin)
