"""What the ranks found on their own shards, joined to the report of rank 0."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from alignment import Finding
from alignment.findings import Example, Line, finding

from ..checks.witness_checks import named
from ..records.choice import Keep
from ..records.report import Check, Report
from .exchange import told_ranks
from .same_batch import BASIS, rank_findings

__all__ = ["join_ranks", "join_shards", "rank_payload"]

TITLE = "The ranks agree"
#: What ranks hand in that no report shows.
UNSHOWN = ("findings", "failed", "same_batch", "imprints", "step_weights", "averaged", "reduction")
#: More ranks than these are told by their range.
LISTED = 4
#: Relative weights that are further apart than this are told.
SAME = 1e-3


def rank_payload(report: Report, rank: int, same: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a rank hands in: an entry of the report's ``ranks``, and its findings; ``same`` is of ``watched``."""
    told = report.as_dict()
    targets: dict[str, int] = {}
    weights: dict[str, float] = {}
    for name, entry in report.streams.items():
        kind = name.partition("[")[0]
        targets[kind] = targets.get(kind, 0) + int(entry.get("supervised", 0))
        weights[kind] = weights.get(kind, 0.0) + float(entry.get("weight_sum", 0.0))
    return {
        "rank": rank,
        "host": socket.gethostname(),
        "device": report.environment.get("device", ""),
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "codes": sorted({found.code for found in report.findings}),
        "targets": targets,
        "weight_sum": weights,
        "decision": told["decision"],
        "losses": told["losses"],
        **({} if same is None else {"same_batch": dict(same)}),
        "findings": [{**asdict(found), "name": found.name} for found in report.findings],
        "failed": [check for check in told["checks"] if check["status"] in ("fail", "error")],
    }


def join_ranks(report: Report, payloads: Sequence[dict[str, Any]], keep: Keep | None) -> None:
    """Add to the report of rank 0: ``ranks``, the findings of the other ranks, LA603, and the check ``ranks``."""
    odd = [*_other_decisions(payloads)] or rank_findings(
        [payload["same_batch"] for payload in payloads], str(report.environment.get("dtype"))
    )
    kept = [f for f in odd if keep is None or keep(f)]
    join_shards(report, payloads, kept, [f for f in odd if f not in kept])


def join_shards(
    report: Report,
    payloads: Sequence[dict[str, Any]],
    odd: Sequence[Finding],
    ignored: Sequence[Finding] = (),
    *,
    together: bool = False,
) -> None:
    """Add to the report of rank 0 what is found apart from a batch that all ranks share; ``odd`` is LA603.

    ``together`` says that the ranks' weights were seen to stay the same over a step.
    """
    own = {(f.code, f.stream) for f in report.findings} | {check.id for check in report.checks if _bad(check)}
    report.findings = [*odd, *_merged(report.findings, payloads)]
    shares = _token_weights(payloads)
    for payload, share in zip(payloads, shares, strict=True):
        payload["token_weight"] = share
    elsewhere = [*_failed_elsewhere(payloads, own)]
    report.checks.append(_check(payloads, odd, ignored, elsewhere, together=together))
    report.ranks = [_entry(payload) for payload in payloads]


def _entry(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload as the report shows it."""
    shown = {key: value for key, value in payload.items() if key not in UNSHOWN}
    same = payload.get("same_batch")
    if same is None:
        return shown
    weights = {name: entry.get("weight_sum", 0.0) for name, entry in same["streams"].items()}
    return {**shown, "same_batch": {"codes": same["codes"], "weight_sum": weights, "raised": same["raised"]}}


def _bad(check: Check) -> bool:
    return check.status in ("fail", "error")


def _check(
    payloads: Sequence[Mapping[str, Any]],
    odd: Sequence[Finding],
    ignored: Sequence[Finding],
    elsewhere: Sequence[str],
    *,
    together: bool,
) -> Check:
    if any(found.is_error for found in odd):
        told = [f"{found.code} {found.name} on {found.stream}" for found in odd if found.is_error]
        return Check("ranks", TITLE, "fail", "; ".join([*told, *elsewhere]))
    if elsewhere:
        return Check("ranks", TITLE, "fail", "; ".join(elsewhere))
    if ignored:
        return Check("ranks", TITLE, "skip", f"ignored: {named(ignored)}")
    if len(payloads) == 1:
        return Check("ranks", TITLE, "skip", "one rank: none to compare it with")
    unread = [payload["rank"] for payload in payloads if not payload["targets"]]
    if unread:
        return Check("ranks", TITLE, "skip", f"{told_ranks(unread)} of {len(payloads)}: nothing was read")
    same = payloads[0].get("same_batch")
    if same is None:
        alike = ["their weights stay the same over a step"] if together else []
        parts = [f"{len(payloads)} ranks find the same", *_told_weights(payloads), *alike]
        return Check("ranks", TITLE, "pass", "; ".join(parts))
    parts = [f"{len(payloads)} ranks do the same with the same batch", *_told_weights(payloads)]
    raised = same["raised"]
    if raised:  # the loss needs what a barcoded batch does not have: their own shards are all there is to compare
        return Check("ranks", TITLE, "skip", "; ".join([f"the loss runs on no barcoded batch ({raised})", *parts[1:]]))
    return Check("ranks", TITLE, "pass", "; ".join(parts))


# -- findings --------------------------------------------------------------------------------------------


def _merged(own: Sequence[Finding], payloads: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Every rank's findings, each fault once; what only some ranks found names them."""
    finders: dict[tuple[Any, ...], list[int]] = {}
    first = dict(_by_fault(own))
    for payload in payloads:
        for fault, found in _by_fault([_finding(told) for told in payload["findings"]]):
            finders.setdefault(fault, []).append(payload["rank"])
            first.setdefault(fault, found)
    everywhere = len(payloads)
    return [
        found
        if len(finders[fault]) == everywhere
        else replace(found, message=f"{told_ranks(finders[fault])}: {found.message}")
        for fault, found in first.items()
    ]


def _by_fault(findings: Sequence[Finding]) -> Iterator[tuple[tuple[Any, ...], Finding]]:
    """Findings with what tells the same fault on several ranks; counts and examples are each rank's own."""
    seen: Counter[tuple[Any, ...]] = Counter()
    for found in findings:
        kind = (found.code, found.stream, found.basis, found.fix)
        yield (*kind, seen[kind]), found
        seen[kind] += 1


def _finding(told: Mapping[str, Any]) -> Finding:
    values = {key: value for key, value in told.items() if key not in ("name", "examples", "lines")}
    lines = tuple(Line(**{**line, "mark": tuple(line["mark"])}) for line in told["lines"])
    return Finding(**values, examples=tuple(Example(**example) for example in told["examples"]), lines=lines)


def _failed_elsewhere(payloads: Sequence[Mapping[str, Any]], own: set[Any]) -> Iterator[str]:
    """Error findings and failed checks of other ranks that rank 0 has not."""
    ranks: dict[str, list[int]] = {}
    for payload in payloads[1:]:
        errors = [f for f in payload["findings"] if f["severity"] == "error"]
        told = [f"{f['code']} {f['name']} on {f['stream']}" for f in errors if (f["code"], f["stream"]) not in own]
        if not errors:
            told += [f"{c['id']} {c['status']}: {c['detail']}" for c in payload["failed"] if c["id"] not in own]
        for line in told:
            ranks.setdefault(line, []).append(payload["rank"])
    for line, found in ranks.items():
        yield f"{told_ranks(found)}: {line}"


def _other_decisions(payloads: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """LA603 where the ids of two shards prove different label conventions."""
    for kind in ("text", "audio"):
        ranks: dict[str, list[int]] = {}
        for payload in payloads:
            decision = payload["decision"].get(kind) or {}
            if decision.get("verified"):
                ranks.setdefault(f"{decision['convention']}, paired {decision['pairing']}", []).append(payload["rank"])
        if len(ranks) > 1:
            told = "; ".join(f"{told_ranks(found)}: {way}" for way, found in ranks.items())
            few = sum(len(found) for found in ranks.values()) - max(len(found) for found in ranks.values())
            yield finding(
                "LA603", kind, f"the labels of {kind} are not the same everywhere: {told}", count=few, basis=BASIS
            )


# -- weights ---------------------------------------------------------------------------------------------


def _token_weights(payloads: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Per rank and modality: the weight of a target in the step, relative to the mean over all ranks.

    Where the mean of the ranks' gradients is taken, a target of rank r weighs S_r / n_r, on average over all Σ S / Σ n.
    """
    shares: list[dict[str, float]] = [{} for _ in payloads]
    for kind in _kinds(payloads):
        sums = [payload["weight_sum"].get(kind, 0.0) for payload in payloads]
        counts = [payload["targets"].get(kind, 0) for payload in payloads]
        if not all(counts) or not sum(sums) > 0:
            continue
        mean = sum(sums) / sum(counts)
        for share, weight, count in zip(shares, sums, counts, strict=True):
            share[kind] = weight / count / mean
    return shares


def _kinds(payloads: Sequence[Mapping[str, Any]]) -> list[str]:
    """Text, audio or both, of whatever any rank has read."""
    return list(dict.fromkeys(kind for payload in payloads for kind in payload["targets"]))


def _told_weights(payloads: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for kind in _kinds(payloads):
        counts = [payload["targets"].get(kind, 0) for payload in payloads]
        if not any(counts):
            continue
        if len(set(counts)) == 1:
            yield f"{kind}: {counts[0]} targets on each"
            continue
        told = f"{kind}: {_listed([str(count) for count in counts], counts)} targets"
        shares = [payload["token_weight"].get(kind) for payload in payloads]
        if None in shares:
            yield told
        elif max(shares) - min(shares) <= SAME:
            yield f"{told}, all of the same weight"
        else:
            weighs = _listed([f"{share:.3f}" for share in shares], shares)
            yield f"{told}, and a target weighs {weighs} of its global weight where gradients are averaged"


def _listed(told: Sequence[str], values: Sequence[Any]) -> str:
    """A few values one by one, many by their range."""
    if len(told) <= LISTED:
        return f"{', '.join(told[:-1])} and {told[-1]}"
    low, high = (values.index(pick(values)) for pick in (min, max))
    return f"{told[low]} to {told[high]}"
