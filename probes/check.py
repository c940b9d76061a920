"""``check_loss``: any model, batch and loss function in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment import AlignmentError, Convention, Decision, Finding, choose
from alignment.comparison import judge
from alignment.streams import IGNORE_INDEX, Stream
from alignment.supervision import Supervision
from alignment.weights import spread

from .adapter_step import frozen_adapters
from .environment import environment_of
from .errors import UsageError
from .explain import all_stories
from .models import Adapter, Batch, adapter_for
from .models.modules import peft_model
from .reduction import Reduction, check_reduction, counted_loss, settled
from .report.model import Check, Report
from .witness import Options, Witness, unlabelled, witness

__all__ = ["check_loss", "report_of", "stream_summary", "witness_checks"]

#: Findings by the check they fail.
LENGTH = frozenset({"LA101"})
PAIRING = frozenset({"LA101", "LA102", "LA103", "LA104", "LA105", "LA106", "LA107", "LA205", "LA206", "LA501", "LA605"})
COVERAGE = frozenset({"LA201", "LA202", "LA203", "LA204", "LA205", "LA206", "LA502", "LA605"})
Keep = Callable[[Finding], bool]


def check_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    heads: Sequence[str] | str = (),
    labels: Convention | str = Convention.POSITION_ALIGNED,
    reduction: Reduction | None = None,
    grad_accum: int = 1,
    real_logits: bool = False,
) -> Report:
    """Which token does ``loss_fn`` train each logit of ``model`` to predict on ``batch``, and is it the right one?

    One forward of the body without gradients, the loss, and its backward down to the logits. The model,
    its gradients, modes, buffers, hooks and the random state are afterwards as before.

    Args:
        model: wrapped (PEFT, DDP, torch.compile) or not.
        batch: the mapping of the model's keyword arguments, labels included.
        loss_fn: ``loss_fn(model, batch) -> scalar tensor``. If it takes ``num_items``, it is given the number of
            targets of the whole accumulated batch by stream (``{"text": 240, "audio[0]": 50, ...}``); if it takes
            ``num_items_in_batch``, what the Trainer of transformers hands on, which counts text labels alone.
        heads: names of head modules (or the one), where neither an adapter nor ``get_output_embeddings()`` tells.
        labels: the convention that the batch's labels are meant to follow, where the ids fit both.
        reduction: ``token-mean``, ``sequence-mean`` or ``sum``: declares what LA302 holds the weights to.
        grad_accum: how many micro-batches one step accumulates; the batch is split into as many.
        real_logits: run the loss on the real logits instead of noise, for losses that choose targets by them.

    Returns:
        The report; ``report.raise_for_findings()`` raises where it did not pass.

    Raises:
        UsageError: arguments of the wrong kind; the loss raises for another reason than lengths, or returns no scalar.
        InputError: a batch that does not fit the model.
    """
    _check_arguments(model, batch, loss_fn, grad_accum)
    adapter = adapter_for(model, [heads] if isinstance(heads, str) else heads)
    inputs: Batch = dict(batch)
    adapter.check_batch(model, inputs)
    values = "real" if real_logits else "noise"
    options = Options(values=values, convention=Convention(labels))
    seen = witness(model, adapter, inputs, counted_loss(loss_fn, model, adapter, inputs, options), options)
    findings = list(seen.findings)
    if reduction is not None or grad_accum > 1:
        declared = reduction or "token-mean"
        wrong = check_reduction(model, adapter, inputs, loss_fn, declared, grad_accum, options)
        findings = settled(findings, wrong, declared)
    if peft_model(model) is not None:
        findings += frozen_adapters(model)
    return report_of(model, adapter, inputs, seen, findings=findings)


def _check_arguments(model: Any, batch: Any, loss_fn: Any, grad_accum: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch module, got {type(model).__name__}")
    if not isinstance(batch, Mapping):
        raise UsageError(f"batch must map the model's keyword arguments to tensors, got {type(batch).__name__}")
    if not callable(loss_fn):
        raise UsageError(f"loss_fn must be a function (model, batch) -> scalar tensor, got {type(loss_fn).__name__}")
    if not isinstance(grad_accum, int) or grad_accum < 1:
        raise UsageError(f"grad_accum must be a whole number of at least 1, got {grad_accum!r}")


def report_of(
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    seen: Witness,
    *,
    findings: Sequence[Finding] | None = None,
    keep: Keep | None = None,
    withheld: bool = False,
    name: str = "",
    seed: int = 0,
) -> Report:
    """The report of one witness: its checks, findings, streams and decisions."""
    found = list(seen.findings if findings is None else findings)
    kept = [f for f in found if keep is None or keep(f)]
    ignored = [f for f in found if f not in kept]
    return Report(
        checks=witness_checks(adapter, batch, seen, kept, ignored, withheld=withheld),
        findings=kept,
        streams=stream_summary(seen),
        decision=_decisions(seen, "fallback" if withheld else "expanded"),
        losses={} if seen.loss is None else {"total": seen.loss},
        environment=environment_of(model, name or adapter.name, seed),
        notes=list(seen.notes),
        rows=partial(all_stories, seen),
    )


def witness_checks(
    adapter: Adapter,
    batch: Batch,
    seen: Witness,
    findings: Sequence[Finding],
    ignored: Sequence[Finding] = (),
    *,
    withheld: bool = False,
) -> list[Check]:
    """``pairing-text``, ``pairing-audio``, ``coverage`` and ``labels-received``.

    A check that only ``ignored`` findings would fail is skipped and says so: it was not passed.
    """
    checks = []
    for kind, title in (
        ("text", "Each text logit predicts the next token"),
        ("audio", "Each audio logit predicts the next frame"),
    ):
        check = _pairing_check(f"pairing-{kind}", title, kind, seen, findings)
        checks.append(_unless_ignored(check, concerning(ignored, PAIRING, kind)))
    check = _coverage_check(batch, seen, findings)
    checks.append(_unless_ignored(check, concerning(ignored, COVERAGE | PAIRING)))
    checks.append(_received_check(adapter, batch, seen, findings, withheld))
    return checks


def _unless_ignored(check: Check, ignored: Sequence[Finding]) -> Check:
    if not ignored or (check.status == "fail" and "LA" in check.detail):
        return check
    return Check(check.id, check.title, "skip", f"ignored: {named(ignored)}")


def concerning(findings: Sequence[Finding], codes: frozenset[str], kind: str | None = None) -> list[Finding]:
    """Error findings of some codes that touch a modality (or all of them)."""
    return [
        f
        for f in findings
        if f.is_error and f.code in codes and (kind is None or f.stream == "all" or f.stream.startswith(kind))
    ]


def named(findings: Sequence[Finding]) -> str:
    """Findings in one line: code, name, stream and count; their messages stand below the checklist."""
    return "; ".join(f"{f.code} {f.name} on {f.stream}{f' ({f.count} rows)' if f.count else ''}" for f in findings)


def _pairing_check(check_id: str, title: str, kind: str, seen: Witness, findings: Sequence[Finding]) -> Check:
    mine = [n for n, e in enumerate(seen.expected) if e.stream.name.startswith(kind)]
    wanted = sum(int(seen.expected[n].trained.sum()) for n in mine)
    bad = concerning(findings, PAIRING, kind)
    if bad:
        return Check(check_id, title, "fail", named(bad))
    if not seen.actual:
        return Check(check_id, title, "skip", "the loss did not run")
    trained = sum(int(seen.actual[n].trained.sum()) for n in mine)
    if wanted == 0 and trained == 0:
        return Check(check_id, title, "skip", f"the batch has no {kind} target")
    soft = sum(int(seen.actual[n].soft.sum()) for n in mine)
    if wanted == 0 and unlabelled(seen.view):
        return _unlabelled_pairing(check_id, title, [seen.actual[n] for n in mine], trained)
    right = sum(int(judge(n, seen.expected[n], seen.actual[n], seen.expected).right.sum()) for n in mine)
    if right == 0:
        if soft:
            return Check(check_id, title, "skip", f"{soft} rows have no hard target: not read")
        return Check(check_id, title, "fail", f"none of {wanted} expected {kind} targets is trained")
    pushed = sum(int((seen.actual[n].weight < 0).sum()) for n in mine)
    if pushed:
        away = f"{pushed} of {trained} trained rows are pushed away from their target"
        why = "a preference or a reward" if pushed < trained else "a negative reward, or a sign that is turned round"
        return Check(check_id, title, "skip", f"{away}: {why}")
    if soft:
        return Check(check_id, title, "skip", f"{right} rows at offset +1, {soft} rows have no hard target: not read")
    return Check(check_id, title, "pass", f"{right} of {trained} trained rows at offset +1")


def _unlabelled_pairing(check_id: str, title: str, actual: Sequence[Supervision], trained: int) -> Check:
    """Without labels in the batch: whether what is trained is the next token, where it is an input at all."""
    right = sum(int((a.trained & (a.source >= 0) & (a.offset == 1)).sum()) for a in actual)
    if 2 * right < trained:
        return Check(
            check_id, title, "skip", f"most of {trained} targets are no inputs of the batch, which has no labels"
        )
    return Check(check_id, title, "pass", f"{right} of {trained} trained rows at offset +1")


def _coverage_check(batch: Batch, seen: Witness, findings: Sequence[Finding]) -> Check:
    title = "Every expected target is trained, and nothing else"
    bad = concerning(findings, COVERAGE)
    if bad:
        return Check("coverage", title, "fail", named(bad))
    if not seen.actual:
        return Check("coverage", title, "skip", "the loss did not run")
    if unlabelled(seen.view) and not any(bool(e.trained.any()) for e in seen.expected):
        return Check("coverage", title, "skip", f"the batch has no labels for the model: it has {', '.join(batch)}")
    swallowed = [f for f in findings if f.is_error and f.code in PAIRING]
    if swallowed:
        codes = ", ".join(sorted({f.code for f in swallowed}))
        return Check("coverage", title, "skip", f"not judged beside {codes}: rows are trained on the wrong tokens")
    wanted = sum(int(e.trained.sum()) for e in seen.expected)
    got = sum(
        int(judge(n, e, a, seen.expected).right.sum())
        for n, (e, a) in enumerate(zip(seen.expected, seen.actual, strict=True))
    )
    lost = sum(f.count for f in findings if f.code == "LA201")
    extra = f", {lost} lost in the model's merge" if lost else ""
    unread = sum(int((e.trained & a.soft).sum()) for e, a in zip(seen.expected, seen.actual, strict=True))
    if unread:
        return Check(
            "coverage", title, "skip", f"{got} of {wanted} expected targets trained, {unread} could not be read"
        )
    if got == 0:
        return Check("coverage", title, "fail", f"0 of {wanted} expected targets are trained")
    return Check("coverage", title, "pass", f"{got} of {wanted} expected targets trained{extra}")


def _received_check(
    adapter: Adapter, batch: Batch, seen: Witness, findings: Sequence[Finding], withheld: bool
) -> Check:
    check_id, title = "labels-received", "The model receives the labels"
    if withheld:
        return Check(check_id, title, "skip", "declared: --labels none withholds them from the model")
    dropped = concerning(findings, frozenset({"LA601"}))
    if dropped:
        return Check(check_id, title, "fail", dropped[0].message)
    got = ", ".join(f"{key}: {key in seen.inner_labels}" for key in adapter.label_keys if batch.get(key) is not None)
    if not got:
        return Check(check_id, title, "skip", "the batch has no labels for the model")
    if not seen.inner_labels:
        why = "a wrapper keeps the labels to itself" if seen.outer_labels else "the loss hands the model no labels"
        return Check(check_id, title, "skip", f"{why} ({got})")
    codes = batch.get("audio_out_ids")
    audio = f", audio_out_ids: {codes.numel() > 0}" if codes is not None else ""
    return Check(check_id, title, "pass", f"the innermost forward received {got}{audio}")


def stream_summary(seen: Witness) -> dict[str, dict[str, Any]]:
    """The report's ``streams``."""
    out = {}
    for number, expected in enumerate(seen.expected):
        entry: dict[str, Any] = {"rows": len(expected.stream), "expected": int(expected.trained.sum())}
        if seen.actual:
            entry |= _actual_summary(number, expected, seen.actual[number], seen.expected)
        out[expected.stream.name] = entry
    return out


def _actual_summary(
    number: int, expected: Supervision, actual: Supervision, streams: Sequence[Supervision]
) -> dict[str, Any]:
    verdicts = judge(number, expected, actual, streams)
    weight = actual.weight[actual.trained]
    placed = actual.trained & (actual.source >= 0) & (actual.origin == number)
    offsets, counts = torch.unique(actual.offset[placed], return_counts=True)
    histogram = {str(int(d)): int(c) for d, c in zip(offsets, counts, strict=True)}
    for label, mask in (
        ("outside", actual.trained & (actual.source < 0)),
        ("elsewhere", actual.trained & (actual.source >= 0) & (actual.origin != number)),
    ):
        if bool(mask.any()):
            histogram[label] = int(mask.sum())
    return {
        "supervised": int(actual.trained.sum()),
        "missing": int(verdicts.missing.sum()),
        "unexpected": int((actual.trained & ~expected.trained).sum()),
        "unreadable": int(actual.soft.sum()),
        "offsets": histogram,
        "weight_sum": float(weight.sum()),
        "weight_spread": spread(weight),
        "sources": "proven" if actual.exact else "inferred",
    }


def _decisions(seen: Witness, path: str) -> dict[str, dict[str, Any]]:
    """The engine's own decision per modality, from the labels of the batch."""
    out: dict[str, dict[str, Any]] = {}
    for kind in ("text", "audio"):
        mine = [
            n for n, s in enumerate(seen.view.streams) if s.name.startswith(kind) and seen.view.labels[n] is not None
        ]
        if mine:
            decision = decide([seen.view.streams[n] for n in mine], [seen.view.labels[n] for n in mine], kind, path)
            out[kind] = {} if decision is None else decision.as_dict()
        else:
            out[kind] = {}
    return out


def decide(streams: Sequence[Stream], labels: Sequence[Tensor | None], kind: str, path: str) -> Decision | None:
    """The engine's decision over one modality's streams; None where the labels contradict the ids."""
    from alignment.loss import join_streams

    whole = join_streams(tuple(streams))
    flat = torch.cat([row for row in labels if row is not None])[None]
    if not bool((flat != IGNORE_INDEX).any()):
        return None
    try:
        given = {"labels": flat} if path == "expanded" else {"labels": None, "fallback": flat}
        return choose(flat.shape[1], stream=whole, name=kind, **given)
    except AlignmentError:
        return None
