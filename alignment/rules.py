"""The finding catalogue: for each stable code what it is, why it is silent, how to fix it, a real case."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from types import MappingProxyType
from typing import Literal

from .errors import InputError

__all__ = ["RULES", "Rule", "Severity", "lookup", "nearest"]

Severity = Literal["error", "warning", "blind"]

_NO_CASE = "No public case on record."
_ABSORBS = "Across a whole stream it absorbs LA201, LA202, LA203 and LA301 of that stream."


@dataclass(frozen=True)
class Rule:
    """One entry of the catalogue.

    Attributes:
        code: the stable code, never reused.
        name: the readable name, unique as the code is.
        severity: what a finding of this code is unless ``note`` says otherwise.
        summary: what it is, in one line.
        silent: why nobody notices it.
        fix: what to do about it; shown under every finding.
        case: a real case with its public reference, or that none is on record.
        note: conditions, such as when a finding is a warning instead.
    """

    code: str
    name: str
    severity: Severity
    summary: str
    silent: str
    fix: str
    case: str
    note: str = ""


_CATALOGUE = (
    Rule(
        "LA101",
        "length-mismatch",
        "error",
        summary="Logits and labels differ in length.",
        silent="Cross-entropy refuses the two lengths, but trainers catch the error, skip that loss or cut "
        "both to the shorter length. Making the lengths agree does not put the labels in the right place.",
        fix="Trim both sides or neither: `logits[:, :-1]` with `labels[:, 1:]` for position-aligned labels, "
        "`logits` with `labels` for pre-shifted ones. To have the evidence decide, call `alignment.choose`.",
        case=_NO_CASE,
        note="Reported with both per-sample lengths and the slice that made the difference (255 vs 256: "
        "logits trimmed, labels not). Any other exception of the loss is exit 2 with its own message.",
    ),
    Rule(
        "LA102",
        "copy-objective",
        "error",
        summary="Offset 0: a row is trained to repeat the token it has just read.",
        silent="Copying is easy, so the loss falls further and faster than it should, and nothing fails "
        "before generation. A training loss under the entropy of the data is the sign.",
        fix="Pair each row with the next label: `logits[:, :-1]` with `labels[:, 1:]` for text, "
        "`audio_logits[:-1, k]` with `label_audio_ids[k, 1:]` for audio.",
        case="boson-ai/higgs-audio #94: after five LoRA epochs the text loss is 4e-7, the audio loss "
        "0.0028, and the model generates silence; the training script of the day paired audio_logits[t] "
        "with label_audio_ids[t].",
        note=f"{_ABSORBS} An offset of 0 is legitimate for a masked language model; judge it together with LA401.",
    ),
    Rule(
        "LA103",
        "double-shift",
        "error",
        summary="Offset +2: a row is trained on the token after the next one.",
        silent="The loss still falls, because the token after the next one is predictable too. Each of the "
        "two shifts, in the data code and in the loss, looks right when read alone.",
        fix="Shift once: hand position-aligned labels to a loss that shifts (`labels=labels`), or "
        "pre-shifted labels to one that does not (`shift_labels=labels`).",
        case="QwenLM/Qwen3-TTS #179 and huggingface/transformers #47394: labels shifted by the data or "
        "model code and again by the loss; in #179 the speech gets faster with every epoch.",
        note=_ABSORBS,
    ),
    Rule(
        "LA104",
        "wrong-offset",
        "error",
        summary="Every row of a stream is trained at one offset that is not 0, +1 or +2.",
        silent="Shapes agree and the loss is finite at any offset; nothing in a loss curve names the offset.",
        fix="Find the slice, pad or prefix that moves labels against logits and remove it. To see what each "
        "row is trained on, run `loss-align explain`.",
        case=_NO_CASE,
        note=_ABSORBS,
    ),
    Rule(
        "LA105",
        "mixed-offsets",
        "error",
        summary="Rows of one stream are trained at several offsets.",
        silent="Rows before the first audio are right, so the loss falls and a look at the first tokens "
        "finds nothing. Labels that were never expanded drift from the logits after each audio, and cutting "
        "both sides to the shorter length removes the only error there was.",
        fix="Take labels as long as the expanded sequence: pass `label_ids` to the model and use its "
        "`expanded_labels`, or expand them with `alignment.expand`. Do not cut to the shorter length, and "
        "check the padding side, with `loss-align explain`.",
        case=_NO_CASE,
        note=_ABSORBS,
    ),
    Rule(
        "LA106",
        "wrong-codebook",
        "error",
        summary="The rows of a codebook are trained on the tokens of another codebook.",
        silent="All codebooks have the same number of codes, so a swapped axis gives valid shapes and valid targets.",
        fix="Put codebook and time in the same order on both sides, and shift along time only: "
        "`audio_logits[:-1, k]` with `label_audio_ids[k, 1:]`.",
        case="QwenLM/Qwen3-TTS #371 (3): the shift of the loss runs along the codebook axis instead of "
        "time, so a head is trained on the codes of a later codebook.",
        note=_ABSORBS,
    ),
    Rule(
        "LA107",
        "wrong-stream",
        "error",
        summary="Audio rows are trained on text ids, or text rows on audio codes.",
        silent="Small ids are valid in both vocabularies, and one total loss hides which head it came from.",
        fix="Give every head its own labels, and pass position-aligned labels instead of `shift_labels` to "
        "a model that hands its keywords to every head: `labels=labels`.",
        case="transformers 5.23.0, HiggsAudioV2ForConditionalGeneration: `shift_labels` given as a keyword "
        "reaches the loss of every codebook, so the audio heads are trained on text ids.",
        note=_ABSORBS,
    ),
    Rule(
        "LA201",
        "missing-target",
        "error",
        summary="An expected target is trained nowhere.",
        silent="The loss is a mean over the rows that are left, so a lost row leaves no trace in it.",
        fix="Shift the loss mask together with the labels, and label the model's input before it is "
        "expanded, position-aligned. To list the rows that are lost, run `loss-align explain`.",
        case="verl #3287: the loss mask was sliced opposite to the labels, and the first answer token was "
        "never trained.",
        note="A warning where the model's own merge lost the label: the released Higgs merge sets the label "
        "of every placeholder to -100, so with pre-shifted labels the token after each target audio is lost "
        "(measured: 68 targets became 66).",
    ),
    Rule(
        "LA202",
        "unexpected-target",
        "error",
        summary="Prompt, padding, placeholder or reference audio is trained.",
        silent="Extra targets are easy ones, often constant fill, so they lower the mean loss.",
        fix="Set the labels outside the trained turns to -100, and train audio on `label_audio_ids`, not on "
        "`audio_out_ids`: `labels[~trained] = -100`.",
        case="verl #3562: the loss mask is shifted opposite to the labels, so each answer loses its end "
        "token and a prompt row is trained in its place.",
        note="A warning for delay-pattern filler (bos before and eos after the codes of a delayed codebook).",
    ),
    Rule(
        "LA203",
        "no-end-token",
        "error",
        summary="The end of turn or the end of the audio stream is never a target.",
        silent="One token per turn hardly moves the loss. It shows at generation only, which does not stop.",
        fix="Label the end token of every trained span (`<|eot_id|>` in text, the stream eos in every "
        "codebook). Where pad equals eos, mask padding by position, not by id: `labels[attention_mask == 0] "
        "= -100`.",
        case="transformers 5.23.0, Higgs Audio v2 processor: `output_labels` masks both stream bos and "
        "stream eos, so the end of audio is never a target.",
        note="Absorbs LA201 where all that is missing are end tokens.",
    ),
    Rule(
        "LA204",
        "border-crossing",
        "error",
        summary="A target is taken from another segment, sample or packed document.",
        silent="It is one row per border among many right ones, and its offset is usually +1 as well.",
        fix="Before the shift, set the first position-aligned label of each segment and document to -100, "
        "on a copy: `label_audio_ids[:, audio_out_ids_start] = -100`, `labels[position_ids == 0] = -100`.",
        case="pytorch/torchtitan #4075: in packed data the last token of a document predicts the first "
        "token of the next.",
        note="Borders come from `audio_out_ids_start`, the samples, resets of `position_ids`, "
        "`cu_seq_lens`, `seq_idx`, or are given.",
    ),
    Rule(
        "LA205",
        "silent-stream",
        "error",
        summary="A stream that has labels receives no gradient.",
        silent="The total loss still falls on the other streams. Trainers that skip a loss when lengths "
        "differ do so at every step.",
        fix="Add the loss of this stream to the total and raise where it is skipped now. Where its labels "
        "vanish after the first epoch, clone the samples before collating: "
        "`collator(copy.deepcopy(samples))`.",
        case="boson_multimodal 0.1.1, HiggsAudioSampleCollator: it edits its samples in place; collating "
        "the same in-memory samples a second time gave 0 audio targets instead of 136.",
    ),
    Rule(
        "LA206",
        "nothing-supervised",
        "error",
        summary="No row of any stream is trained.",
        silent="A loss of zero is a number like any other: it is logged, its backward runs and the optimizer steps.",
        fix="Check that the labels are not all -100 and that no `except` returns a zero loss. To see the "
        "labels row by row, run `loss-align explain`.",
        case=_NO_CASE,
        note="Also reported where every stream is without expected targets.",
    ),
    Rule(
        "LA301",
        "uneven-weights",
        "warning",
        summary="The weights of a stream are constant inside a sample, segment or chunk and differ between them.",
        silent="A mean of means is a valid loss of the right size; it only makes tokens of short samples count more.",
        fix="Sum over all targets and divide once, or declare the mean that is meant: `--reduction "
        "token-mean|sequence-mean|sum`.",
        case=_NO_CASE,
        note="Chosen weights (class weights, focal loss, rewards) are stated under `streams`, not reported.",
    ),
    Rule(
        "LA302",
        "wrong-denominator",
        "error",
        summary="The weights do not add up to the declared reduction, or change with how the batch is split.",
        silent="A wrong denominator only scales the gradient, which looks like another learning rate.",
        fix="Divide the summed loss of each stream by that stream's number of targets after the shift, "
        "counted over all accumulated micro-batches. Then check it: `loss-align preflight --grad-accum N "
        "--reduction token-mean`.",
        case="huggingface/transformers #34191: a mean of means over micro-batches of unequal token counts "
        "under gradient accumulation; #46204: the denominator counted labels before the shift.",
        note="Only where a reduction or accumulation is declared (`grad_accum=`, `reduction=`) or observed "
        "(`loss-align run`, the Trainer callback); never on a single undeclared loss call.",
    ),
    Rule(
        "LA303",
        "uneven-codebooks",
        "warning",
        summary="Codebooks weigh differently in the loss.",
        silent="The codebooks are summed into one number before anybody looks at it.",
        fix="Give every codebook the same weight and denominator; where the difference is meant, pass "
        "`--ignore LA303`.",
        case=_NO_CASE,
    ),
    Rule(
        "LA304",
        "pushed-away",
        "warning",
        summary="Every trained row of a stream is pushed away from its target.",
        silent="A loss with its sign turned round falls without an end, and the first steps look like progress.",
        fix="If neither a negative reward nor unlearning is meant, turn the sign of the loss round: cross-entropy is "
        "minimised, a log-likelihood is not.",
        case=_NO_CASE,
        note="Where some rows are pulled and others pushed (a preference, a reward), that is stated, not reported.",
    ),
    Rule(
        "LA401",
        "target-visible",
        "error",
        summary="The logits of a row depend on its own target, on later inputs or on another sample.",
        silent="The loss falls, and evaluation with teacher forcing sees the same inputs and agrees. Only "
        "generation, where those inputs do not exist yet, is wrong.",
        fix="Predict each target from a hidden state that has not consumed it, under a causal mask: "
        "`hidden[:, :-1]` with `labels[:, 1:]`.",
        case="QwenLM/Qwen3-TTS #371 (2): the sub-talker gets the hidden state at the position that has "
        "already consumed the frame it is to predict.",
    ),
    Rule(
        "LA402",
        "padding-matters",
        "warning",
        summary="The side or the amount of padding changes the logits of real tokens.",
        silent="Padding changes with the batch (the released Higgs model pads a lone sample left and a "
        "batch right), so a test with one sample says nothing about training.",
        fix="Pass an attention mask that covers the padding, and position ids that count real tokens only: "
        "`position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`.",
        case=_NO_CASE,
    ),
    Rule(
        "LA501",
        "non-finite",
        "error",
        summary="The loss, a logit or a gradient is NaN or infinite.",
        silent="A loss scaler skips such a step and a filtered log leaves the value out; a comparison not "
        "written for NaN passes.",
        fix="Look for a mean over no target, a division by zero, a saturated dtype, and a target whose logit the "
        "head masks with -inf (other ids may be). To tell the dtype from the rest, run `loss-align preflight "
        "--dtype float32`.",
        case=_NO_CASE,
    ),
    Rule(
        "LA502",
        "label-out-of-range",
        "error",
        summary="A label lies outside the head's vocabulary and is not -100.",
        silent="Plain cross-entropy refuses it, but a loss that clamps or indexes for itself trains another "
        "token in its place.",
        fix="Mask with -100 and no other value, and compare the head's size with the tokenizer's. To list "
        "the labels: `labels[(labels != -100) & ((labels < 0) | (labels >= logits.shape[-1]))]`.",
        case=_NO_CASE,
    ),
    Rule(
        "LA601",
        "labels-not-received",
        "error",
        summary="Labels passed to the outermost model do not reach the innermost forward.",
        silent="The logits are the same without labels. `expanded_labels` is None then, and the trainer "
        "takes its fallback path without a word.",
        fix="Call the model under the wrapper, or wrap it without a task type (task_type None or "
        "FEATURE_EXTRACTION in PEFT): `peft_model.base_model(**batch)`.",
        case=_NO_CASE,
        note="Where labels are withheld on purpose, `--labels none` declares it and the check is skipped.",
    ),
    Rule(
        "LA602",
        "adapter-not-trained",
        "error",
        summary="A LoRA adapter receives no gradient, or a frozen weight receives one.",
        silent="The rest of what is trainable still lowers the loss, and the adapter is saved and loaded "
        "like a trained one.",
        fix="Name target modules that the loss depends on and freeze everything else; `all-linear` also "
        "wraps the heads. Set them with `--lora-target`.",
        case=_NO_CASE,
    ),
    Rule(
        "LA603",
        "ranks-disagree",
        "error",
        summary="Distributed ranks differ in decision, codes or normaliser.",
        silent="Usually one rank logs, and its own numbers agree with each other; DDP takes the mean of all "
        "gradients, by whatever rule each was made. Unequal targets alone are no finding, the check `ranks` states "
        "them: with 34 and 36 of them on two ranks, a target weighs 1.029 or 0.972 of its global weight.",
        fix="Run the same loss, data code, options and library versions on every rank. To divide alike, divide by the "
        "targets of all ranks (`torch.distributed.all_reduce`) and multiply by the world size, which DDP divides by.",
        case=_NO_CASE,
    ),
    Rule(
        "LA604",
        "decode-mismatch",
        "error",
        summary="Teacher-forced logits differ from those of step-by-step decoding.",
        silent="Training and evaluation both force the inputs; only generation takes the other path.",
        fix="Give each decoding step the cache, positions and masks that teacher forcing had; for the "
        "released Higgs model concatenate the audio mask at every step: `cache_audio_discrete_codes_mask`.",
        case="boson_multimodal 0.1.1 (measured): without `cache_audio_discrete_codes_mask` the decoded "
        "logits are off by 0.22; with it text and audio agree with teacher forcing to 3e-7.",
    ),
    Rule(
        "LA605",
        "swallowed-error",
        "error",
        summary="The loss is a constant, a Python number, or detached from the logits.",
        silent="It prints like a loss. An `except` that returns a constant turns every failure into a step "
        "that trains nothing.",
        fix="Return the loss tensor itself and let exceptions through: no `.item()`, `float()` or "
        "`.detach()` before backward, and no `except` that returns a constant.",
        case=_NO_CASE,
        note="A NaN or infinite loss is LA501; None or a non-scalar is bad usage (exit 2).",
    ),
    Rule(
        "LA701",
        "regression",
        "error",
        summary="Something differs from the recorded baseline.",
        silent="A new version of the model, the data code or a library may move a label or a shape without an error.",
        fix="See what changed with `loss-align diff OLD NEW`. Undo it, or where it is meant write a new "
        "baseline with `loss-align record`.",
        case=_NO_CASE,
    ),
    Rule(
        "LA801",
        "unwatched-head",
        "blind",
        summary="The loss trains logits over a vocabulary that no judged stream explains.",
        silent="A model with several heads has one loss curve, and the head that is looked at may be right.",
        fix="Declare the stream of this head in two lines (`streams=` or `--streams FILE`), or let "
        "`loss-align discover` write them. Where it is left out on purpose, accept it by name: `--ignore LA801:HEAD`.",
        case="boson-ai/higgs-audio #94: the text loss was right, and every codebook head was trained to copy.",
        note="Value, reward, classification, stop and CTC heads, routers and contrastive losses are a note.",
    ),
    Rule(
        "LA802",
        "unread-rows",
        "blind",
        summary="Expected rows have a gradient that names no single target.",
        silent="A soft teacher spreads its gradient over the vocabulary, and a saturated softmax has none to read.",
        fix="Check the loss on its hard targets, or on a fresh model; where a soft teacher is meant, accept it by "
        "name: `--ignore LA802:text`.",
        case=_NO_CASE,
        note="Regularisers on rows without a target are stated, and so are up to 5% of a stream's rows that are "
        "saturated.",
    ),
    Rule(
        "LA803",
        "unplaced-rows",
        "blind",
        summary="Trained rows belong to no position of the batch.",
        silent="Rows that the model puts in by itself have no input token to compare their target with.",
        fix="Name the ids that the head's rows stand for with `--streams FILE`, or accept it by name: "
        "`--ignore LA803:text`.",
        case=_NO_CASE,
        note="Virtual tokens that PEFT puts in front are none.",
    ),
    Rule(
        "LA804",
        "nothing-to-compare",
        "blind",
        summary="Nobody says which tokens must be trained, or no stream was judged at all.",
        silent="Without labels, a mask or a template every loss is as right as any other.",
        fix="Put labels or a loss mask into the batch, or say whose turns are meant with `--train-on`.",
        case=_NO_CASE,
        note="Not where every row that is no padding and has a successor is trained: there is nothing to compare.",
    ),
    Rule(
        "LA805",
        "not-replayed",
        "blind",
        summary="Causality applies and could not be judged.",
        silent="An offset is right only where the row could not see its target.",
        fix="Run `loss-align preflight` on the same model and loss; to do without, say `--replay none`.",
        case=_NO_CASE,
        note="A skip that the caller asked for is accepted and named.",
    ),
)

#: Every rule by its code, in the order of the catalogue.
RULES: Mapping[str, Rule] = MappingProxyType({rule.code: rule for rule in _CATALOGUE})

_BY_NAME: Mapping[str, Rule] = MappingProxyType({rule.name: rule for rule in _CATALOGUE})


def nearest(code: str) -> str:
    """The known code or name that is closest to ``code``: the suggestion of an error message."""
    typed = code.strip().lower()

    def closeness(key: str) -> tuple[float, int]:
        key = key.lower()
        same = takewhile(lambda pair: pair[0] == pair[1], zip(typed, key, strict=False))
        return difflib.SequenceMatcher(None, typed, key).ratio(), len(list(same))

    return max((*RULES, *_BY_NAME), key=closeness)


def lookup(code_or_name: str) -> Rule:
    """The rule with this code or name, in any case.

    Raises:
        InputError: there is no such rule; the message names the nearest one.
    """
    key = code_or_name.strip()
    rule = RULES.get(key.upper()) or _BY_NAME.get(key.lower())
    if rule is None:
        raise InputError(
            f"no finding has the code or name {code_or_name!r}; the nearest is {nearest(key)}. "
            "loss-align rules lists all."
        )
    return rule
