"""The Trainer callback on real Trainers: what it names, that it stays silent, and that it leaves no trace."""

import hashlib
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from further_models import IDS, LABELS, Mtp, mtp_loss
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from probes import AlignmentCallback, UsageError, barcoded_batch
from probes.report import LossAlignmentError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

LENGTH = 20


class Conversations(torch.utils.data.Dataset):
    """Sixteen samples of random ids; prompts are equally long or not."""

    def __init__(self, *, uneven):
        self.uneven = uneven

    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.randint(10, 256, (LENGTH,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[: 3 + index % 5 * 2 if self.uneven else 5] = -100
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


class Planted(Trainer):
    """A Trainer whose loss is one of ours."""

    loss = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return type(self).loss(logits, labels, num_items_in_batch)


def shifted(logits, labels, reduction="mean"):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction=reduction)


def copy(logits, labels, items):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def mean_of_means(logits, labels, items):
    return shifted(logits, labels)


def whole_step(logits, labels, items):
    return shifted(logits, labels, "sum") / items


def added_up(logits, labels, items):
    return shifted(logits, labels, "sum")


def swallowed(logits, labels, items):
    return torch.zeros((), requires_grad=True)


def number(logits, labels, items):
    return shifted(logits, labels).item()


def not_finite(logits, labels, items):
    return shifted(logits, labels) * torch.nan


def small_llama():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, attention_dropout=0.1, pad_token_id=0, **sizes))


@pytest.fixture
def trained(tmp_path):
    """Train two steps; returns the callback and a hash of the weights."""

    def run(loss=None, callback=None, *, accum=1, uneven=False, model=None, data=None, **settings):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accum,
            max_steps=2,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        )
        kind = Trainer if loss is None else type("Mine", (Planted,), {"loss": staticmethod(loss)})
        model = model or small_llama()
        trainer = kind(model=model, args=arguments, train_dataset=data or Conversations(uneven=uneven))
        if callback is not None:
            trainer.add_callback(callback)
        trainer.train()
        return weights(model)

    return run


def weights(model):
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def codes(callback):
    return [(f.code, f.stream, f.severity) for f in callback.report.findings]


@pytest.mark.versions
@pytest.mark.parametrize(("loss", "accum"), [(None, 1), (None, 2), (whole_step, 2), (added_up, 2)])
def test_a_correct_trainer_passes_and_its_weights_are_bit_identical(trained, loss, accum):
    callback = AlignmentCallback(reduction="sum" if loss is added_up else None)
    watched = trained(loss, callback, accum=accum, uneven=True)
    assert codes(callback) == []
    assert callback.report.streams["text"]["offsets"] == {"1": callback.report.streams["text"]["expected"]}
    assert watched == trained(loss, accum=accum, uneven=True)
    assert watched != weights(small_llama())


@pytest.mark.versions
@pytest.mark.parametrize(
    ("loss", "accum", "uneven", "code", "said"),
    [
        (copy, 1, False, "LA102", "repeat the token they have just read"),
        (mean_of_means, 2, True, "LA302", "every one of 2 micro-batches is a mean of its own"),
        (mean_of_means, 2, False, "LA302", "every one of 2 micro-batches is a mean of its own"),
        (swallowed, 1, False, "LA605", "none reaches the logits"),
        (number, 1, False, "LA605", "the loss is the python number"),
        (not_finite, 2, False, "LA501", "the loss is nan"),
    ],
)
def test_a_faulty_trainer_fails_before_any_weight_has_moved(trained, loss, accum, uneven, code, said):
    model, callback = small_llama(), AlignmentCallback()
    before = weights(model)
    with pytest.raises(LossAlignmentError, match=said):
        trained(loss, callback, accum=accum, uneven=uneven, model=model)
    assert codes(callback) == [(code, "all" if code in ("LA605", "LA501") else "text", "error")]
    assert weights(model) == before


def test_the_line_of_a_trainers_loss_is_named(trained):
    callback = AlignmentCallback(on_findings="report")
    trained(copy, callback)
    (found,) = callback.report.findings
    line = next(line for line in found.lines if "F.cross_entropy(logits.flatten(0, 1), labels.flatten())" in line.code)
    assert (line.own, line.file.rpartition("/")[2]) == (True, "test_trainer_callback.py")


def test_micro_batches_that_are_means_are_told_although_somebody_divides_by_their_number(trained):
    callback = AlignmentCallback()
    with pytest.raises(LossAlignmentError, match="so that a target weighs up to"):
        trained(lambda logits, labels, items: shifted(logits, labels) / 2, callback, accum=2, uneven=True)
    assert codes(callback) == [("LA302", "text", "error")]


def test_a_step_that_is_not_gathered_is_judged_whole_before_it_moves_a_weight(trained, monkeypatch):
    """As before transformers 4.46, whose Trainer draws a micro-batch when it comes to it."""
    monkeypatch.setattr("probes.live.trainer_callback.GATHERS", "of_another_version")
    model, callback = small_llama(), AlignmentCallback()
    before = weights(model)
    with pytest.raises(LossAlignmentError, match="so that a target weighs up to"):
        trained(lambda logits, labels, items: shifted(logits, labels) / 2, callback, accum=2, uneven=True, model=model)
    assert codes(callback) == [("LA302", "text", "error")]
    assert weights(model) == before


@pytest.mark.versions
def test_later_micro_batches_are_watched_too(trained):
    calls = []

    def copies_the_second(logits, labels, items):
        labels_seen = int(labels.sum())
        calls.append(labels_seen)
        return copy(logits, labels, items) if labels_seen != calls[0] else shifted(logits, labels)

    callback = AlignmentCallback(ignore=["LA302"])
    with pytest.raises(LossAlignmentError, match=r"LA102 copy-objective \[text\]: micro-batch 2: "):
        trained(copies_the_second, callback, accum=2)


def test_a_warning_lets_it_train(trained):
    callback = AlignmentCallback("warn")
    with pytest.warns(UserWarning, match="LA102 copy-objective"):
        watched = trained(copy, callback)
    assert watched == trained(copy)


def test_a_report_is_shown_on_standard_error(trained, capsys):
    trained(mean_of_means, AlignmentCallback("report"), accum=2, uneven=True)
    shown = capsys.readouterr()
    assert "LA302 wrong-denominator error on text" in shown.err
    assert "micro-batches: 2" in shown.err
    assert "LA302" not in shown.out


@pytest.mark.versions
def test_label_smoothing_is_no_fault(trained):
    callback = AlignmentCallback()
    trained(None, callback, label_smoothing_factor=0.1)
    assert codes(callback) == []


def test_ignored_codes_do_not_count(trained):
    callback = AlignmentCallback(ignore=["LA302"])
    trained(mean_of_means, callback, accum=2, uneven=True)
    assert callback.report.verdict == "pass"


def taught(logits, labels, items):
    teacher = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7)).softmax(-1)
    return torch.nn.functional.kl_div(logits.log_softmax(-1), teacher, reduction="batchmean")


def test_a_training_that_cannot_be_judged_is_warned_of_and_goes_on(trained):
    callback = AlignmentCallback()
    with pytest.warns(UserWarning, match=r"incomplete: INCOMPLETE: 1 blind spot(?s:.)*LA802"):
        watched = trained(taught, callback)
    assert (callback.report.verdict, watched) == ("incomplete", trained(taught))


def test_what_is_accepted_by_name_is_not_warned_of(trained):
    callback = AlignmentCallback(ignore=["LA802:text"])
    trained(taught, callback)
    assert (callback.report.verdict, [one.code for one in callback.report.accepted]) == ("pass", ["LA802"])


def test_micro_batches_of_one_sample_are_what_a_mean_of_sequences_asks_for(trained):
    callback = AlignmentCallback(reduction="sequence-mean")
    trained(lambda logits, labels, items: shifted(logits, labels) / 2, callback, accum=2, uneven=True)
    assert codes(callback) == []


class Keeping(Trainer):
    """A trainer that keeps metrics of every loss it computes, as TRL's do."""

    def __init__(self, *given, **settings):
        super().__init__(*given, **settings)
        self.kept, self.tokens = defaultdict(list), 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = model(**inputs).loss
        self.kept["loss"].append(float(loss.detach()))
        self.tokens += inputs["input_ids"].numel()
        return loss


@pytest.mark.versions
def test_what_a_trainer_counts_itself_is_left_as_it_was(tmp_path):
    told = []
    for callbacks in ([], [AlignmentCallback()]):
        arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True)
        trainer = Keeping(small_llama(), arguments, train_dataset=Conversations(uneven=False), callbacks=callbacks)
        trainer.train()
        told.append((dict(trainer.kept), trainer.tokens, trainer.state.log_history[-1]["train_loss"]))
    assert told[0] == told[1]
    assert len(told[0][0]["loss"]) == 1


def test_a_model_without_a_known_head_is_trained_and_a_wrong_name_is_an_error(trained):
    class Plain(nn.Module):
        def __init__(self, loss):
            super().__init__()
            self.table, self.out = nn.Embedding(300, 8), nn.Linear(8, 256)  # as many rows would give it away
            self.loss = loss

        def forward(self, input_ids, labels=None, attention_mask=None):
            logits = self.out(self.table(input_ids))
            return {"loss": self.loss(logits, labels), "logits": logits}

    def small(logits, labels):
        return logits.square().mean()

    for told in ("fail", "warn"):
        callback = AlignmentCallback(told)
        with pytest.warns(UserWarning, match="nothing was read"):
            trained(None, callback, model=Plain(small))
        assert (callback.report.verdict, codes(callback)) == ("incomplete", [("LA804", "all", "blind")])
    with pytest.raises(UsageError, match="oot"):
        trained(None, AlignmentCallback(heads=["oot"]), model=Plain(shifted))
    for callback in (AlignmentCallback(heads=["out"]), AlignmentCallback()):  # it shows by what it is trained on
        trained(None, callback, model=Plain(shifted))
        assert callback.report.streams["text"]["offsets"] == {"1": callback.report.streams["text"]["supervised"]}
        assert callback.report.verdict == "pass"


@pytest.mark.parametrize("told", ["fail", "warn"])
def test_a_reward_model_is_trained_and_said_not_to_be_judged(trained, told):
    from transformers import LlamaForSequenceClassification

    class Scored(Conversations):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return {**sample, "labels": torch.tensor(index % 2)}

    torch.manual_seed(0)
    model = LlamaForSequenceClassification(small_llama().config)
    callback = AlignmentCallback(told)
    with pytest.warns(UserWarning, match="nothing was read"):
        trained(None, callback, model=model, data=Scored(uneven=False))
    assert (callback.report.verdict, codes(callback)) == ("incomplete", [("LA804", "all", "blind")])


class Gathering(Trainer):
    """A trainer that is handed lists of samples and makes its batches in the step itself, as GRPO's does."""

    off = 0

    def training_step(self, model, inputs, *given, **named):
        ids = torch.stack([one["input_ids"] for one in inputs])
        labels = ids.masked_fill(torch.arange(LENGTH) < 4, -100).roll(self.off, 1)
        return super().training_step(model, {"input_ids": ids, "labels": labels}, *given, **named)

    def _get_num_items_in_batch(self, batch_samples, device):
        return None


@pytest.mark.parametrize(("off", "accumulate"), [(0, 1), (0, 2), (-1, 1), (-1, 2)])
def test_batches_that_are_made_in_the_step_are_judged_before_it_moves_a_weight(tmp_path, off, accumulate):
    class Off(Gathering):
        pass

    Off.off = off
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        gradient_accumulation_steps=accumulate,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        remove_unused_columns=False,
    )

    def trained_weights(callbacks):
        model, data = small_llama(), Conversations(uneven=False)
        trainer = Off(model, arguments, train_dataset=data, data_collator=list, callbacks=callbacks)
        if callbacks and off:
            with pytest.raises(LossAlignmentError, match="LA103"):
                trainer.train()
        else:
            trainer.train()
        return weights(model)

    callback = AlignmentCallback(ignore=["LA302"])
    watched = trained_weights([callback])
    assert watched == (weights(small_llama()) if off else trained_weights([]))
    assert callback.report.verdict == ("fail" if off else "pass")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"on_findings": "stop"}, "unknown on_findings 'stop': choose one of fail, warn, report"),
        ({"reduction": "mean"}, "unknown reduction 'mean'"),
    ],
)
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(UsageError, match=said):
        AlignmentCallback(**arguments)


def test_outside_a_trainer_it_says_where_it_belongs():
    with pytest.raises(UsageError, match=r"belongs to a transformers\.Trainer"):
        AlignmentCallback().on_train_begin(None, None, None)


@pytest.mark.higgs
@pytest.mark.parametrize("right", [True, False])
def test_the_released_model_under_a_trainer(tmp_path, right):
    from probes.models.higgs import small_model

    class Batches(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return barcoded_batch(2, length=96, seed=index)

    class HiggsTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            out = model(**inputs)
            labels, cut = inputs["label_audio_ids"], slice(None, -1) if right else slice(1, None)
            audio = sum(F.cross_entropy(out.audio_logits[cut, k], labels[k, 1:]) for k in range(len(labels)))
            return shifted(out.logits, out.expanded_labels) + audio / len(labels)

    callback = AlignmentCallback("report")
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, max_steps=1, report_to=[], save_strategy="no", use_cpu=True
    )
    model = small_model(hidden=16, layers=1)
    trainer = HiggsTrainer(model, arguments, train_dataset=Batches(), data_collator=lambda samples: samples[0])
    trainer.add_callback(callback)
    trainer.train()
    assert codes(callback) == ([] if right else [("LA102", "audio", "error")])


@pytest.mark.parametrize(
    ("loss", "declared", "found"),
    [
        (whole_step, "token-mean", []),
        (mean_of_means, "token-mean", []),
        (added_up, "token-mean", [("LA302", "text", "error")]),
        (added_up, "sum", []),
        (mean_of_means, "sum", [("LA302", "text", "error")]),
    ],
)
def test_a_declared_reduction_of_one_micro_batch_is_proven_by_splitting_it(trained, loss, declared, found):
    callback = AlignmentCallback("report", reduction=declared)
    watched = trained(loss, callback, uneven=True)
    assert codes(callback) == found
    assert callback.report.check("reduction").status == ("fail" if found else "pass")
    assert watched == trained(loss, uneven=True)


class Tied(Mtp):
    """The main head gives the token after the next one too."""

    def __init__(self):
        super().__init__()
        self.mtp_head = self.main.lm_head


class OneBatch(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"input_ids": IDS[index % 2], "labels": LABELS[index % 2]}


@pytest.mark.parametrize(("model", "stream"), [(Mtp, "head[mtp_head]"), (Tied, "text call 2")])
@pytest.mark.parametrize(("kind", "found"), [("right", []), ("shifted once more", ["LA104"])])
def test_heads_beside_the_main_one_and_its_second_call(tmp_path, model, stream, kind, found):
    """A Trainer is given the model alone: what reads further ahead is found as check_loss finds it."""

    class Further(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return mtp_loss(kind)(model, inputs)

    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Further(model=model(), args=arguments, train_dataset=OneBatch())
    callback = AlignmentCallback("report")
    trainer.add_callback(callback)
    trainer.train()
    assert [(one.code, one.stream) for one in callback.report.findings if one.code != "LA302"] == [
        (code, stream) for code in found
    ]
    assert callback.report.streams[stream]["ahead"] == 2
