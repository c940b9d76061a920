"""``run --every N``: what begins after the first steps is found at an N-th one, and in between nothing is looked at."""

import copy

import torch
from live_runs import batches, llama, loop, mean, same_state, watched
from torch import nn
from torch.nn.modules import module as torch_module

from loss_align import main
from probes.processes.family import Family
from probes.processes.handed import Handed
from probes.processes.telling import listed
from probes.records.choice import Choice
from probes.records.report import Report

STEPS = 10


class Turning:
    """A loss that is right until a step, and copies from then on."""

    def __init__(self, turns=STEPS):
        self.turns, self.calls = turns, 0

    def __call__(self, model, batch):
        self.calls += 1
        return mean(model(**batch).logits, batch["labels"], 0 if self.calls >= self.turns else 1)


def run(loss, count=STEPS, **options):
    model = llama()
    report, code = watched(lambda: loop(model, loss, batches(count)), **options)
    assert report is not None
    return report, code, model


def looked_at(report):
    return [note.removeprefix("looked again at step ") for note in report.notes if note.startswith("looked again")]


def test_what_begins_later_is_found_and_names_its_step(capsys):
    report, code, _ = run(Turning(5), every=3)
    assert [(one.code, one.message.partition(":")[0]) for one in report.findings] == [("LA102", "step 6")]
    assert (report.verdict, code) == ("fail", 1)
    assert "loss-align: step 6: " in capsys.readouterr().err
    assert looked_at(report) == ["3, 6, 9"]  # and what is known is told once
    assert run(Turning(5))[:2][1] == 0  # the first steps alone do not show it


def test_a_right_run_stays_silent_and_the_same(capsys):
    report, code, model = run(Turning(), every=4)
    assert (report.findings, code, looked_at(report)) == ([], 0, ["4, 8"])
    assert "step 4" not in capsys.readouterr().err
    alone = llama()
    loop(alone, Turning(), batches(STEPS))
    assert same_state(alone, model)


def test_nothing_stays_between_two_looks():
    def state():
        hooks = len(torch_module._global_forward_hooks)
        return nn.Module.__call__, torch.autograd.backward, hooks, torch.amp.GradScaler.scale, len(vars(model))

    model, seen = llama(), []

    def loss(model, batch):
        seen.append(state())
        return mean(model(**batch).logits, batch["labels"])

    before = state()
    watched(lambda: loop(model, loss, batches(STEPS)), every=5)
    idle = [number for number, one in enumerate(seen, 1) if one == before]
    assert idle == [3, 4, 6, 7, 8, 9]
    assert state() == before


def test_steps_of_other_optimizers_do_not_count():
    critic = nn.Linear(4, 1)
    other = torch.optim.SGD(critic.parameters(), lr=0.1)
    turning = Turning()

    def loss(model, batch):
        critic(torch.ones(4)).sum().backward()
        other.step()
        return turning(model, batch)

    assert looked_at(run(loss, 6, every=4)[0]) == ["4"]


def test_a_step_that_the_end_cuts_short_is_not_told():
    def train():
        model, data = llama(), batches(4)
        loop(model, Turning(), data[:3])
        mean(model(**data[3]).logits, data[3]["labels"]).backward()  # and no step

    report, code = watched(train, every=4)
    assert (report.findings, code, looked_at(report)) == ([], 0, [])


def test_every_step_can_be_looked_at():
    assert looked_at(run(Turning(), 4, every=1, steps=1)[0]) == ["2, 3, 4"]
    assert listed([str(step) for step in range(2, 11)]) == "2, 3, 4, 5, 6, ..., 10"


def test_no_look_where_nothing_was_watched():
    def train():
        lone = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(lone.parameters(), lr=0.1)
        for _ in range(30):
            lone(torch.ones(2)).sum().backward()
            optimizer.step()

    report, _ = watched(train, every=2)
    assert ([one.code for one in report.findings], looked_at(report)) == (["LA804"], [])


def test_the_command_refuses_to_stop_and_to_look_again(capsys):
    assert main(["run", "--stop", "--every", "5", "x.py"]) == 2
    assert "leave out --every" in capsys.readouterr().err


def test_ranks_are_put_together_step_by_step():
    family = Family(Choice())
    words = [Handed("train.py", Report(), rank=rank, world=2, step=step) for step in (0, 4, 8) for rank in (0, 1)]
    for one in words:
        one.payload.update({"rank": one.rank, "error": "left out"})
    family.add(copy.copy(words[:-1]))
    assert [step for _, _, step in family.complete()] == [0, 4]
    assert list(family.complete(over=True)) == []  # step 8 was cut short on one of them
