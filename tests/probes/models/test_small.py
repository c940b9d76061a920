"""A model of a configuration alone: what stays, what is made smaller, and what is refused."""

import json
import re
from collections import UserDict
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from lm_tiny import OLD, tiny_config
from torch import nn

from probes import CannotRunError, UsageError, check_loss, small_model
from probes.models.shrink import shrink
from probes.models.small import small_like, smallest

PUBLISHED = Path(__file__).parents[3] / "fixtures" / "configurations"
BIG = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 40, "num_attention_heads": 32}
#: What a configuration may say of sizes and layers; all else decides what is trained.
SIZES = ("hidden", "intermediate", "layer", "heads", "expert", "group", "rank", "first_k", "window", "d_model", "ffn")


def llama(**given):
    return transformers.LlamaConfig(vocab_size=96, num_key_value_heads=8, **BIG, **given)


def batch(vocab=96):
    ids = torch.randperm(vocab - 20, generator=torch.Generator().manual_seed(0))[:40].reshape(2, 20) + 20
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def parameters(model):
    return sum(one.numel() for one in model.parameters())


# -- configurations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(PUBLISHED.glob("*/config.json"))])
def test_of_a_published_configuration_sizes_are_made_smaller_and_nothing_else(name):
    config = json.loads((PUBLISHED / name / "config.json").read_text(encoding="utf-8"))
    small = shrink(config)
    assert small.changed
    assert [key for key in small.changed if not any(size in key for size in SIZES)] == []
    assert small.config["model_type"] == config["model_type"]
    text, before = (one.get("text_config", one) for one in (small.config, config))
    heads = text["num_attention_heads"]
    assert (heads, text["num_hidden_layers"]) == (1, 2)
    if before["hidden_size"] % before["num_attention_heads"] == 0:  # a head is as wide as it was
        assert text["hidden_size"] == before["hidden_size"] // before["num_attention_heads"]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"layer_types": ["s"] * 5 + ["f"] + ["s"] * 4}, {"layer_types": ["s", "f"]}),
        ({"first_k_dense_replace": 3}, {"first_k_dense_replace": 1}),
        ({"block_types": ["r", "r", "a"]}, {"block_types": ["r", "a"]}),
        ({"moe_layers": [1, 3, 5, 7, 9]}, {"moe_layers": [1]}),
        ({"per_layer_config": {"4": {"w": 2}}}, {"per_layer_config": {1: {"w": 2}}}),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, {"attn_layer_period": 2, "attn_layer_offset": 1}),
    ],
    ids=["a word each", "the first", "again and again", "by number", "a table", "a period"],
)
def test_one_layer_of_each_kind_stays(said, left):
    small = shrink({"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 10, **said}).config
    assert {key: small[key] for key in left} == left
    assert small["num_hidden_layers"] == 2


def test_two_layers_of_each_kind_stay_where_one_of_each_is_too_few():
    given = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 10}
    assert shrink({**given, "layer_types": ["s"] * 5 + ["f"] * 5}, alike=2).config["layer_types"] == [
        "s",
        "s",
        "f",
        "f",
    ]


def test_what_is_equal_in_two_parts_stays_equal_and_parts_of_their_own_width_are_divided_by_themselves():
    parts = {
        "text_config": {"hidden_size": 3584, "num_attention_heads": 28, "num_hidden_layers": 28},
        "vision_config": {"embed_dim": 1280, "num_heads": 16, "depth": 32, "out_hidden_size": 3584, "patch_size": 14},
        "projector_hidden_size": 3584,
    }
    small = shrink(parts).config
    text, vision = small["text_config"], small["vision_config"]
    assert text["hidden_size"] == vision["out_hidden_size"] == small["projector_hidden_size"] == 128
    assert (vision["embed_dim"], vision["num_heads"], vision["depth"], vision["patch_size"]) == (80, 1, 2, 14)


def test_experts_stay_few_of_their_groups_one_and_an_index_of_tokens_as_wide_as_it_was():
    given = {"hidden_size": 512, "num_attention_heads": 8, "n_routed_experts": 256, "num_experts_per_tok": 8}
    small = shrink({**given, "n_group": 8, "topk_group": 4, "index_topk": 2048, "index_n_heads": 64}).config
    assert [small[key] for key in ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group")] == [4, 2, 1, 1]
    assert (small["index_topk"], small["index_n_heads"]) == (2048, 64)


#: What a loss or a batch may see of a configuration, whatever its class.
SEEN = re.compile(r"vocab|token_id|position_embedding|max_position|^image_size|mel_bins|softcap|soft_cap|_multiplier$")


def seen_of(kinds):
    """What is made smaller of default configurations though it is seen."""
    changed, tried = [], 0
    for kind in kinds:
        try:
            config = transformers.CONFIG_MAPPING[kind]().to_dict()
        except Exception:  # noqa: BLE001, S112 - it has no default, or this version none of its name
            continue
        tried += 1
        changed += [(kind, name) for name in shrink(config).changed if SEEN.search(name.rpartition(".")[2])]
    return changed, tried


def test_a_vocabulary_an_id_a_position_or_a_cap_is_not_made_smaller():
    assert seen_of(["llama", "gemma2", "gemma3n_text", "gemma4", "whisper", "rembert"])[0] == []


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")
def test_of_no_default_configuration_a_vocabulary_an_id_a_position_or_a_cap_is_made_smaller():
    changed, tried = seen_of(transformers.CONFIG_MAPPING)
    assert changed == []
    assert tried > 200


@pytest.mark.parametrize(
    ("part", "left"),
    [
        ({"input_dim": 160}, 160),
        ({"feature_projection_input_dim": 160}, 160),
        ({"input_size": 80}, 80),
        ({"input_size": 512}, 64),
        ({"intermediate_size": [2048] * 10}, [256, 256]),
        ({"moe_topk": [8] * 10}, [2, 2]),
    ],
    ids=["of features", "of projected ones", "of mels", "of another part", "a list by layers", "experts by layers"],
)
def test_what_the_data_has_stays_and_a_list_by_layers_is_made_shorter_and_narrower(part, left):
    small = shrink({"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 10, **part}).config
    assert small[next(iter(part))] == left


def test_a_part_that_calls_what_it_gives_its_hidden_size_is_divided_by_its_own_width():
    parts = {
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "vision_config": {"embed_dim": 1280, "hidden_size": 3584, "num_heads": 16},
    }
    small = shrink(parts).config
    assert (small["hidden_size"], small["num_attention_heads"]) == (128, 1)
    assert small["vision_config"] == {"embed_dim": 80, "hidden_size": 128, "num_heads": 1}


def test_fewer_experts_take_more_rows_each_so_that_as_few_are_dropped():
    given = {"hidden_size": 512, "num_attention_heads": 8, "num_experts": 128, "expert_capacity": 64}
    small = shrink(given).config
    assert (small["num_experts"], small["expert_capacity"]) == (4, 2048)
    assert shrink({**given, "num_experts": 4}).config["expert_capacity"] == 64


# -- models ---------------------------------------------------------------------------------------------


def test_a_small_model_is_of_its_class_with_its_vocabulary_ids_tying_and_caps():
    config = transformers.Gemma2Config(
        vocab_size=320, hidden_size=2304, num_attention_heads=8, head_dim=256, num_key_value_heads=4, pad_token_id=7
    )
    model = small_model(config)
    own = model.config
    assert type(model) is transformers.Gemma2ForCausalLM
    assert (own.vocab_size, own.pad_token_id, own.final_logit_softcapping, own.attn_logit_softcapping) == (
        (320, 7, config.final_logit_softcapping, config.attn_logit_softcapping)
    )
    assert (own.head_dim, own.sliding_window) == (256, config.sliding_window)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert parameters(model) < 1e7
    assert model.training


def test_a_small_model_is_judged_as_its_like_and_leaves_the_random_state():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = small_model(llama())
    assert torch.equal(torch.get_rng_state(), before)
    assert check_loss(model, batch(), lambda m, b: m(**b).loss, replay=False).verdict == "pass"

    def twice(m, b):
        logits = m(**{**b, "labels": None}).logits
        return nn.functional.cross_entropy(logits[:, :-2].flatten(0, 1), b["labels"][:, 2:].flatten())

    assert "LA103" in {one.code for one in check_loss(model, batch(), twice, replay=False).findings}


def further(model, batch, far):
    rows = model(input_ids=batch["input_ids"]).logits
    return nn.functional.cross_entropy(rows[:, : rows.shape[1] - far].flatten(0, 1), batch["labels"][:, far:].flatten())


FAULTS = {
    "right": lambda m, b: further(m, b, 1),
    "copy": lambda m, b: further(m, b, 0),
    "one sample": lambda m, b: further(m, {key: value[:1] for key, value in b.items()}, 1),
    "other mask": lambda m, b: further(m, {**b, "labels": b["labels"].masked_fill(b["labels"] < 40, -100)}, 1),
}


def test_what_is_found_on_the_whole_model_is_found_on_the_small_one():
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = transformers.Gemma2Config(vocab_size=96, head_dim=16, num_key_value_heads=4, sliding_window=8, **sizes)
    whole, small = transformers.AutoModelForCausalLM.from_config(config).train(), small_model(config)
    assert parameters(small) < parameters(whole) / 4
    codes = {}
    for name, loss in FAULTS.items():
        found = [check_loss(one, batch(), loss, replay=False).findings for one in (whole, small)]
        assert [(one.code, one.count) for one in found[0]] == [(one.code, one.count) for one in found[1]], name
        codes[name] = [one.code for one in found[0]]
    assert codes["right"] == []
    assert all(codes[name] for name in FAULTS if name != "right")


def test_a_configuration_may_be_an_object_a_mapping_or_a_folder(tmp_path):
    llama().save_pretrained(tmp_path)
    made = [small_model(one) for one in (llama(), llama().to_dict(), tmp_path, str(tmp_path / "config.json"))]
    assert {parameters(one) for one in made} == {parameters(made[0])}
    assert torch.equal(made[0].lm_head.weight, made[3].lm_head.weight)
    assert not torch.equal(made[0].lm_head.weight, small_model(llama(), seed=1).lm_head.weight)


def test_what_was_made_smaller_is_said_and_what_is_about_weights_left_out():
    config = {**llama().to_dict(), "quantization_config": {"quant_method": "fp8"}}
    small = smallest(config)
    assert [name for name in small.changed if f"{name} " not in small.notes[0]] == []
    assert "hidden_size 4096 -> 128" in small.notes[0]
    assert "LlamaForCausalLM of its configuration alone" in small.notes[0]
    assert "overflow" in small.notes[1]
    assert getattr(small.model.config, "quantization_config", None) is None


@pytest.mark.skipif(OLD, reason="transformers 4.46 has configurations of parts that it cannot write")
def test_a_class_that_takes_no_single_head_is_given_as_few_as_it_takes():
    model = small_model(transformers.CodeGenConfig(vocab_size=320, n_embd=512, n_head=16, rotary_dim=16, n_layer=6))
    assert (model.config.n_head, model.config.n_layer) == (4, 2)


@pytest.mark.skipif(OLD, reason="transformers 4.46 has no such class")
def test_heads_whose_width_is_written_down_may_be_fewer_than_rows_are_divided_by():
    sizes = {"hidden_size": 5120, "num_attention_heads": 20, "num_key_value_heads": 4, "head_dim": 128}
    mamba = {"mamba_d_ssm": 8192, "mamba_n_heads": 64, "mamba_d_head": 128, "mamba_n_groups": 2}
    model = small_model(transformers.FalconH1Config(vocab_size=261120, num_hidden_layers=72, **sizes, **mamba))
    assert (model.config.hidden_size, model.config.num_attention_heads, model.config.mamba_n_heads) == (80, 1, 1)


@pytest.mark.parametrize(
    ("kind", "named", "made"),
    [
        ("mpt", "MPTForCausalLM", "MptForCausalLM"),
        ("llama", "LlamaForCausalLM", "LlamaForCausalLM"),
        ("llama", ["LlamaForCausalLM"], "LlamaForCausalLM"),
        ("llama", None, "LlamaForCausalLM"),
    ],
)
def test_a_class_is_found_by_its_name_whichever_letters_are_large(kind, named, made):
    model = small_model({"model_type": kind, "architectures": named if kind == "llama" else [named], "vocab_size": 96})
    assert type(model).__name__ == made


def test_a_class_without_rows_that_belong_to_tokens_is_refused_with_that_reason():
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    model = small_model(transformers.HubertConfig(architectures=["HubertForCTC"], vocab_size=32, **sizes))
    with pytest.raises(UsageError, match="trained by CTC"):
        check_loss(model, batch(), lambda m, b: m(**b).loss)


# -- classes of one's own -------------------------------------------------------------------------------


@dataclass
class Sizes:
    vocab_size: int = 96
    n_layer: int = 60
    n_head: int = 96
    n_embd: int = 12288
    least: int = 0


class Own(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.n_embd < config.least:
            raise ValueError(f"n_embd {config.n_embd} is too small")
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(nn.Linear(config.n_embd, config.n_embd) for _ in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, ids):
        rows = self.table(ids)
        for block in self.blocks:
            rows = block(rows)
        return self.head(rows)


def test_a_module_of_ones_own_is_made_small_by_its_own_configuration_and_never_made_whole():
    small = small_like(lambda: Own(Sizes()))  # 9 billion weights
    assert (small.model.config.n_embd, len(small.model.blocks), small.model.config.vocab_size) == (128, 2, 96)
    assert small.model.table.weight.device.type == "cpu"


class Read(Own):
    """Reads its sizes by key, and keeps what it was given."""

    def __init__(self, config):
        super().__init__(SimpleNamespace(**config))
        self.config = config


class Keyed(dict):
    """Read by attributes too, of which one that is not there is a KeyError."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (Own, SimpleNamespace(**asdict(Sizes()))),
        (Read, asdict(Sizes())),
        (Read, UserDict(asdict(Sizes()))),
        (Own, Keyed(asdict(Sizes()))),
    ],
    ids=["attributes", "a dict", "a mapping", "a mapping of attributes"],
)
def test_a_configuration_of_ones_own_may_be_an_object_or_a_mapping_and_stays_as_it_was(model_class, config):
    before = str(config)
    small = small_like(lambda: model_class(config))
    assert (len(small.model.blocks), small.model.table.embedding_dim) == (2, 128)
    assert type(small.model.config) is type(config)
    assert str(config) == before


@pytest.mark.parametrize(("ahead", "passes"), [(1, True), (0, False)], ids=["shifted", "a copy"])
def test_a_model_whose_configuration_raises_for_what_it_has_not_is_judged(ahead, passes):
    def loss(model, batch):
        rows = model(batch["input_ids"])[:, : 24 - ahead]
        return nn.functional.cross_entropy(rows.flatten(0, 1), batch["labels"][:, ahead:].flatten())

    model = Own(Keyed(asdict(Sizes(n_layer=1, n_embd=16))))
    ids = torch.randperm(96, generator=torch.Generator().manual_seed(0))[:48].reshape(2, 24)
    report = check_loss(model, {"input_ids": ids, "labels": ids.clone()}, loss, replay=False)
    assert (report.verdict == "pass") is passes


def test_a_class_whose_package_is_not_installed_is_told_apart_from_one_that_accepts_no_small_body():
    def unplanned(config):
        raise ModuleNotFoundError("No module named 'planner'")

    with pytest.raises(CannotRunError, match=r"unplanned cannot be made here \(No module named 'planner'\): install"):
        smallest(llama(), model_class=unplanned)


def test_every_name_of_a_size_in_the_documentation_is_made_smaller():
    text = (Path(__file__).parents[3] / "docs" / "small-model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (depth|attention heads|width|width inside a block|experts) \| (.*) \|$", text, re.MULTILINE)
    named = [name for _, cell in rows for name in re.findall(r"`(\w+)(?:\(s\))?`", cell)]
    assert (len(rows), len(named) > 40) == (5, True)
    body = {"hidden_size": 4096, "num_attention_heads": 32}
    assert [name for name in named if shrink({**body, name: 64 * 32}).config[name] == 64 * 32] == []


def test_a_class_that_accepts_no_small_body_is_refused_with_its_reason():
    with pytest.raises(UsageError, match=r"Own accepts no small body \(n_embd 256 is too small; made smaller: "):
        smallest(Sizes(n_embd=24576, least=4096), model_class=Own)


class Twofold(Own):
    """Takes more than its configuration."""

    def __init__(self, config, ends):
        super().__init__(config)
        self.ends = ends


def test_a_class_that_takes_more_than_its_configuration_is_told_so():
    told = (
        r"Twofold cannot be made of its configuration, small or whole \(TypeError: .*'ends'\): let the class take it as"
    )
    with pytest.raises(UsageError, match=told):
        small_like(lambda: Twofold(Sizes(), 3))


@dataclass
class Halved(Sizes):
    """With heads of a name that nobody knows."""

    slots: int = 96


class Slots(Own):
    """Parts its rows among its heads, and runs where tensors have no storage too."""

    def forward(self, ids):
        rows = self.table(ids) + torch.zeros(ids.shape[1], 1)
        return self.head(rows.view(*ids.shape, self.config.slots, -1).flatten(2))


class OfBatch(Slots):
    """Takes a batch, which nobody knows without one."""

    def forward(self, batch):
        return super().forward(batch["ids"])


def test_a_module_of_which_a_size_has_an_unknown_name_is_refused_with_what_was_made_smaller_and_what_was_left():
    told = (
        r"made smaller: n_layer 60 -> 2, n_head 96 -> 1, n_embd 24576 -> 256; left as they are: vocab_size 96, slots 96"
    )
    with pytest.raises(UsageError, match=rf"Slots accepts no small body \(shape .* is invalid .*; {told}\)"):
        smallest(Halved(n_embd=24576), model_class=Slots)


def test_a_module_of_which_the_heads_have_an_unknown_name_stays_as_wide_where_that_is_small():
    assert set(smallest(Halved(n_embd=192), model_class=Slots).changed) == {"n_layer"}
    assert set(smallest(Halved(n_embd=192, slots=2), model_class=Slots).changed) == {"n_layer", "n_head", "n_embd"}


def test_a_module_that_takes_no_ids_alone_is_made_small_untried():
    assert "n_embd" in smallest(Halved(n_embd=24576), model_class=OfBatch).changed


@pytest.mark.parametrize(
    "names", [("layers", "heads", "width"), ("num_blocks", "nheads", "model_dim"), ("nlayers", "attn_heads", "n_embed")]
)
def test_what_people_call_depth_heads_and_width_is_made_smaller_and_positions_are_not(names):
    depth, heads, width = names
    given = {"vocab_size": 960, "block_size": 960, depth: 96, heads: 96, width: 12288}
    assert shrink(given).config == {"vocab_size": 960, "block_size": 960, depth: 2, heads: 1, width: 128}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model_type": "nowhere"}, "no such model"),
        ({"model_type": "llama", "architectures": ["LlamaForNothing"]}, "LlamaForNothing is not in transformers"),
        ({"model_type": "llama", "hidden_size": "wide"}, "no LlamaConfig can be made of the configuration"),
        ("nowhere", "no configuration there"),
        (7, "is no configuration"),
        (transformers.CLIPVisionConfig(), "names no class with a head over ids"),
    ],
    ids=["unknown", "no class", "no number", "no folder", "no configuration", "no head"],
)
def test_what_is_no_configuration_of_a_model_with_heads_is_refused(given, told):
    with pytest.raises(UsageError, match=told):
        small_model(given)


@pytest.mark.parametrize(
    "make", [lambda: Own(Sizes()).to("cpu"), lambda: Own(Sizes()).head.weight.sum().item()], ids=["moved", "read"]
)
def test_a_function_that_needs_the_weights_is_told_to_make_the_model_alone(make):
    with pytest.raises(UsageError, match=r"let it do no more than make it \(.*meta tensor"):
        small_like(make)


def test_a_module_without_a_configuration_is_refused():
    with pytest.raises(UsageError, match="none: Linear has no configuration"):
        small_like(lambda: nn.Linear(2, 2))
    with pytest.raises(UsageError, match="returned int, and no torch module"):
        small_like(lambda: 3)


class Short(Own):
    """Keeps what it was given under a shorter name."""

    def __init__(self, config):
        super().__init__(config)
        self.cfg = self.config
        del self.config


def test_a_configuration_may_be_kept_as_cfg():
    assert small_like(lambda: Short(Sizes())).changed["n_layer"] == (60, 2)


# -- every class ----------------------------------------------------------------------------------------

#: Classes that are refused beside those of which the tests make no model, and why: docs/small-model.md lists them.
REFUSED = {"DbrxForCausalLM": "transformers 4.46 cannot read the configuration that it writes of it"} if OLD else {}


def whole_configuration(model_class):
    """The class's own default; the jury's where a class cannot be made of its default."""
    try:
        config = model_class.config_class()
        with torch.device("meta"):
            model_class(config)
    except NotImplementedError:
        return config
    except Exception:  # noqa: BLE001 - the class's own
        return tiny_config(model_class.config_class)
    return config


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore")
def test_all_classes_of_the_jury_but_those_that_are_listed_are_made_small_of_their_configurations():
    from jury import every_class
    from lm_zoo import NOT_RUN

    refused = {}
    for name in every_class():
        model_class = getattr(transformers, name)
        try:
            small_model(whole_configuration(model_class), model_class=model_class)
        except Exception as error:  # noqa: BLE001 - one in hundreds
            refused[name] = str(error)[:200]
    unlisted = {name: why for name, why in refused.items() if name not in REFUSED and name not in NOT_RUN}
    assert unlisted == {}
    assert len(refused) <= 0.05 * len(every_class())
