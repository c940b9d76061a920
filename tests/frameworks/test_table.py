"""The frameworks table: right forms show nothing, planted faults their code, weights are the same bit for bit."""

import pytest
from table import held, rows

pytestmark = pytest.mark.filterwarnings("ignore")

#: One of each package: the quick part. The rest is nightly, or `python tests/frameworks/table.py`.
QUICK = (
    "SFT, answers alone",
    "DPO, sigmoid",
    "GRPO",
    "Seq2SeqTrainer, T5",
    "lightning: manual",
    "litgpt: full",
    "torchtune: full, plain",
)


def _marked(row):
    name = f"{row.package}: {row.name}"
    quick = any(name.endswith(one) for one in QUICK)
    return pytest.param(row, id=name, marks=() if quick else pytest.mark.deep)


@pytest.mark.parametrize("row", [_marked(row) for row in rows()])
def test_a_row_holds(row):
    wrong, told = held(row)
    assert wrong == []
    assert told


def test_the_table_has_forty_rows_of_five_packages():
    every = rows()
    assert len(every) >= 40
    assert {row.package for row in every} == {"trl", "transformers", "lightning", "litgpt", "torchtune"}
    assert len({(row.package, row.name) for row in every}) == len(every)
