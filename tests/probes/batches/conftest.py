"""The released Higgs model made small, and the samples of fixtures/chatml/speech.jsonl as it is given them."""

from pathlib import Path

import pytest

from probes.batches.chatml import byte_tokenizer, chatml_samples, read_chatml
from probes.models.higgs import small_config, small_model

FIXTURES = Path(__file__).parents[3] / "fixtures" / "chatml"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def config():
    return small_config()


@pytest.fixture
def records():
    return read_chatml(FIXTURES / "speech.jsonl")


@pytest.fixture
def samples(records, tokenizer):
    return chatml_samples(records, tokenizer, codebooks=8, base_dir=FIXTURES)
