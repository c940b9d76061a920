"""A configuration made small: its body narrower and flatter, whatever decides what is trained left as it is.

Every width is divided by one number, by which few heads are left: what has to fit together still does, and a head is
as wide as before, so that rotary sections, scales and masks keep their numbers. Of layers one of each kind stays, of
experts a few. Nothing else is touched: vocabularies, special ids, codebooks, tying, caps, patches, windows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .kept_layers import DEPTH, Kept, kept_layers, sampled

__all__ = ["Shrunk", "shrink"]

#: What a configuration calls the width of its rows; the first that is there counts.
WIDTH = (
    *("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "emb_dim", "embedding_dim", "hidden_dim"),
    *("width", "model_dim", "dim_model", "n_embed", "embed_size", "emb_size"),
)
#: Other widths of a body.
WIDTHS = re.compile(
    r"(hidden_size|intermediate_size|ffn_dim|d_model|n_embd|n_inner|d_ff|dff|dim_ff|d_inner|embed_dim|embedding_size"
    r"|hidden_dim|mlp_dim|ffn_hidden_size|feed_forward_size|lora_rank|projection_dim|proj_dim|intermediate_size_mlp"
    r"|lru_width|mamba_d_ssm|output_size|expert_dim|(?<!vocab_size_)per_layer_input|(?<!speaker_)embedding_dim|emb_dim"
    r"|projector_input_dim|output_dim|in_dim|out_dim|vision_dim|d_embed|dim_feedforward|ff_dim|d_mlp|mlp_size)$"
)
#: Tables of positions and sizes of images, which end as a width does.
PLACES = re.compile(r"(position|image)_embedding_size$")
#: Of what is read: the width of another part, or of the data, which stays.
READ = re.compile(r"(?<!projector_)input_(size|dim)$")
#: Heads, and the groups in which they share something: these may stay one.
HEADS = re.compile(
    r"^(?!index).*?(^|_)(n_heads?|num_heads|attention_heads|num_value_heads|num_key_heads|n_mamba_heads|attn_heads)$"
    r"|^(nheads?|heads)$"
)
#: Those that ``head_dim`` is the width of.
ATTENTION = ("num_attention_heads",)
SHARED = re.compile(r"(^|_)(key_value_heads|kv_heads|kv_n_heads|query_groups|n_groups|ngroups)$")
#: As many as there are channels: a convolution of each by itself.
CHANNELS = re.compile(r"^upsample_groups$")
#: Layers that come first, every how many another kind comes, and from where; layers of another part, by number.
LEADING = re.compile(r"(first_k_dense_replace|num_dense_layers|max_window_layers)$")
BORROWING = re.compile(r"num_kv_shared_layers$")
PERIOD = re.compile(r"(layer_period|_interval|sliding_window_pattern|sparse_step|_layer_step)$")
OFFSET = re.compile(r"layer_offset$")
FEATURES = re.compile(r"feature_layers?$")
#: Experts, how many a row is sent to, and the groups they come in.
EXPERTS = re.compile(r"(num_experts|local_experts|routed_experts|n_experts)$")
CHOSEN = re.compile(r"(experts_per_tok(en)?|moe_topk?|moe_top_k|moe_k|top_k_experts|num_selected_experts)$")
GROUPS = re.compile(r"(^|_)(n_group|topk_group|expert_groups?)$")
#: How many rows an expert takes: of fewer experts each is sent more.
CAPACITY = re.compile(r"^expert_capacity$")
#: Parts of a configuration that are configurations themselves.
PART = re.compile(r"(config|encoder|decoder)$")

MOST_EXPERTS, MOST_CHOSEN = 4, 2
#: What becomes of numbers, by their names; the first that fits counts.
Rules = Sequence[tuple[re.Pattern[str], Callable[[int], int]]]
#: No free width is made smaller, and each is a multiple of it: kernels of experts read so many at once.
NARROWEST = 8
#: Rows of a body without heads are made this wide.
HEADLESS = 64


@dataclass
class Shrunk:
    """A configuration made small, and what was changed: before and after, by dotted name."""

    config: dict[str, Any]
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass
class _Section:
    """A configuration, or one inside it: where it stands, its values, its widths, and what those are divided by.

    ``fewer`` is what the number of its experts is divided by.
    """

    path: str
    values: dict[str, Any]
    widths: list[int]
    factor: int = 1
    fewer: int = 1

    @property
    def width(self) -> int:
        """Of its rows; of the first of several stages. 0 where it names none."""
        return self.widths[0] if self.widths else 0


def shrink(
    config: Mapping[str, Any],
    *,
    heads: int = 1,
    alike: int = 1,
    flat: bool = True,
    apart: bool = False,
    narrow: bool = True,
) -> Shrunk:
    """A small copy of a configuration, written as the mapping that its file holds.

    Args:
        config: of a whole model, with the configurations of its parts inside it.
        heads: how many heads are left where their number allows it.
        alike: how many layers of each kind are left, where there are several kinds.
        flat: whether layers are left out too.
        apart: whether heads whose own width is written down may be fewer than rows are divided by.
        narrow: whether widths and heads are made smaller; experts are in any case.
    """
    out = Shrunk(_copy(config))
    sections = list(_sections(out.config, ""))
    _settle(sections, heads, apart=apart)
    if not narrow:
        for one in sections:
            one.factor = 1
    narrowed = {one.width: one.width // one.factor for one in sections if one.width}
    for one in sections:
        kept = _kept(one, sections, alike)
        for name, value in list(one.values.items()):
            fresh = _flatter(name, value, kept) if flat else None
            fresh = _narrower(name, value if fresh is None else fresh, one, narrowed)
            if fresh != value:
                one.values[name] = fresh
                out.changed[f"{one.path}{name}"] = (value, fresh)
    return out


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(one) for key, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, (list, tuple)) else value


def _sections(values: dict[str, Any], path: str) -> Iterator[_Section]:
    """A configuration and those inside it."""
    yield _Section(path, values, next((sizes for name in WIDTH if (sizes := _sizes(values.get(name)))), []))
    for name, value in values.items():
        if isinstance(value, dict) and PART.search(name):
            yield from _sections(value, f"{path}{name}.")


def _kept(section: _Section, sections: Sequence[_Section], alike: int) -> Kept:
    """The layers of it that stay; one that counts none may say something of those of its parts."""
    inside = [kept_layers(one.values, alike) for one in sections if one.path.startswith(section.path)]
    return inside[0] or {depth: layers for one in reversed(inside) for depth, layers in one.items()}


def _settle(sections: Sequence[_Section], heads: int, *, apart: bool) -> None:
    """Find what each is divided by: the same for all of one width, so that what is equal stays equal."""
    common: dict[int, int] = {}
    for one in sections:
        one.widths = _inside(one, sections) or one.widths
        free = ATTENTION if apart and _sizes(one.values.get("head_dim")) else ()
        names = [name for name in one.values if HEADS.search(name) and name not in free]
        counts = [size for name in names for size in _sizes(one.values[name])]
        if counts and one.width:
            common[one.width] = math.gcd(common.get(one.width, 0), *counts, *one.widths)
    for one in sections:
        if one.width in common:
            one.factor = _divisor(common[one.width], one.width, heads)
        elif one.width:
            one.factor = next((d for d in range(one.width // HEADLESS, 0, -1) if one.width % d == 0), 1)
        else:  # what names no width divides by what its parts divide by
            one.factor = max((_divisor(whole, width, heads) for width, whole in common.items()), default=1)
        experts = [size for name, value in one.values.items() if EXPERTS.search(name) for size in _sizes(value)]
        one.fewer = max(max(experts, default=1) // MOST_EXPERTS, 1)


def _inside(section: _Section, sections: Sequence[_Section]) -> list[int]:
    """The width of a part that calls that of what it gives its hidden size; none where it does not."""
    own = _sizes(section.values.get("embed_dim"))
    given = any(one.widths == section.widths for one in sections if one is not section)
    return own if given and _sizes([section.values.get("num_heads")]) else []


def _divisor(common: int, width: int, heads: int) -> int:
    """The largest that leaves so many heads or more, and rows that kernels can read."""
    fit = [d for d in range(common, 0, -1) if common % d == 0 and common // d >= min(heads, common)]
    return next((d for d in fit if width // d % NARROWEST == 0), fit[0])


def _flatter(name: str, value: Any, kept: Kept) -> Any:
    """What counts, lists or names layers, for those that stay; None where it is about no layers."""
    if FEATURES.search(name):
        return _each(value, lambda number: max(min(number, 1), -2), _whole(value))
    rules: Rules = (
        (DEPTH, lambda size: len(kept[size]) if size in kept else 1),
        (LEADING, lambda size: min(size, 1)),
        (BORROWING, lambda _: 0),
        (PERIOD, lambda size: min(size, 2)),
        (OFFSET, lambda size: min(size, 1)),
    )
    rule = _rule(name, rules)
    return sampled(name, value, kept) if rule is None else _each(value, rule, _sizes(value))


def _narrower(name: str, value: Any, at: _Section, narrowed: Mapping[int, int]) -> Any:
    """What a width or a count of heads or experts, or a list of them, becomes; anything else stays."""
    rules: Rules = (
        (EXPERTS, lambda size: min(size, MOST_EXPERTS)),
        (CHOSEN, lambda size: min(size, MOST_CHOSEN)),
        (GROUPS, lambda _: 1),
        (CAPACITY, lambda size: size * at.fewer),
        (HEADS, lambda size: max(size // at.factor, 1)),
        (SHARED, lambda size: max(size // at.factor, 1)),
        (CHANNELS, lambda size: narrowed.get(size, size)),
        (PLACES, lambda size: size),
        (READ, lambda size: narrowed.get(size, size)),
    )
    rule = _rule(name, rules)
    if rule is None and (WIDTHS.search(name) or name in WIDTH):
        rule = lambda size: narrowed.get(size) or min(size, _rounded(size / at.factor))  # noqa: E731
    return value if rule is None else _each(value, rule, _sizes(value))


def _rule(name: str, rules: Rules) -> Callable[[int], int] | None:
    return next((rule for pattern, rule in rules if pattern.search(name)), None)


def _each(value: Any, rule: Callable[[int], int], numbers: Sequence[int]) -> Any:
    """A number, or every number of a list, by a rule; as it is where it holds anything else."""
    if not numbers:
        return value
    return [rule(one) for one in numbers] if isinstance(value, list) else rule(numbers[0])


def _rounded(size: float) -> int:
    return max(math.ceil(size / NARROWEST), 1) * NARROWEST


def _sizes(value: Any) -> list[int]:
    """A positive whole number, or those that a list holds and nothing else."""
    whole = _whole(value)
    return whole if all(one > 0 for one in whole) else []


def _whole(value: Any) -> list[int]:
    """A whole number, or those that a list holds and nothing else."""
    several = value if isinstance(value, list) else [value]
    return several if all(type(one) is int for one in several) else []
