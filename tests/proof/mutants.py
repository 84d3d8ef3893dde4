"""Shows that the proofs can fail: makes every small change to the shield, and expects a claim to break.

A mutant is the shield's source with one change: a comparison reversed or shifted by one, ``min`` for
``max``, plus for minus, ``and`` for ``or``, a ``not`` removed, a condition always or never met, one
half of a condition removed, an integer off by one, or another field of the same struct read.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tests.proof.enumeration import Broken, check_all
from tests.proof.solver import Unproven, prove_all

FUNCTIONS = ("start_from", "open_way_back", "shield")

_TURNED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
}
_OTHER_FIELD = {
    "min": "fail_safe", "max": "fail_safe", "fail_safe": "min", "rise": "deadband", "deadband": "rise",
    "end": "start", "start": "end", "settle": "elapsed", "elapsed": "settle", "violated": "no_data",
    "no_data": "violated", "queued": "violated", "back": "waiting", "waiting": "back", "since": "cut_until",
    "cut_until": "since",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One changed source."""

    where: str
    """``function: old -> new``."""
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of the functions under proof."""
    tree = ast.parse(source)
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in FUNCTIONS]
    assert len(functions) == len(FUNCTIONS), "the functions under proof were renamed"
    seen = set()
    for function in functions:
        for place, node in enumerate(ast.walk(function)):
            for changed in _changes(node):
                mutated = copy.deepcopy(function)
                target = next(one for index, one in enumerate(ast.walk(mutated)) if index == place)
                whole = _replace(mutated, target, changed)
                text = ast.unparse(ast.Module([whole if one is function else one for one in tree.body], []))
                where = f"{function.name}: {ast.unparse(node)} -> {ast.unparse(changed)}"
                if text not in seen:
                    seen.add(text)
                    yield Mutant(where.replace("\n", "; "), text)


def _changes(node: ast.AST) -> Iterator[Any]:  # noqa: C901 - one case for each kind of change
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right):
            for turned in _TURNED.get(type(op), ()):
                yield ast.Compare(left, [turned()], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            yield from values
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield ast.BinOp(left, ast.Sub(), right)
            yield left
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            yield ast.BinOp(left, ast.Add(), right)
        case ast.BinOp(left=left, op=ast.Mult() | ast.FloorDiv()):
            yield left
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
            yield ast.Call(ast.Name("max" if name == "min" else "min"), args, [])
            yield from args
        case ast.If() | ast.IfExp():
            for always in (True, False):
                changed = copy.copy(node)
                changed.test = ast.Compare(ast.Constant(0), [ast.Eq() if always else ast.NotEq()], [ast.Constant(0)])
                yield changed
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            yield ast.Constant(value + 1)
        case ast.Attribute(attr=attr, value=value) if attr in _OTHER_FIELD:
            yield ast.Attribute(value, _OTHER_FIELD[attr])


def _replace(root: ast.AST, target: ast.AST, changed: ast.AST) -> Any:
    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return changed if node is target else self.generic_visit(node)

    return ast.fix_missing_locations(Replace().visit(root))


def load_module(source: str) -> ModuleType:
    """Make a module from a source text."""
    module = ModuleType("mutant")
    exec(compile(source, "<mutant>", "exec"), module.__dict__)
    return module


def find_killer(mutant: Mutant) -> str | None:
    """The claim or error that detects the mutant; None if it survives."""
    module = load_module(mutant.source)
    try:
        check_all(module, 2)
        for _ in prove_all(module, mutant.source, timeout_ms=10_000):
            pass
    except (Broken, Unproven) as error:
        return str(error).partition(":")[0]
    except (AssertionError, NotImplementedError, TypeError, ZeroDivisionError, AttributeError) as error:
        return f"{type(error).__name__} {error}"
    return None
