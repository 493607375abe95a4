"""The very source of the kernels in plain Python, with every integer that arithmetic makes watched."""

from __future__ import annotations

import ast
from array import array
from collections.abc import Container, Iterable
from typing import Any

from tinyreptile import plan as fields
from tinyreptile.model import Model

from ..environment import PACKAGE


class OverflowInt32(Exception):
    pass


class OutOfPlace(Exception):
    pass


def watch(value: int) -> int:
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return value
    raise OverflowInt32(value)


class Watch(ast.NodeTransformer):
    """Wraps every integer that arithmetic makes in a call of `watch`."""

    PRODUCERS = (ast.Add, ast.Sub, ast.Mult, ast.LShift)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, self.PRODUCERS):
            return node
        return ast.Call(ast.Name("watch", ast.Load()), [node], [])

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        assert isinstance(node.target, ast.Name)
        sum_of = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return ast.Assign([node.target], self.visit(sum_of))


def watched(*modules: str) -> dict[str, Any]:
    """The names of ``modules`` together, whose functions raise `OverflowInt32` where a board's registers would."""
    names: dict[str, Any] = {"watch": watch}
    names.update(dict.fromkeys(("const", "ptr16", "ptr32"), lambda value: value))
    for module in modules:
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        tree.body = [node for node in tree.body if not isinstance(node, (ast.ImportFrom, ast.If))]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
                node.returns = None
                for argument in node.args.args:
                    argument.annotation = None
        tree = ast.fix_missing_locations(Watch().visit(tree))
        exec(compile(tree, f"{module}.py, watched", "exec"), names)
    return names


# Of both formats: 8-bit weights come in other cells, that is all.
KERNELS = watched("loops", "taps", "kernels", "convolutions")
WIRE = watched("wire", "sparse")
NOISE = watched("noise")


def cells(values: Iterable[int], code: str = "H") -> array[int]:
    """Unsigned cells of 16 bits, or of 8 with code B; what does not fit when it is stored raises OverflowError."""
    mask = 0xFF if code == "B" else 0xFFFF
    return array(code, [value & mask for value in values])


def weight_cells(model: Model, values: Iterable[int]) -> array[int]:
    return cells(values, "B" if model.weights == "int8" else "H")


class Guarded:
    """Cells from ``first`` on that may be read below ``end`` and written from ``written`` to ``written_end`` only."""

    def __init__(self, values: array[int], first: int, end: int, written: int = 0, written_end: int = 0) -> None:
        self.values = values
        self.read = range(first, end)
        self.write: Container[int] = range(written, written_end)
        self.highest = -1

    def __getitem__(self, at: int) -> int:
        if at not in self.read:
            raise OutOfPlace(f"{at} is read, allowed are {self.read}")
        return self.values[at]

    def __setitem__(self, at: int, value: int) -> None:
        if at not in self.write:
            raise OutOfPlace(f"{at} is written, allowed are {self.write}")
        self.highest = max(self.highest, at)
        self.values[at] = value


def plan_of(model: Model, fractions: list[int] | None = None, index: int = 0) -> tuple[Any, int]:
    """The plan, fitted to ``fractions`` if they are given, and where layer ``index`` begins in it."""
    plan = model.plan()
    if fractions is not None:
        model.scale(plan, fractions)
    return plan, fields.HEADER + fields.FIELDS * index


def run_forward(plan: Any, at: int, w: Any, a: Any, s: Any) -> None:
    """One layer forward, as `kernels.forward` calls it."""
    kind = plan[at + fields.KIND]
    if kind == fields.DEPTHWISE:
        KERNELS["depthwise_forward"](plan, at, w, a, s)
    elif kind == fields.AVERAGE:
        KERNELS["average_forward"](plan, at, a)
    else:
        KERNELS["convolution_forward"](plan, at, w, a, s)


def run_backward(plan: Any, at: int, w: Any, u: Any, a: Any, s: Any) -> None:
    """One layer backward, as `kernels.step` calls it."""
    kind = plan[at + fields.KIND]
    if kind == fields.AVERAGE:
        KERNELS["average_backward"](plan, at, a)
        return
    if kind == fields.DEPTHWISE:
        KERNELS["depthwise_backward"](plan, at, w, u, a, s)
    elif kind == fields.CONVOLUTION:
        KERNELS["convolution_backward"](plan, at, w, u, a, s)
    else:
        KERNELS["dense_backward"](plan, at, u, a)
    KERNELS["bias_backward"](plan, at, u, a)
