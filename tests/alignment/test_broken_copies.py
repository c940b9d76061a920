"""Copies of the engine with one planted fault each: the suite fails on every one, and by the tests named here."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from warm import Warm

ROOT = Path(__file__).parents[2]


class Fault(NamedTuple):
    """One piece of a module's source, what it is replaced by, and the tests that must fail on it."""

    module: str
    right: str
    wrong: str
    caught: tuple[str, ...]


FAULTS = {
    "the expansion is off by one after the second audio": Fault(
        "expansion",
        "lengths[at] = counts.to(lengths)",
        "lengths[at] = counts.to(lengths) + (torch.arange(counts.numel()) == 1)",
        (
            "test_expansion.py::test_the_released_example_padded_left",
            "test_expansion.py::test_the_released_example_padded_right",
        ),
    ),
    "the decision prefers direct": Fault(
        "pairing",
        "pairing = _RIGHT.get(evidence.convention, Pairing.SHIFTED)",
        "pairing = Pairing.DIRECT",
        (
            "test_pair.py::test_both_conventions_lead_to_the_same_targets",
            "test_pairing.py::test_labels_at_their_own_token_are_shifted_and_the_copy_is_named",
        ),
    ),
    "the decision prefers direct where the ids fit both": Fault(
        "pairing",
        "_RIGHT.get(evidence.convention, Pairing.SHIFTED)",
        "_RIGHT.get(evidence.convention, Pairing.DIRECT)",
        ("test_pairing.py::test_ids_that_fit_both_are_ambiguous_and_taken_on_trust",),
    ),
    "recover ignores the last row": Fault(
        "recovery",
        "    return read(grad, stand_in, period",
        "    if grad is not None:\n        grad[..., -1:, :] = 0\n    return read(grad, stand_in, period",
        (
            "test_recovery.py::test_any_labels_are_found_again",
            "test_recovery.py::test_cross_entropy_is_read_exactly",
        ),
    ),
    "compare forgets unexpected targets": Fault(
        "rules/la202_unexpected_target",
        'if "unexpected" not in one.verdicts.some:',
        "if True:",
        (
            "test_comparison_coverage.py::test_a_trained_prompt_is_unexpected",
            "test_comparison_coverage.py::test_delay_pattern_filler_alone_is_a_warning",
            "test_comparison_coverage.py::test_trained_padding_and_placeholders_are_unexpected",
        ),
    ),
}


@pytest.fixture(scope="module")
def without_engine():
    """Processes that have imported what the tests of a copy need, and no engine yet: each finds its copy's."""
    process = Warm("torch", "numpy", "hypothesis.strategies", "hypothesis.core", "pytest")
    yield process
    process.close()


@pytest.fixture
def copy(tmp_path):
    """A copy of the packages and of their tests."""
    for name in ("alignment", "probes", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def failures(without_engine, copy):
    return lambda tests: _failures(without_engine, copy, tests)


def _failures(process, copy, tests):
    """The tests that fail in ``copy``; every one of ``tests`` is run there, and none stops short of a verdict."""
    words = ["-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    words += [f"tests/alignment/{test}" for test in tests]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = process.python(*words, cwd=copy, env=environment)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert re.search(r"\d+ (passed|failed)", done.stdout), done.stdout + done.stderr
    assert not any(line.startswith("ERROR ") for line in done.stdout.splitlines()), done.stdout
    lines = [line.removeprefix("FAILED tests/alignment/") for line in done.stdout.splitlines() if "FAILED" in line]
    return sorted({line.partition(" - ")[0].partition("[")[0] for line in lines})


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_broken_copy_fails_the_tests_named_for_it(fault, copy, failures):
    path = copy / "alignment" / f"{fault.module}.py"
    source = path.read_text(encoding="utf-8")
    assert source.count(fault.right) == 1
    path.write_text(source.replace(fault.right, fault.wrong), encoding="utf-8")
    assert failures(fault.caught) == sorted(fault.caught)


def test_the_unbroken_copy_passes_all_of_them(failures):
    assert failures({test for fault in FAULTS.values() for test in fault.caught}) == []
