"""A checkpoint is proven before anything opens it."""

import json
import os
import pickle
import struct

import pytest
import torch
from lm_tiny import tiny_model
from safetensors.torch import save_file

from loss_align import main
from probes import UsageError
from probes.models.checkpoint import load_causal_lm
from probes.models.loading import load_model
from probes.models.proven import prove_checkpoint


class Payload:
    """What a pickle runs when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model("LlamaForCausalLM").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def changed(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def load(folder):
    return load_model(str(folder), device=torch.device("cpu"), dtype=None, seed=0)


def indexed(folder, names):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def test_a_checkpoint_as_it_is_saved_is_taken(folder):
    prove_checkpoint(folder)
    assert load(folder).missing == ()


def test_a_checkpoint_in_parts_is_taken(folder):
    tiny_model("LlamaForCausalLM").save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink()
    assert (folder / "model.safetensors.index.json").is_file()
    assert load(folder).missing == ()


def pickles_alone(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(folder / "ran")))


def an_index_that_names_a_pickle(folder):
    (folder / "weights.bin").write_bytes(pickle.dumps(Payload(folder / "ran")))
    indexed(folder, {"lm_head.weight": "weights.bin"})


def an_index_out_of_the_folder(folder):
    (folder.parent / "part.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    indexed(folder, {"lm_head.weight": "../part.safetensors"})


def an_index_of_numbers(folder):
    indexed(folder, {"lm_head.weight": 3})


def an_index_of_nothing(folder):
    indexed(folder, {})


def a_link_out_of_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to("../elsewhere.safetensors")


def weights_that_are_a_pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def a_configuration_that_is_a_pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def a_header_longer_than_its_file(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60))


def tensors_beyond_the_end(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def a_header_of_nonsense(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")


def an_adapter_that_is_a_pickle(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(folder / "ran")))


def ten_million_layers(folder):
    changed(folder, num_hidden_layers=10_000_000)


def a_vocabulary_of_billions(folder):
    changed(folder, vocab_size=4_000_000_000)


def no_vocabulary(folder):
    changed(folder, vocab_size=0)


def architectures_that_are_code(folder):
    changed(folder, architectures=["os.system"])


def architectures_that_are_numbers(folder):
    changed(folder, architectures=[3])


def architectures_that_are_no_model(folder):
    changed(folder, architectures=["pipeline"])


def a_deep_configuration(folder):
    (folder / "config.json").write_text("[" * 200_000)


def a_configuration_in_another_encoding(folder):
    (folder / "config.json").write_bytes(b'{"model_type": "\xff"}')


HOSTILE = {
    pickles_alone: "is a pickle",
    an_index_that_names_a_pickle: "no safetensors file",
    an_index_out_of_the_folder: "no file name of this folder",
    an_index_of_numbers: "cannot read",
    an_index_of_nothing: "has no weight_map",
    a_link_out_of_the_folder: "leads out of the folder",
    weights_that_are_a_pipe: "no regular file",
    a_configuration_that_is_a_pipe: "no config.json",
    a_header_longer_than_its_file: "damaged",
    tensors_beyond_the_end: "damaged",
    a_header_of_nonsense: "damaged",
    an_adapter_that_is_a_pickle: "no adapter_model.safetensors",
    ten_million_layers: "num_hidden_layers is 10,000,000",
    a_vocabulary_of_billions: "vocab_size is 4,000,000,000",
    no_vocabulary: "which is no size",
    architectures_that_are_code: "not a list of class names",
    architectures_that_are_numbers: "not a list of class names",
    architectures_that_are_no_model: "pipeline is not",
    a_deep_configuration: "nested too deeply",
    a_configuration_in_another_encoding: "is not UTF-8",
}


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
def test_what_is_refused_and_why(harm, folder, capsys):
    harm(folder)
    assert main(["preflight", "--model", str(folder)]) == 2
    told = capsys.readouterr().err
    assert HOSTILE[harm] in told
    assert len(told.splitlines()) == 1
    assert not (folder / "ran").exists()


def test_the_pickles_of_this_test_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))  # noqa: S301 - that is the test
    assert (tmp_path / "ran").is_dir()


def test_links_into_the_store_of_a_hub_cache_are_taken(saved, tmp_path):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in saved.iterdir():
        (blobs / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert load(snapshot).missing == ()


def test_a_new_head_that_no_tensor_shows_is_taken(folder):
    table = tiny_model("LlamaForCausalLM").model.embed_tokens.weight.detach().clone()
    save_file({"model.embed_tokens.weight": table}, folder / "model.safetensors", {"format": "pt"})
    assert load(folder).missing


def test_a_name_alone_is_never_opened(tmp_path):
    with pytest.raises(UsageError):
        load_causal_lm(tmp_path)
