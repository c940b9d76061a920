"""The first sentence of a page: the finding, with its counts, in words."""

from itertools import product

from alignment.findings import LABELS, finding
from alignment.rules import RULES
from probes.records.report import error_report
from probes.report import Check, Report
from probes.report.headline import headline, leading, told_finding, told_place

STREAMS = {
    "text": {"expected": 60, "supervised": 56},
    **{f"audio[{k}]": {"expected": 22, "supervised": 22 if k == 0 else 0} for k in range(8)},
}
SILENT = ", ".join(f"audio[{k}]" for k in range(1, 8))


def said(code, stream="text", count=56, **more):
    return told_finding(finding(code, stream, "lengths differ", count=count, **more), Report(streams=STREAMS))


def test_the_sentence_counts_rows_among_those_that_are_trained_or_must_be():
    assert said("LA102") == "56 of 56 text rows learn to repeat what they have just read"
    assert said("LA102", count=1) == "1 of 56 text rows learns to repeat what it has just read"
    assert said("LA201", count=4) == "4 of 60 text targets are trained nowhere"
    assert said("LA103", "audio[0]", 22) == "22 of 22 rows of codebook 0 learn the token after the next one"
    assert said("LA205", SILENT, 154) == "None of the 154 targets of codebooks 1 to 7 is trained"
    assert said("LA303", "audio", 8) == "The codebooks do not weigh alike"


def test_a_count_that_is_of_something_else_is_no_share():
    assert said("LA202", count=1_102) == "1,102 text rows are trained, and must not be"
    assert said("LA102", count=100) == "100 text rows learn to repeat what they have just read", "more than are trained"
    assert said("LA205", "audio", 2, basis=LABELS) == "A stream that has labels receives no gradient", "two samples"
    assert said("LA102", "all", 3) == RULES["LA102"].summary.rstrip("."), "of no stream"
    assert said("LA801", "codec_head", 9) == "A head is trained that was not looked at: codec_head"


def test_every_rule_has_a_sentence_for_any_stream_and_count():
    for code, stream, count in product(RULES, ("text", "audio", "all", "a head {of} [his|own]"), (0, 1, 12)):
        sentence = said(code, stream, count)
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert not sentence.endswith(".")
        assert not sentence.startswith("0 ")
        assert not set("{}|") & set(sentence.replace(stream, ""))


def test_lengths_that_differ_are_in_the_headline():
    long = "logits and labels of text differ in length: 255 vs 256 per sample; logits were cut"
    assert told_finding(finding("LA101", "text", long, count=1), Report(streams=STREAMS)) == (
        "Logits and labels of text differ in length: 255 vs 256 per sample"
    )
    assert (
        told_finding(finding("LA101", "text", "a" * 200), Report(streams=STREAMS))
        == "Logits and labels differ in length"
    )


def test_streams_in_words():
    assert told_place(["audio[2]", "audio[3]"]) == "codebooks 2 to 3"
    assert told_place(["audio[2]", "audio[5]"]) == "codebooks 2, 5"
    assert told_place(["text", "audio[0]"]) == "text, audio[0]"
    assert told_place(["mtp[0]"]) == "mtp[0]"


def test_the_first_error_leads_then_the_first_blind_spot():
    blind, warning, error = (finding(code, "text", "m", count=3) for code in ("LA802", "LA301", "LA102"))
    assert leading([warning, blind, error]) is error
    assert leading([warning, blind]) is blind
    assert leading([warning]) is None


def test_every_verdict_has_a_headline():
    entry = {"text": {"expected": 2_000, "supervised": 2_000}}
    assert headline(Report(streams=entry)) == "2,000 targets are trained as they must be"
    warned = Report(streams=entry, findings=[finding("LA301", "text", "m", count=3)])
    assert headline(warned) == "No error among 2,000 targets, and a warning: the targets of the text do not weigh alike"
    assert headline(Report(streams=entry, findings=[finding("LA802", "text", "m", count=2_000)])) == (
        "2,000 of 2,000 text targets could not be read"
    )
    assert headline(Report(checks=[Check("decode", "t", "fail", "d")])) == "“t” does not hold"
    assert headline(Report(checks=[Check("decode", "t", "error", "d")])) == "“t” could not be checked"
    assert headline(error_report("no such file", 2)) == "No report could be made"
    found = finding("LA203", "text", "3 of 9 trained answers end in a token that no label names", count=3)
    assert headline(Report(streams=entry, data={"samples": 9}, findings=[found])) == found.message
    assert headline(Report(data={"samples": 1})) == "Nothing is wrong with 1 sample"
