"""Elements: which integers of a batch a place or a function gives."""

import torch

from probes.models.declaration import Nth
from probes.models.elements import Numbered
from probes.models.place import Place

BATCH = {"codes": torch.arange(12).reshape(1, 4, 3), "heard": torch.rand(1, 4), "mask": torch.ones(1, 4).bool()}


def test_a_place_names_its_own_key():
    (found,) = Numbered(BATCH).elements(Place("codes", "[..., 1]"))
    assert (found.key, found.at.tolist()) == ("codes", [1, 4, 7, 10])
    assert Numbered(BATCH).elements(Place("heard")) == []  # no integers


def test_a_function_that_codebooks_share_is_asked_once_for_each_key():
    asked = []

    def shared(batch):
        asked.append(None)
        return torch.where(batch["others"][..., None] > 0, batch["codes"], -1)

    numbered = Numbered({**BATCH, "others": torch.tensor([[1, 0, 1, 1]])})
    found = [numbered.elements(Nth(shared, book)) for book in range(3)]
    assert [[(one.key, one.at.tolist()) for one in book] for book in found] == [
        [("codes", [book, -1, 6 + book, 9 + book])] for book in range(3)
    ]
    assert len(asked) == 2


def test_what_looks_its_ids_up_is_no_element_by_that_key():
    def looked_up(batch):
        return torch.arange(9)[batch["ids"]]

    assert Numbered({"ids": torch.tensor([[1, 2]])}).elements(looked_up) == []
