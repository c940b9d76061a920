"""What the fault matrix runs: every sample trainer of fixtures/trainers, and what must be said of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["CORRECT", "FAULTS", "TITLES", "V2", "Case"]

#: The classes of fault that one process can show.
TITLES = {
    1: "logits trimmed, labels not",
    2: "text copy",
    3: "audio copy",
    4: "double shift",
    5: "un-expanded labels, cut to the shorter length",
    6: "text loss silently skipped",
    7: "exception swallowed",
    8: "audio labels := audio inputs",
    9: "[T, K, V] flattened against [K, T]",
    10: "shift along the codebook axis",
    11: "last frame trained on the next segment's first",
    12: "end masked",
    13: "prompt or reference audio trained",
    14: "audio rows trained on text ids",
    15: "denominator of other tokens",
    16: "mean of means over micro-batches",
    17: "one codebook weighs differently",
    18: "loss mask shifted opposite to the labels",
    20: "packed documents",
    22: "the graph is cut",
    23: "in-memory samples collated twice",
}


@dataclass(frozen=True)
class Case:
    """One loss on one kind of model, and what a report must say of it.

    Attributes:
        loss: ``file:function`` below fixtures/trainers.
        errors: ``CODE modality`` of every error, no more and no less.
        warnings: the same of warnings: all of them are due for a fault, allowed for correct code.
        blind: ``CODE modality`` of what cannot be judged of correct code, no more and no less.
        fault: the class, 0 for correct code.
        prepare: function of the same file that makes the batch of faulty data code.
        model: ``higgs``, ``lora``, ``llama``, ``chatml`` (the Higgs model with the released collator), or
            ``higgs_v2`` (transformers' own).
        sizes: batch sizes at which the fault shows.
        options: further arguments of ``check_loss``.
        elsewhere: whether the fault shows on ChatML and fuzzed batches too, and not only on barcoded ones.
        half: whether the weights of a model in half precision are precise enough.
        released_only: why transformers' own Higgs cannot show the same; empty where it can.
        published: whether ids of the published vocabulary stand in its code.
    """

    loss: str
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    fault: int = 0
    prepare: str = ""
    model: str = "higgs"
    sizes: tuple[int, ...] = (1, 2, 3)
    options: dict[str, Any] = field(default_factory=dict)
    half: bool = True
    elsewhere: bool = True
    released_only: str = ""
    published: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """Batches of other sources on which the case runs as well."""
        if self.model == "higgs_v2":  # where the released data path cannot be imported
            return ("fuzzed",) if self.elsewhere else ()
        return ("chatml", "fuzzed") if self.elsewhere and self.model in ("higgs", "lora") else ()

    @property
    def file(self) -> str:
        return self.loss.partition(":")[0]

    def __str__(self) -> str:
        number = f"{self.fault:02d}" if self.fault else "correct"
        parts = (number, self.loss.removesuffix(":loss"), self.prepare, "" if self.model == "higgs" else self.model)
        return "-".join(part for part in (*parts, *map(str, self.options.values())) if part)


def _fault(number: int, loss: str, *errors: str, **more: Any) -> Case:
    return Case(loss, errors, fault=number, **more)


#: There the row before an audio predicts its first frame: the label of that frame is missing as well.
BEFORE = "a labelled first frame is due at the row before it"
#: Nothing tells, then, whose lengths a loss compares by itself.
REWRITTEN = "labels are written anew there, element by element"
STEP = {"grad_accum": 2, "reduction": "token-mean"}
SEVERAL = (2, 3)

#: The first case of each class is the one that stands for it in the quick tests.
FAULTS = (
    _fault(1, "seed_before_fix:loss", "LA101 text"),
    _fault(1, "seed_fallback:loss", "LA101 text"),
    _fault(1, "one_side_trimmed:loss", "LA101 text"),
    _fault(1, "one_side_trimmed:audio", "LA101 audio"),
    _fault(1, "one_side_trimmed:transposed", "LA101 text"),
    _fault(1, "one_side_trimmed:picked_by_hand", "LA101 text"),
    _fault(1, "one_side_trimmed:own_check", "LA101 text", released_only=REWRITTEN),
    _fault(2, "seed_after_fix:loss", "LA102 text"),
    _fault(2, "copy_text:loss", "LA102 text"),
    _fault(2, "copy_text:cut_at_the_end", "LA102 text"),
    _fault(2, "copy_text:cut_at_the_start", "LA102 text"),
    _fault(2, "copy_text:supervised_rows_only", "LA102 text"),
    _fault(3, "copy_audio:loss", "LA102 audio"),
    _fault(3, "copy_audio:all_codebooks_at_once", "LA102 audio"),
    _fault(3, "copy_audio:labels_popped", "LA102 audio"),
    _fault(3, "fused_audio:audio_copy", "LA102 audio"),
    _fault(4, "double_shift:loss", "LA103 text", prepare="prepare"),
    _fault(4, "double_shift:in_one_place", "LA103 text"),
    _fault(4, "double_shift:audio", "LA103 audio"),
    _fault(5, "unexpanded_labels:loss", "LA105 text"),
    _fault(5, "unexpanded_labels:filled_up", "LA105 text"),
    _fault(6, "text_skipped:loss", "LA205 text"),
    _fault(6, "text_skipped:caught", "LA205 text"),
    _fault(6, "text_skipped:wrong_attribute", "LA205 text"),
    _fault(6, "graph_cut:text_item", "LA205 text"),
    _fault(6, "fused_audio:audio_forgotten", "LA205 audio"),
    _fault(7, "swallowed_error:loss", "LA605 all"),
    _fault(7, "swallowed_error:number", "LA605 all"),
    _fault(7, "swallowed_error:without_gradient", "LA605 all"),
    _fault(7, "swallowed_error:before_the_model", "LA605 all"),
    _fault(7, "swallowed_error:zero_times_logits", "LA206 all"),
    _fault(8, "audio_inputs_as_labels:loss", "LA202 audio"),
    _fault(8, "audio_inputs_as_labels:bos_masked", "LA202 audio"),
    _fault(8, "audio_inputs_as_labels:all_frames", "LA202 audio", "LA204 audio"),
    _fault(8, "audio_inputs_as_labels:trained_turns_only", warnings=("LA202 audio",)),
    _fault(9, "flattened_axes:loss", "LA106 audio"),
    _fault(9, "flattened_axes:reshaped", "LA106 audio"),
    _fault(10, "codebook_axis_shift:loss", "LA106 audio"),
    _fault(10, "codebook_axis_shift:both_axes", "LA106 audio"),
    _fault(10, "codebook_axis_shift:rolled", "LA106 audio"),
    _fault(10, "fused_audio:next_codebook", "LA106 audio"),
    _fault(11, "segments_in_one_piece:loss", "LA204 audio", prepare="prepare", released_only=BEFORE),
    _fault(11, "segments_in_one_piece:rolled", "LA204 audio", prepare="prepare", released_only=BEFORE),
    _fault(11, "samples_in_one_piece:loss", "LA204 text", prepare="prepare", sizes=SEVERAL),
    _fault(12, "end_masked:loss", "LA203 audio"),
    _fault(12, "end_masked:end_of_turn", "LA203 text", published=True),
    _fault(12, "end_masked:loss", "LA203 audio", prepare="prepare_audio"),
    _fault(12, "correct:loss", "LA203 text", prepare="end_masked:prepare_text"),
    _fault(13, "prompt_trained:loss", "LA202 text"),
    _fault(13, "prompt_trained:reference_audio", "LA202 text"),
    _fault(13, "prompt_trained:padding", "LA202 text"),
    _fault(14, "text_labels_on_audio:loss", "LA107 audio"),
    _fault(14, "text_labels_on_audio:out_of_range", "LA107 audio"),
    _fault(14, "text_labels_on_audio:out_of_range", "LA107 audio", prepare="real_ids", published=True),
    _fault(14, "higgs_v2:shift_labels_given", "LA107 audio", model="higgs_v2"),
    _fault(15, "text_count_for_audio:loss", "LA302 audio", sizes=SEVERAL, options=STEP),
    _fault(15, "higgs_v2:as_trainer_calls", "LA302 audio", model="higgs_v2", sizes=SEVERAL, options=STEP),
    _fault(
        15,
        "text_count_for_audio:own_count",
        "LA302 audio",
        sizes=SEVERAL,
        options={"reduction": "token-mean"},
    ),
    _fault(
        15,
        "text_count_for_audio:counted_before_the_shift",
        "LA302 text",
        prepare="prepare",
        sizes=SEVERAL,
        options={"reduction": "token-mean"},
        half=False,
        elsewhere=False,  # the position that is counted too often must carry a label
    ),
    _fault(16, "mean_of_means:loss", "LA302 text", "LA302 audio", sizes=SEVERAL, options=STEP),
    _fault(
        16,
        "mean_of_means:per_sample",
        "LA302 text",
        "LA302 audio",
        sizes=SEVERAL,
        options={"reduction": "token-mean"},
    ),
    _fault(16, "mean_of_means:per_chunk", warnings=("LA301 text",)),
    _fault(16, "mean_of_means:per_chunk", "LA302 text", sizes=SEVERAL, options={"reduction": "token-mean"}),
    _fault(17, "codebook_weights:loss", warnings=("LA303 audio",)),
    _fault(17, "codebook_weights:falling", warnings=("LA303 audio",)),
    _fault(17, "codebook_weights:first_codebooks_only", "LA205 audio"),
    _fault(18, "mask_shifted:loss", "LA201 text", "LA202 text"),
    _fault(18, "mask_shifted:too_far", "LA201 text", "LA202 text", "LA203 text"),
    _fault(20, "packed_documents:loss", "LA204 text", model="llama", prepare="packed"),
    _fault(20, "packed_documents:inside_the_model", "LA204 text", model="llama", prepare="packed"),
    _fault(22, "graph_cut:loss", "LA605 all"),
    _fault(22, "graph_cut:item", "LA605 all"),
    _fault(22, "graph_cut:detached", "LA605 all"),
    _fault(22, "graph_cut:no_grad", "LA605 all"),
    _fault(22, "graph_cut:detached_logits", "LA605 all"),
    _fault(23, "collated_twice:loss", "LA205 audio", model="chatml", prepare="epochs"),
)

LOST = ("LA201 text",)
CORRECT = (
    Case("correct:loss"),
    Case("correct_conventions:direct", warnings=LOST, prepare="shift_ahead"),
    Case("correct_conventions:direct", warnings=LOST, prepare="cut"),
    Case("correct_conventions:filled"),
    Case("correct_conventions:rolled"),
    Case("correct_conventions:labels_of_the_model", model="llama"),
    Case("correct_conventions:direct_on_text", model="llama", prepare="cut_ids"),
    Case("correct_terms:label_smoothing"),
    Case("correct_terms:z_loss"),
    Case("correct_terms:z_loss_on_targets"),
    Case("correct_terms:class_weights"),
    Case("correct_terms:focal"),
    Case("correct_terms:confidence_penalty"),
    Case("correct_rows:chunked"),
    Case("correct_rows:supervised_rows_only"),
    Case("correct_rows:index_selected"),
    Case("correct_rows:padded"),
    Case("correct_rows:codebooks_flattened"),
    Case("correct_rows:segment_by_segment"),
    Case("correct_own_ce:logsumexp_minus_index"),
    Case("correct_own_ce:gathered_log_softmax"),
    Case("correct_own_ce:gathered_by_shorter_labels"),
    Case("correct_own_ce:one_hot"),
    Case("correct_own_ce:autograd_function"),
    Case("correct_own_ce:checkpointed"),
    Case("correct_fused:linear_cross_entropy"),
    Case("correct_fused:rows_of_the_norm", released_only="its body is the model below the heads, not the final norm"),
    Case("correct_fused:own_kernel"),
    Case("correct_fused:own_kernel", model="lora"),
    Case("correct_fused:both_heads"),
    Case("correct_fused:both_heads", model="lora"),
    Case("correct_fused:audio_head_alone"),
    Case("correct_fused:audio_by_own_kernel"),
    Case("correct_calls:forward_method"),
    Case("correct:loss", model="lora"),
    Case("correct_calls:below_the_wrapper", model="lora"),
    Case("correct_calls:innermost", model="lora"),
    Case("correct_calls:autocast"),
    Case("correct_calls:logged_twice"),
    Case("correct_calls:micro_batches", sizes=SEVERAL, published=True),
    Case("correct_calls:pops_its_labels"),
    Case("correct_calls:edits_in_place"),
    Case("correct_calls:without_labels", published=True),
    Case("correct_reductions:sum_over_constant"),
    Case("correct_reductions:sum_over_constant", sizes=SEVERAL, options={"reduction": "sum"}),
    Case("correct_reductions:token_mean_of_the_step", model="llama", sizes=SEVERAL, options=STEP),
    Case("correct_reductions:token_mean_of_every_stream", sizes=SEVERAL, options=STEP),
    Case("higgs_v2:loss", model="higgs_v2"),
    Case("higgs_v2:as_trainer_calls", model="higgs_v2"),
    Case("higgs_v2:token_mean_of_the_step", model="higgs_v2", sizes=SEVERAL, options=STEP),
    Case("mean_of_means:per_sample", warnings=("LA301 text", "LA301 audio")),
    Case("mean_of_means:per_sample", sizes=SEVERAL, options={"reduction": "sequence-mean"}),
    Case("codebook_weights:loss", warnings=("LA303 audio",)),
)

#: The losses written for the released model, on transformers' own (see ``as_released``).
V2 = tuple(
    replace(case, model="higgs_v2") for case in (*FAULTS, *CORRECT) if case.model == "higgs" and not case.released_only
)
