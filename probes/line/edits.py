"""Edits of one line that would move labels or logits otherwise: slices, rolls and pads, and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Edit", "edits_of"]

#: Functions that move what they are given, and hand it on as long as it was.
MOVERS = frozenset({"pad", "roll", "cat"})
#: Methods that change the form of a tensor, behind which the tensor itself stands.
FORMS = frozenset({"view", "reshape", "flatten", "contiguous", "transpose", "float", "mT", "permute"})


@dataclass(frozen=True)
class Edit:
    """A piece of a line, from ``begin`` up to and without ``end`` (columns of its UTF-8), and what replaces it."""

    begin: int
    end: int
    text: str


def edits_of(tree: ast.AST, line: int, text: str) -> Iterator[str]:
    """The line as it would be, the most likely first; each once.

    Args:
        tree: of the source that the line is of.
        line: its number there.
        text: of the line.
    """
    nodes = [node for node in ast.walk(tree) if _is_on(node, line)]
    seen = {text}
    for edits in (*_movers(nodes, text), *_slices(nodes), *_pairs(nodes)):
        made = _applied(text, edits)
        if made not in seen:
            seen.add(made)
            yield made


def _is_on(node: ast.AST, line: int) -> bool:
    return isinstance(node, ast.expr) and node.lineno == line == node.end_lineno


def _span(node: ast.expr) -> tuple[int, int]:
    assert node.end_col_offset is not None
    return node.col_offset, node.end_col_offset


def _piece(text: str, node: ast.expr) -> str:
    begin, end = _span(node)
    return text.encode()[begin:end].decode()


def _applied(text: str, edits: Sequence[Edit]) -> str:
    raw = text.encode()
    for edit in sorted(edits, key=lambda one: -one.begin):
        raw = raw[: edit.begin] + edit.text.encode() + raw[edit.end :]
    made = raw.decode()
    return made.replace(".view(", ".reshape(") if ".view(" in made and edits else made


def _slices(nodes: Sequence[ast.AST]) -> Iterator[list[Edit]]:
    """Slices that begin later, or end earlier: by one, the other way round, or not at all."""
    front = [node for node in nodes if isinstance(node, ast.Slice) and _is_front(node)]
    back = [node for node in nodes if isinstance(node, ast.Slice) and _is_back(node)]
    if not front and not back:
        return
    yield [_put(node, "1:") for node in front] + [_put(node, ":-1") for node in back]
    yield [_put(node, ":-1") for node in front] + [_put(node, "1:") for node in back]
    yield [_put(node, ":") for node in (*front, *back)]
    for node in reversed(back):
        yield [_put(node, "1:")]
    for node in front:
        yield [_put(node, ":-1")]
    for node in (*front, *back):
        yield [_put(node, ":")]


def _is_front(node: ast.Slice) -> bool:
    return isinstance(node.lower, ast.Constant) and node.upper is None and node.step is None


def _is_back(node: ast.Slice) -> bool:
    ends = isinstance(node.upper, (ast.UnaryOp, ast.BinOp))
    return ends and node.lower is None and node.step is None


def _put(node: ast.expr, text: str) -> Edit:
    return Edit(*_span(node), text)


def _movers(nodes: Sequence[ast.AST], text: str) -> Iterator[list[Edit]]:
    """A pad, a roll or a cat, with a slice behind it: left out."""
    for node in nodes:
        inner = node.value if isinstance(node, ast.Subscript) else node
        if isinstance(inner, ast.Call) and _name(inner.func) in MOVERS and isinstance(node, ast.expr):
            base = _base(inner)
            if base is not None:
                yield [_put(node, _piece(text, base))]


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _base(call: ast.Call) -> ast.expr | None:
    """The tensor that a call moves."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "roll" and _name(call.func.value) != "torch":
        return call.func.value
    first = call.args[0] if call.args else None
    if isinstance(first, (ast.List, ast.Tuple)) and first.elts:
        first = first.elts[0]
    cut = isinstance(first, ast.Subscript) and any(isinstance(one, ast.Slice) for one in ast.walk(first.slice))
    return first.value if isinstance(first, ast.Subscript) and cut else first


def _pairs(nodes: Sequence[ast.AST]) -> Iterator[list[Edit]]:
    """The two sides of a call, one or both of them cut."""
    for node in nodes:
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        left, right = (_stripped(one) for one in node.args[:2])
        if left is None or right is None:
            continue
        for logits, labels in (("[:, :-1]", "[:, 1:]"), ("[:-1]", "[:, 1:]"), ("[:-1]", "[1:]")):
            yield [_after(left, logits), _after(right, labels)]
        for cut in ("[:, 1:]", "[1:]"):
            yield [_after(right, cut)]
        for cut in ("[:, :-1]", "[:-1]"):
            yield [_after(left, cut)]


def _stripped(node: ast.expr) -> ast.expr | None:
    """The tensor before its forms: a name, an attribute, an entry of a mapping."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FORMS:
        node = node.func.value
    return node if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)) else None


def _after(node: ast.expr, text: str) -> Edit:
    end = _span(node)[1]
    return Edit(end, end, text)
