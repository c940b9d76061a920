"""The catalogue: one file a code, found by its name, and nothing said that is not so."""

from importlib import import_module
from pathlib import Path

import pytest

import alignment.rules
from alignment import InputError
from alignment.rules import RULES, failing, lookup, nearest

FILES = sorted(path.stem for path in Path(alignment.rules.__file__).parent.glob("la*.py"))
CHECKS = {
    "text-length",
    "loss",
    "training-step",
    "pairing",
    "coverage",
    "labels-received",
    "peft",
    "causality",
    "decode",
    "ranks",
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_called_as_its_rule(file):
    rule = import_module(f"alignment.rules.{file}").RULE
    assert file == f"{rule.code}_{rule.name}".lower().replace("-", "_")
    assert RULES[rule.code] is rule


def test_every_code_has_its_file_and_they_come_in_order():
    assert len(RULES) == len(FILES)
    assert list(RULES) == sorted(RULES)
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.code)
def test_what_a_rule_names_exists(rule):
    assert set(rule.checks) <= CHECKS
    assert set(rule.absorbs) <= set(RULES) - {rule.code}
    assert all((rule.summary, rule.silent, rule.fix, rule.case))


def test_no_two_rules_absorb_each_other():
    assert not [rule.code for rule in RULES.values() for other in rule.absorbs if rule.code in RULES[other].absorbs]


def test_a_check_knows_the_codes_that_fail_it():
    assert failing("labels-received") == {"LA601"}
    assert {"LA102", "LA205"} <= failing("pairing")
    assert failing("no such check") == frozenset()


def test_a_rule_is_found_by_code_or_name_and_a_slip_gets_the_nearest():
    assert lookup(" la203 ") is lookup("No-End-Token") is RULES["LA203"]
    assert nearest("copy-objectiv") == "copy-objective"
    with pytest.raises(InputError, match="nearest is LA203"):
        lookup("LA2O3")


def test_audio_has_a_fix_of_its_own_where_a_rule_knows_one():
    rule = RULES["LA202"]
    assert rule.audio_fix
    assert rule.fix_of("audio[0]") == rule.fix_of("audio") == rule.audio_fix
    assert rule.fix_of("text") == rule.fix
    assert RULES["LA203"].fix_of("audio[0]") == RULES["LA203"].fix
