"""The watcher changes nothing: weights, gradients, random state, modules and torch are as without it."""

import copy
import gc
import random
import sys
import weakref

import pytest
import torch
from live_runs import batches, llama, loop, mean, same_state, watched
from torch import nn
from torch.nn.modules import module as torch_module

from probes.live import model_hooks
from probes.live.arrival import when_imported
from probes.live.gradients import Gradients
from probes.live.launch import Ended
from probes.live.model_hooks import ModelHooks
from probes.live.watcher import Watcher
from probes.processes.session import Session, Settings
from probes.records.choice import Choice


def right(model, batch):
    return mean(model(**batch).logits, batch["labels"])


def with_scaler(model, data):
    """Autocast to half precision, a loss scaler, two micro-batches a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu")
    for number, batch in enumerate(data, 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss = right(model, batch) / 2
        scaler.scale(loss).backward()
        if number % 2 == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def with_checkpoints(model, data):
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    loop(model, lambda m, batch: m(**batch).loss, data)


def with_lora(model, data):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", lora_dropout=0.1))
    loop(adapted, right, data, accumulate=2)


STYLES = {
    "plain": lambda model, data: loop(model, right, data),
    "accumulated": lambda model, data: loop(model, right, data, accumulate=3),
    "scaler": with_scaler,
    "checkpoints": with_checkpoints,
    "lora": with_lora,
}


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("style", STYLES)
def test_weights_and_random_state_are_the_same_bits(style):
    def train():
        torch.manual_seed(1)
        model = llama()
        torch.manual_seed(2)
        random.seed(2)
        STYLES[style](model, batches(10))
        return model, torch.get_rng_state(), random.getstate()

    alone, state, python_state = train()
    kept = []
    report, _ = watched(lambda: kept.append(train()))
    ours, our_state, our_python_state = kept[0]
    assert report.error == ""
    assert report.streams["text"]["supervised"] > 0
    assert same_state(alone, ours)
    assert torch.equal(state, our_state)
    assert python_state == our_python_state


def traces():
    """What a watcher could leave in torch."""
    hooks = [name for name in vars(torch_module) if name.startswith("_global") and getattr(torch_module, name)]
    scaler = torch.amp.GradScaler
    return nn.Module.__call__, scaler.scale, scaler.update, torch.autograd.backward, hooks


def test_nothing_is_left_in_torch_or_in_the_model():
    before, model = traces(), llama()
    loaded = set(vars(model))
    watched(lambda: loop(model, right, batches(3)))
    assert traces() == before
    assert set(vars(model)) == loaded


def test_nothing_is_left_of_a_run_that_raised():
    before = traces()

    def train():
        model = llama()
        loop(model, right, batches(1))
        model(input_ids=torch.tensor([[10**9]]))

    with pytest.raises(IndexError):
        watched(train)
    assert traces() == before


def test_hooks_are_gone_after_the_watched_steps():
    seen = []
    before = traces()

    def counted(model, batch):
        seen.append(traces() == before)
        return right(model, batch)

    watched(lambda: loop(llama(), counted, batches(5)), steps=2)
    assert seen == [False, False, True, True, True]


def test_logits_and_gradients_are_let_go():
    held = []

    def train():
        model = llama()

        def loss(model, batch):
            logits = model(**batch).logits
            held.append(weakref.ref(logits.untyped_storage()))
            return mean(logits, batch["labels"])

        loop(model, loss, batches(2), optimizer=torch.optim.SGD(model.parameters(), 0.1))
        gc.collect()
        held.append([one() is None for one in held])

    watched(train, steps=3)
    assert held[-1] == [True, True]


@pytest.mark.parametrize("steps", [2, 9], ids=["all steps seen", "the script ended"])
def test_the_model_is_let_go(steps):
    held = []

    def train():
        model = llama()
        held.append(weakref.ref(model))
        loop(model, right, batches(3), optimizer=torch.optim.SGD(model.parameters(), 0.1))

    session = Session(Settings(steps, (), False, {}, Choice(), list))
    with session:
        session.begin()
        train()
        if steps == 9:
            session.end(Ended(0))
        gc.collect()
        assert held[0]() is None
        assert session.report.verdict == "pass"


HOOKS = [
    *((Watcher, name) for name in ("_stepped", "_returned", "_look_at")),
    *((ModelHooks, name) for name in ("_begin", "_after_body")),
    *((Gradients, name) for name in ("note_call", "_grade")),
]


@pytest.mark.parametrize(("owner", "hook"), HOOKS)
def test_an_error_of_ours_switches_the_watcher_off_and_not_the_run(owner, hook, monkeypatch, capsys):
    alone = llama()
    loop(alone, right, batches(4))
    monkeypatch.setattr(owner, hook, lambda *_, **__: 1 / 0)
    model = llama()
    report, code = watched(lambda: loop(model, right, batches(4)))
    assert (report.verdict, report.exit_code, code) == ("error", 3, 3)
    assert "error of its own" in report.error
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert same_state(alone, model)


def test_an_error_of_ours_while_judging_is_none_of_the_runs(monkeypatch):
    monkeypatch.setattr("probes.live.observed.join", lambda parts: 1 / 0)
    report, code = watched(lambda: loop(llama(), right, batches(4)))
    assert (report.verdict, code) == ("error", 3)
    report, code = watched(lambda: loop(llama(), right, batches(4)), ended=5)
    assert code == 5  # the script's own goes first


def test_stop_ends_the_run_after_the_watched_steps():
    seen = []

    def train():
        with pytest.raises(SystemExit) as stopped:
            loop(llama(), lambda m, b: (seen.append(1), mean(m(**b).logits, b["labels"], 0))[1], batches(5))
        assert stopped.value.code == 1

    watched(train, stop=True)
    assert len(seen) == 2


def test_an_optimizer_of_another_model_makes_no_step():
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    def loss(model, batch):
        value = right(model, batch)
        optimizer.step()
        return value

    report, _ = watched(lambda: loop(llama(), loss, batches(4), accumulate=2))
    assert "watched 2 optimizer steps, 4 forward passes" in " ".join(report.notes)


@pytest.mark.parametrize(("shift", "found"), [(1, set()), (0, {"LA102"})], ids=["right", "copy"])
def test_an_optimizer_of_a_projector_alone_makes_the_steps(shift, found):
    """A language model that is not trained need not be frozen: the optimizer is not given its parameters."""
    projector = nn.Linear(8, 32)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.1)

    def loss(model, batch):
        embeddings = model.get_input_embeddings()(batch["input_ids"])
        embeddings = torch.cat([embeddings[:, :2] + projector(torch.ones(8)), embeddings[:, 2:]], 1)
        given = {"inputs_embeds": embeddings, "attention_mask": batch["attention_mask"], "labels": batch["labels"]}
        return mean(model(**given).logits, batch["labels"], shift)

    report, _ = watched(lambda: loop(llama(), loss, batches(8), accumulate=2, optimizer=optimizer))
    assert "watched 2 optimizer steps, 4 forward passes" in " ".join(report.notes)
    assert {one.code for one in report.findings} == {"LA302"} | found


def test_a_step_that_a_scaler_skips_ends_a_step_all_the_same():
    def train():
        model = llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        for number, batch in enumerate(batches(3)):
            scaler.scale(right(model, batch)).backward()
            if number == 0:
                model.lm_head.weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    report, _ = watched(train)
    assert report.verdict == "pass"
    notes = " ".join(report.notes)
    assert "watched 2 optimizer steps, 2 forward passes" in notes
    assert "65536" in notes


def test_many_forwards_without_a_step_are_enough(monkeypatch):
    monkeypatch.setattr(model_hooks, "MOST_FORWARDS", 3)
    report, _ = watched(lambda: loop(llama(), right, batches(6), accumulate=99))
    assert report.verdict == "pass"
    assert "no optimizer step was seen" in " ".join(report.notes)


def test_a_frozen_model_is_passed_over_for_the_one_that_is_trained():
    teacher, student = llama().requires_grad_(requires_grad=False), copy.deepcopy(llama())

    def distil(model, batch):
        teacher(**batch)
        return mean(model(**batch).logits, batch["labels"], 0)

    report, _ = watched(lambda: loop(student, distil, batches(3)))
    assert {found.code for found in report.findings} == {"LA102"}


def test_a_module_is_waited_for_until_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "arrives_late.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = []
    with when_imported("arrives_late", lambda: seen.append(sys.modules["arrives_late"].value)):
        assert seen == []
        import arrives_late

        assert seen == [1]
        assert type(arrives_late.__spec__.loader).__name__ == "SourceFileLoader"
        assert arrives_late.__loader__ is arrives_late.__spec__.loader
    with when_imported("arrives_late", lambda: seen.append(2)):
        assert seen == [1, 2]
    finders = list(sys.meta_path)
    with when_imported("never_imported_at_all", lambda: seen.append(3)):
        pass
    assert sys.meta_path == finders
    assert seen == [1, 2]


def test_a_backward_of_what_is_no_tensor_raises_as_ever():
    def told():
        with pytest.raises(Exception, match=r".*") as raised:  # whatever this torch says
            torch.autograd.backward([None])
        return str(raised.value)

    def train():
        model = llama()
        loop(model, right, batches(1))
        right(model, batches(1)[0])
        said.append(told())
        loop(model, right, batches(1))

    said = [told()]
    report, code = watched(train)
    assert said[0] == said[1]
    assert (report.error, code) == ("", 0)


def test_a_wrapper_that_hands_its_attributes_to_what_it_wraps_keeps_both_forwards():
    """Fabric's does: a forward put on it would become that of the module below, and call itself for ever."""
    from probes.host.forward_patch import ForwardPatch

    class Handing(torch.nn.Module):
        def __init__(self, below):
            super().__init__()
            self.below = below

        def forward(self, ids):
            return self.below(ids) + 1

        def __setattr__(self, name, value):
            if "below" in self.__dict__.get("_modules", {}) and hasattr(self.below, name):
                setattr(self.below, name, value)
            else:
                super().__setattr__(name, value)

    wrapper = Handing(torch.nn.Identity())
    patch = ForwardPatch(wrapper, lambda forward, module, args, kwargs: forward(*args, **kwargs) * 2)
    assert int(wrapper(torch.ones(()))) == 4
    patch.remove()
    assert int(wrapper(torch.ones(()))) == 2
