"""What the finder says: streams with their evidence, what is also trained, and what it will not guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..models.declaration import Declaration
from ..models.streams_file import streams_toml

__all__ = ["Discovery", "Found", "Unclear", "shaped"]


def shaped(path: str, shape: Sequence[int]) -> str:
    """A tensor as messages name it: ``heads.2 (2, 20, 64)``."""
    return f"{path} ({', '.join(map(str, shape))})"


@dataclass(frozen=True)
class Found:
    """A stream that was found.

    Attributes:
        declaration: as a streams file holds it.
        shape: of its logits.
        vocab: how many ids they score.
        rows: how many of its rows are trained.
        offset: source less row in its own input; None where rows have no place of their own, or read all positions.
        moved: by each renaming, the share of its trained rows whose target changed.
        lag: how many rows later than it stands a token is read.
        computed: whether its inputs are made inside the model, out of what ``ids`` names.
        taken: where its targets stand, if that is another codebook than its head is for.
    """

    declaration: Declaration
    shape: tuple[int, ...]
    vocab: int
    rows: int
    offset: int | None
    moved: Mapping[str, float]
    computed: bool = False
    lag: int = 0
    taken: str = ""

    @property
    def name(self) -> str:
        """Of the stream."""
        return self.declaration.name

    @property
    def head(self) -> str:
        """Path and shape of what made its logits."""
        return shaped(" ".join(map(str, self.declaration.head)), self.shape)

    @property
    def evidence(self) -> tuple[str, ...]:
        """Lines that say what it was found by."""
        offset = "rows without a place" if self.offset is None else f"offset {self.offset:+d}".replace("+0", "0")
        followed = ", ".join(f"{name} {share:.0%}" for name, share in self.moved.items() if share > 0)
        still = ", ".join(name for name, share in self.moved.items() if not share)
        lines = [
            f"found: {self.rows} trained rows, {offset}, logits {list(self.shape)} over {self.vocab} ids",
            f"its targets follow {followed or 'nothing'}" + (f", and not {still}" if still else ""),
        ]
        if not followed and self.declaration.objective == "masked":
            lines.append(f"its rows are those at which {self.declaration.ids} is masked, and no others")
        if self.taken:
            lines.append(f"its targets are those of {self.taken}, another codebook than its head is for")
        if self.computed:
            lines.append(f"its inputs are made inside the model, out of {self.declaration.ids}")
        return tuple(lines)


@dataclass(frozen=True)
class Unclear:
    """Logits over tokens, by all that was seen, of which something is not known: never guessed.

    Attributes:
        head: path of what made them.
        shape: of the tensor.
        reason: what is not known.
        rows: how many of its rows are trained.
        reads: places of the batch that it reads, one of which its ids may be.
    """

    head: str
    shape: tuple[int, ...]
    reason: str
    rows: int = 0
    reads: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{shaped(self.head, self.shape)}: {self.reason}"

    @property
    def draft(self) -> tuple[str, ...]:
        """Lines of a streams file that declare it, once it is known which of what it reads are its ids."""
        others = f"  # or {', '.join(self.reads[1:])}" if len(self.reads) > 1 else ""
        ids = f'ids = "{self.reads[0]}"{others}' if self.reads else 'ids = "..."  # a key of the batch'
        return (f'["{self.head}"]  # or audio[0], audio[1] ... for codebooks', f'head = "{self.head}"', ids)


@dataclass(frozen=True)
class Discovery:
    """All that a loss trains, as far as the finder could tell.

    Attributes:
        found: the streams.
        unclear: what may be one.
        notes: what is also trained and no stream; what could not be renamed.
    """

    found: tuple[Found, ...] = ()
    unclear: tuple[Unclear, ...] = ()
    notes: tuple[str, ...] = ()
    loss: float = field(default=float("nan"), compare=False)

    @property
    def declarations(self) -> tuple[Declaration, ...]:
        """The streams as a file holds them."""
        return tuple(one.declaration for one in self.found)

    def toml(self) -> str:
        """The streams as a file for ``--streams``, the evidence and all else that was seen as comments."""
        streams = streams_toml(self.declarations, [one.evidence for one in self.found]) if self.found else ""
        rest = []
        for one in self.unclear:
            rest += [f"# not clear, so not written: {one}", *(f"#   {line}" for line in one.draft)]
        rest += [f"# {note}" for note in self.notes]
        return streams + "".join(f"{'' if not streams or n else chr(10)}{line}\n" for n, line in enumerate(rest))
