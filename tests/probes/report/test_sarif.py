"""SARIF and annotations: what code scanning and a workflow read, and that both point at the slice."""

import io
import json
import re
from pathlib import Path

import pytest
from lm_tiny import tiny_model

from alignment.findings import Finding, Line
from probes import check_loss
from probes.records.report import error_report
from probes.report import Report
from probes.report.annotations import annotate, annotation
from probes.report.sarif import render

SCHEMA = json.loads((Path(__file__).parents[2] / "sarif-subset.json").read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def problems(value, schema, at="$"):
    """Where a value is not what a schema says, in the words of JSON Schema that ours uses."""
    schema = SCHEMA["definitions"][schema["$ref"]] if "$ref" in schema else schema
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r}"]
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        return [f"{at}: no {schema['type']}"]
    found = [f"{at}: no {name}" for name in schema.get("required", ()) if name not in value]
    if isinstance(value, dict):
        more = schema.get("additionalProperties")
        for name, entry in value.items():
            known = schema.get("properties", {}).get(name, more)
            found += problems(entry, known, f"{at}.{name}") if known else [f"{at}.{name}"]
    if isinstance(value, list):
        found += [p for n, entry in enumerate(value) for p in problems(entry, schema["items"], f"{at}[{n}]")]
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{at}: {value!r}")
    if isinstance(value, int) and value < schema.get("minimum", value):
        found.append(f"{at}: {value}")
    return found


def finding(*lines, severity="error", message="copies"):
    return Finding("LA102", "text", 4, message, "pair with the next", severity, lines=lines)


OWN = Line("a b/train.py", 214, "shift = labels[..., 1:]", "moves labels by one", mark=(8, 23), indent=4)
LIBRARY = Line(
    "transformers/loss/loss_utils.py", 60, "shift_labels = labels[..., 1:]", "moves labels by one", own=False
)


@pytest.fixture(scope="module")
def seed():
    """The seed's case before its fix, on a text model."""

    def loss(model, batch):
        import torch.nn.functional as F

        out = model(input_ids=batch["input_ids"])
        shift_logits = out.logits[..., :-1, :].contiguous()  # the slice
        shift_labels = batch["labels"].contiguous()
        return F.cross_entropy(shift_logits.view(-1, shift_logits.size(-1)), shift_labels.view(-1))

    import torch

    ids = torch.arange(3, 27).reshape(2, 12)
    return check_loss(tiny_model("LlamaForCausalLM"), {"input_ids": ids, "labels": ids.clone()}, loss, replay=False)


def test_the_log_is_valid(seed):
    for report in (seed, Report(findings=[finding(OWN, LIBRARY), finding()]), error_report("no \x00 file", 2)):
        assert problems(json.loads(render(report)), SCHEMA) == []


def test_this_sees_what_is_not_valid(seed):
    log = json.loads(render(seed))
    log["runs"][0]["results"][0]["level"] = "fatal"
    log["runs"][0]["extra"] = 1
    assert problems(log, SCHEMA) == ["$.runs[0].results[0].level: 'fatal'", "$.runs[0].extra"]


def test_the_seeds_case_points_at_the_slice(seed):
    result = json.loads(render(seed))["runs"][0]["results"][0]
    place = result["locations"][0]["physicalLocation"]
    assert result["ruleId"] == "LA101"
    assert place["artifactLocation"] == {"uri": "tests/probes/report/test_sarif.py", "uriBaseId": "%SRCROOT%"}
    assert place["region"]["snippet"]["text"].endswith("# the slice")
    assert "LA101" in annotation(seed.findings[0])
    assert f"line={place['region']['startLine']}" in annotation(seed.findings[0])


def test_the_users_own_line_is_the_place_and_the_others_are_related():
    result = json.loads(render(Report(findings=[finding(LIBRARY, OWN)])))["runs"][0]["results"][0]
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a%20b/train.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 214, "startColumn": 13, "endColumn": 28, "snippet": {"text": OWN.code}},
    }
    related = result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]
    assert related == {"uri": LIBRARY.file, "uriBaseId": "PACKAGES"}


def test_a_run_without_a_report_says_why():
    invocation = json.loads(render(error_report("no such file", 2)))["runs"][0]["invocations"][0]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"] == [{"level": "error", "message": {"text": "no such file"}}]


def test_annotations_are_written_where_a_workflow_reads_them():
    report, quiet, told = Report(findings=[finding(OWN)]), io.StringIO(), io.StringIO()
    annotate(report, quiet, {})
    annotate(report, told, {"GITHUB_ACTIONS": "true"})
    assert quiet.getvalue() == ""
    assert told.getvalue() == (
        "::error title=LA102 copy-objective on text,file=a b/train.py,line=214,col=13,endColumn=27"
        "::moves labels by one: copies\n"
    )


def test_a_message_begins_no_other_command():
    told = annotation(finding(message="100%\n::error::x\x1b[31m", severity="warning"))
    assert told == "::warning title=LA102 copy-objective on text::100%25%0A::error::x\\x1b[31m"
