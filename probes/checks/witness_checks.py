"""What a witness answers: ``pairing-text``, ``pairing-audio``, ``coverage`` and ``labels-received``."""

from __future__ import annotations

from collections.abc import Sequence

from alignment import Finding
from alignment.rules import RULES, failing
from alignment.supervision import Supervision
from alignment.wording import counted

from ..models import Adapter, Batch
from ..records.report import Check
from ..witness.judgement import unlabelled
from ..witness.witness import Witness

__all__ = ["COVERAGE", "PAIRING", "concerning", "kinds_of", "named", "witness_checks"]

#: Findings by the check they fail.
PAIRING, COVERAGE, RECEIVED = failing("pairing"), failing("coverage"), failing("labels-received")
#: What a pairing check says, by the kind of its streams.
PAIRED = {"text": "Each text logit predicts the next token", "audio": "Each audio logit predicts the next frame"}


def kinds_of(seen: Witness) -> list[str]:
    """``text`` and ``audio``, as far as the model has streams of them: a text model is not told of audio."""
    return [kind for kind in PAIRED if any(one.stream.name.startswith(kind) for one in seen.expected)]


def witness_checks(
    adapter: Adapter,
    batch: Batch,
    seen: Witness,
    findings: Sequence[Finding],
    ignored: Sequence[Finding] = (),
    *,
    withheld: bool = False,
) -> list[Check]:
    """``pairing-text`` and ``pairing-audio`` of what the model has, ``coverage`` and ``labels-received``.

    A check that only ``ignored`` findings would fail is skipped and says so: it was not passed.
    """
    checks = []
    for kind in kinds_of(seen):
        check = _pairing_check(f"pairing-{kind}", PAIRED[kind], kind, seen, findings)
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
        if f.is_error and f.code in codes and (kind is None or f.stream == "all" or _is_of(f.stream, kind))
    ]


def _is_of(stream: str, kind: str) -> bool:
    """Whether a stream is of a modality: whatever is no audio is text."""
    return stream.startswith("audio") is (kind == "audio")


def named(findings: Sequence[Finding]) -> str:
    """Findings in one line: code, name, stream and count; their messages stand below the checklist."""
    return "; ".join(f"{f.code} {f.name} on {f.stream}{_many(f)}" for f in findings)


def _many(found: Finding) -> str:
    """How many rows a finding is about; nothing where it counts something else, as forward passes."""
    return f" ({counted(found.count, 'row')})" if found.count and RULES[found.code].of_rows else ""


def _next_token(number: int, seen: Witness) -> int:
    """How many rows of a stream are trained on their next token, expected there or not."""
    actual = seen.actual[number]
    ahead = actual.trained & (actual.source >= 0) & (actual.origin == number) & (actual.offset == 1)
    return int((ahead | seen.verdicts[number].right).sum())


def _at_next(trained: int, next_token: int, expected: int, *, further: bool = False) -> str:
    """What the passing line says: how many are trained on the next token, and how many of those were to be trained."""
    where = "as far ahead as its head predicts" if further else "at offset +1"
    told = f"{next_token} of {counted(trained, 'trained row')} {where}"
    return told if expected == next_token else f"{told}, {expected} of them expected"


def _pairing_check(check_id: str, title: str, kind: str, seen: Witness, findings: Sequence[Finding]) -> Check:
    mine = [n for n, e in enumerate(seen.expected) if _is_of(e.stream.name, kind)]
    wanted = sum(seen.expected[n].count for n in mine)
    bad = concerning(findings, PAIRING, kind)
    if bad:
        return Check(check_id, title, "fail", named(bad))
    if not seen.actual:
        return Check(check_id, title, "skip", "the loss did not run")
    trained = sum(seen.actual[n].count for n in mine)
    if wanted == 0 and trained == 0:
        return Check(check_id, title, "skip", f"the batch has no {kind} target")
    soft = sum(seen.actual[n].unread for n in mine)
    if wanted == 0 and all(seen.view.labels[n] is None for n in mine):
        return _unlabelled_pairing(check_id, title, [seen.actual[n] for n in mine], trained)
    right = sum(int(seen.verdicts[n].right.sum()) for n in mine)
    if right == 0:
        if soft:
            return Check(check_id, title, "skip", f"{counted(soft, 'row')} without a hard target: not read")
        status = "fail" if wanted else "skip"
        return Check(check_id, title, status, f"none of {wanted} expected {kind} targets is trained")
    pushed = sum(int((seen.actual[n].weight < 0).sum()) for n in mine)
    if pushed:
        away = f"{pushed} of {trained} trained rows are pushed away from their target"
        why = "a preference or a reward" if pushed < trained else "a negative reward, or a sign that is turned round"
        return Check(check_id, title, "skip", f"{away}: {why}")
    if soft:
        told = f"{counted(right, 'row')} at offset +1, {counted(soft, 'row')} without a hard target: not read"
        return Check(check_id, title, "skip", told)
    if seen.view.masked.issuperset(mine):
        told = f"{right} of {counted(trained, 'trained row')} at their own masked position"
        return Check(check_id, title, "pass", told)
    further = any(seen.view.ahead[n] > 1 for n in mine) if seen.view.ahead else False
    ahead = trained if right == trained else sum(_next_token(n, seen) for n in mine)
    return Check(check_id, title, "pass", _at_next(trained, ahead, right, further=further))


def _unlabelled_pairing(check_id: str, title: str, actual: Sequence[Supervision], trained: int) -> Check:
    """Without labels in the batch: whether what is trained is the next token, where it is an input at all."""
    right = sum(int((a.trained & (a.source >= 0) & (a.offset == 1)).sum()) for a in actual)
    if 2 * right < trained:
        return Check(
            check_id, title, "skip", f"most of {trained} targets are no inputs of the batch, which has no labels"
        )
    return Check(check_id, title, "pass", _at_next(trained, right, right))


def _coverage_check(batch: Batch, seen: Witness, findings: Sequence[Finding]) -> Check:
    title = "Every expected target is trained, and nothing else"
    bad = concerning(findings, COVERAGE)
    if bad:
        return Check("coverage", title, "fail", named(bad))
    if not seen.actual:
        return Check("coverage", title, "skip", "the loss did not run" if seen.loss is None else "no stream was read")
    if unlabelled(seen.view) and not any(e.count for e in seen.expected):
        return Check("coverage", title, "skip", f"the batch has no labels for the model: it has {', '.join(batch)}")
    swallowed = [f for f in findings if f.is_error and f.code in PAIRING]
    if swallowed:
        codes = ", ".join(sorted({f.code for f in swallowed}))
        return Check("coverage", title, "skip", f"not judged beside {codes}: rows are trained on the wrong tokens")
    wanted = sum(e.count for e in seen.expected)
    got = sum(int(one.right.sum()) for one in seen.verdicts)
    lost = sum(f.count for f in findings if f.code == "LA201")
    extra = f", {lost} lost in the model's merge" if lost else ""
    soft = [(e, a) for e, a in zip(seen.expected, seen.actual, strict=True) if a.unread]
    unread = sum(int((e.trained & a.soft).sum()) for e, a in soft)
    if unread:
        return Check(
            "coverage", title, "skip", f"{got} of {wanted} expected targets trained, {unread} could not be read"
        )
    if not wanted:
        return Check("coverage", title, "skip", "no target is expected")
    if got == 0:
        return Check("coverage", title, "fail", f"0 of {wanted} expected targets are trained")
    return Check("coverage", title, "pass", f"{got} of {wanted} expected targets trained{extra}")


def _received_check(
    adapter: Adapter, batch: Batch, seen: Witness, findings: Sequence[Finding], withheld: bool
) -> Check:
    check_id, title = "labels-received", "The model receives the labels"
    if withheld:
        return Check(check_id, title, "skip", "declared: --labels none withholds them from the model")
    dropped = concerning(findings, RECEIVED)
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
