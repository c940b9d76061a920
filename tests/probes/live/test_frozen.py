"""A frozen language model that is trained through: a projector before it, learnt prompts, hooked embeddings."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from live_runs import batches, llama, loop, mean, watched
from lm_batches import batch_for
from lm_tiny import OLD, tiny_model
from narrow import narrow_batch, narrow_model
from torch import nn
from transformers import Trainer, TrainingArguments

from probes import AlignmentCallback, check_loss

FRAMES = 6


def frozen(model, *trained):
    """The model with nothing trained but parameters whose name holds one of ``trained``."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    return model


def codes(report):
    assert report.error == ""
    return [f"{found.code} {found.severity}" for found in report.findings]


def embedded(llm, audio, batch):
    """Frames of audio before the text: what the language model is called with, and labels as long."""
    text = llm.get_input_embeddings()(batch["input_ids"])
    mask = torch.cat([torch.ones(audio.shape[:2]).long(), batch["attention_mask"]], 1)
    labels = torch.cat([torch.full(audio.shape[:2], -100), batch["labels"]], 1)
    return {"inputs_embeds": torch.cat([audio, text], 1), "attention_mask": mask}, labels


class SpeechModel(nn.Module):
    """A trained projector in front of a frozen language model; the labels stay here."""

    def __init__(self, shift=1):
        super().__init__()
        self.projector, self.llm, self.shift = nn.Linear(8, 32), frozen(llama()), shift

    def forward(self, input_ids, attention_mask, labels):
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        given, labels = embedded(self.llm, self.projector(torch.randn(len(labels), FRAMES, 8)), batch)
        return {"loss": mean(self.llm(**given).logits, labels, self.shift)}


class InPlace(SpeechModel):
    """The frames take the places of the first tokens."""

    def forward(self, input_ids, attention_mask, labels):
        text = self.llm.get_input_embeddings()(input_ids).clone()
        text[:, :3] = self.projector(torch.randn(len(labels), 3, 8))
        return {"loss": mean(self.llm(inputs_embeds=text, attention_mask=attention_mask).logits, labels, self.shift)}


def as_one_module(make, shift):
    def train():
        loop(make(shift), lambda model, batch: model(**batch)["loss"], batches(4))

    return train


def as_two_modules(shift):
    """The script itself puts the projector before the language model; only the projector is in the optimizer."""
    projector, llm, other = nn.Linear(8, 32), frozen(llama()), nn.Linear(2, 2)
    optimizer, others = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (projector, other))
    for batch in batches(4):
        given, labels = embedded(llm, projector(torch.randn(2, FRAMES, 8)), batch)
        mean(llm(**given).logits, labels, shift).backward()
        others.step()
        optimizer.step()
        optimizer.zero_grad()


def behind_a_hook(shift):
    """The language model is called with ids: what is trained is added to their embeddings by a hook."""
    llm, delta = frozen(llama()), nn.Parameter(torch.zeros(32))
    llm.get_input_embeddings().register_forward_hook(lambda module, args, out: out + delta)
    loop(llm, lambda m, b: mean(m(**b).logits, b["labels"], shift), batches(4), optimizer=torch.optim.SGD([delta], 0.1))


#: Correct recipes that show no labels, and train a part of the rows.
BLIND_BY_RIGHT = {"projector": ["LA804 blind"], "two modules": ["LA804 blind"]}
WITHOUT_PEFT = {
    "projector": functools.partial(as_one_module, SpeechModel),
    "in place": functools.partial(as_one_module, InPlace),
    "two modules": lambda shift: lambda: as_two_modules(shift),
    "hook": lambda shift: lambda: behind_a_hook(shift),
}


@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102 error"]), (2, ["LA103 error"])])
@pytest.mark.parametrize("recipe", WITHOUT_PEFT)
def test_a_run_that_trains_through_a_frozen_model_is_read(recipe, shift, found):
    report, code = watched(WITHOUT_PEFT[recipe](shift))
    assert (codes(report), code) == (found or BLIND_BY_RIGHT.get(recipe, []), int(bool(found)))
    assert "watched 2 optimizer steps, 2 forward passes" in " ".join(report.notes)
    assert report.streams["text"]["supervised"] > 20


@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102 error"])])
@pytest.mark.parametrize("make", [SpeechModel, InPlace])
def test_the_loss_of_a_model_that_trains_through_a_frozen_one_is_checked(make, shift, found):
    report = check_loss(make(shift), batches(1)[0], lambda model, batch: model(**batch)["loss"])
    assert codes(report) == found
    assert report.streams["text"]["supervised"] > 10


@pytest.mark.versions
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(("shift", "found"), [(1, []), (0, ["LA102 error"])])
def test_under_a_trainer(shift, found, tmp_path):
    samples = [{key: value[0] for key, value in batch.items()} for batch in batches(4, 1, equal=True)]
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = Trainer(SpeechModel(shift), arguments, train_dataset=samples)
    callback = AlignmentCallback(on_findings="report")
    trainer.add_callback(callback)
    trainer.train()
    assert codes(callback.report) == found


# -- learnt prompts ----------------------------------------------------------------------------------


def prompted(kind):
    import peft

    return peft.get_peft_model(llama(), getattr(peft, kind)(num_virtual_tokens=3, task_type="CAUSAL_LM"))


def own(model, batch):
    return model(**batch).loss


def copied(model, batch):
    labels = batch.pop("labels")
    return mean(model(**batch).logits[:, -labels.shape[1] :], labels, 0)


@pytest.mark.versions
@pytest.mark.parametrize(("loss", "found"), [(own, []), (copied, ["LA102 error"])])
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"])
def test_learnt_prompts(kind, loss, found):
    model, data = prompted(kind), batches(4)
    assert codes(check_loss(model, data[0], loss)) == found
    report, _ = watched(lambda: loop(model, loss, data))
    # a cache that is filled: not run again; beside a stream-wide error that is not said
    read_before = ["LA805 blind"] if kind == "PrefixTuningConfig" and not found else []
    assert codes(report) == [*found, *read_before]
    assert report.check("coverage").status == ("skip" if found else "pass")


# -- multimodal models of transformers ---------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize(
    "name",
    [
        "LlavaForConditionalGeneration",
        *(
            pytest.param(name, marks=pytest.mark.skipif(OLD, reason="not run under transformers 4.46"))
            for name in ("Qwen2AudioForConditionalGeneration", "PaliGemmaForConditionalGeneration")
        ),
    ],
)
def test_a_trained_projector_of_a_transformers_model(name):
    def flat(model, batch):
        return F.cross_entropy(model(**batch).logits.flatten(0, 1).float(), batch["labels"].flatten())

    for loss, found in ((own, []), (flat, ["LA102 error"])):
        model, batch = frozen(tiny_model(name), "multi_modal_projector"), batch_for(name)
        assert codes(check_loss(model, batch, loss)) == found
        report, _ = watched(lambda model=model, loss=loss, batch=batch: loop(model, loss, [batch] * 3))
        assert codes(report) == found


@pytest.mark.higgs
def test_the_released_higgs_model_with_everything_frozen_but_what_is_put_before_it():
    def loss(model, batch, audio):
        out, labels = model(**batch), batch["label_audio_ids"]
        books = [F.cross_entropy(out.audio_logits[: len(labels[0]) - audio, k], labels[k, audio:]) for k in range(8)]
        return mean(out.logits, out.expanded_labels) + sum(books) / 8

    data = [narrow_batch(2, length=96, seed=seed) for seed in range(3)]
    for audio, found in ((1, []), (0, ["LA102 error"])):
        model = frozen(narrow_model(), "audio_codebook_embeddings")
        report, _ = watched(lambda: loop(model, lambda m, b: loss(m, b, audio), data))  # noqa: B023
        assert codes(report) == found
        outside, delta = frozen(narrow_model()), nn.Parameter(torch.zeros(()))
        outside.embed_tokens.register_forward_hook(lambda module, args, out, delta=delta: out + delta)
        optimizer = torch.optim.SGD([delta], 0.1)
        report, _ = watched(lambda: loop(outside, lambda m, b: loss(m, b, audio), data, optimizer=optimizer))  # noqa: B023
        assert codes(report) == found


# -- models that are frozen, and nothing more --------------------------------------------------------


@pytest.mark.parametrize("student", [llama, lambda: SpeechModel(0).llm], ids=["trained", "trained through"])
def test_a_frozen_teacher_is_passed_over(student):
    teacher, model = frozen(llama()), copy.deepcopy(student())
    projector = nn.Linear(8, 32)
    trained = [p for p in (*model.parameters(), *projector.parameters()) if p.requires_grad]

    def distil(_, batch):
        teacher(batch["input_ids"])
        given, labels = embedded(model, projector(torch.randn(2, FRAMES, 8)), batch)
        out = model(**given).logits
        teacher(batch["input_ids"])
        return mean(out, labels, 0)

    report, _ = watched(lambda: loop(model, distil, batches(4), optimizer=torch.optim.SGD(trained, 0.1)))
    assert codes(report) == ["LA102 error"]
    assert "watched 2 optimizer steps, 2 forward passes" in " ".join(report.notes)


def test_a_student_that_is_not_known_is_what_is_told_beside_a_frozen_teacher():
    teacher, student = frozen(llama()), nn.Sequential(nn.Embedding(300, 4), nn.Linear(4, 256))

    def distil(model, batch):
        teacher(batch["input_ids"])
        return mean(model(batch["input_ids"]), batch["labels"], 0)

    report, code = watched(lambda: loop(student, distil, batches(4)))
    assert (report.verdict, code) == ("incomplete", 0)
    assert "Sequential" in report.findings[0].message
    assert "--head" in report.findings[0].message


def test_a_frozen_model_alone_trains_nothing():
    report, code = watched(lambda: frozen(llama())(**batches(1)[0]))
    assert (report.verdict, code) == ("incomplete", 0)
    assert "LlamaForCausalLM is frozen" in report.findings[0].message
