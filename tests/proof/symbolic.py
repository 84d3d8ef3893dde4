"""Runs the shipped source of a pure integer function on z3 symbols.

The function is not rewritten in another language.  This module walks its syntax tree, computes both sides of every
``if``, and joins them (if-conversion).  It supports only what the shield uses: integer arithmetic, comparisons,
``and``/``or``/``not``, ``min``/``max``, conditional expressions, tuples, structs, and calls of functions of the same
module.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import z3

RULES = ("none", "clamp", "rise", "deadband", "cut", "hold", "no-data")


@dataclass
class Record:
    """A struct whose fields hold symbols."""

    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        """A field's value."""
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None


def symbols(kind: type[Any], prefix: str) -> Record:
    """A struct of unknowns: an integer or a truth value for each annotated field."""
    kinds = inspect.get_annotations(kind)
    return Record(
        {name: (z3.Bool if kinds[name] is bool else z3.Int)(f"{prefix}_{name}") for name in kind.__struct_fields__}
    )


def join(condition: Any, then: Any, other: Any) -> Any:
    """``then if condition else other``, for every kind of value."""
    if isinstance(condition, bool):
        return then if condition else other
    if isinstance(then, tuple):
        return tuple(join(condition, one, two) for one, two in zip(then, other, strict=True))
    if isinstance(then, Record):
        return Record({name: join(condition, value, other.fields[name]) for name, value in then.fields.items()})
    return z3.If(condition, then, other)


@dataclass
class _Frame:
    """One call: its variables, whether and what it has returned."""

    names: dict[str, Any]
    returned: Any = False
    value: Any = None


@dataclass
class Machine:
    """Runs functions of one module."""

    module: ModuleType
    source: str
    divisors: list[Any] = field(default_factory=list)
    """Every divisor, with the conditions under which it is used: each must be above zero."""

    def __post_init__(self) -> None:
        """Find the functions."""
        tree = ast.parse(textwrap.dedent(self.source))
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}

    def call(self, name: str, *arguments: Any) -> Any:
        """The function's result as an expression over the arguments' symbols."""
        function = self._functions[name]
        frame = _Frame(dict(zip([one.arg for one in function.args.args], arguments, strict=True)))
        self._block(function.body, frame, True)
        return frame.value

    def _block(self, body: list[ast.stmt], frame: _Frame, reached: Any) -> None:
        for statement in body:
            self._statement(statement, frame, _and(reached, _not(frame.returned)))

    def _statement(self, node: ast.stmt, frame: _Frame, reached: Any) -> None:
        match node:
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._value(value, frame), frame, reached)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._value(value, frame), frame, reached)
            case ast.If(test=test, body=body, orelse=orelse):
                condition = self._value(test, frame)
                self._block(body, frame, _and(reached, condition))
                self._block(orelse, frame, _and(reached, _not(condition)))
            case ast.Return(value=ast.expr() as value):
                result = self._value(value, frame)
                frame.value = result if frame.value is None else join(reached, result, frame.value)
                frame.returned = _or(frame.returned, reached)
            case _:
                raise NotImplementedError(ast.unparse(node))

    def _assign(self, target: ast.expr, value: Any, frame: _Frame, reached: Any) -> None:
        if isinstance(target, ast.Tuple):
            for one, part in zip(target.elts, value, strict=True):
                self._assign(one, part, frame, reached)
            return
        assert isinstance(target, ast.Name), ast.unparse(target)
        old = frame.names.get(target.id)
        frame.names[target.id] = value if old is None else join(reached, value, old)

    def _value(self, node: ast.expr, frame: _Frame) -> Any:  # noqa: C901, PLR0911 - a line for each kind
        match node:
            case ast.Constant(value=str() as text):
                return z3.IntVal(RULES.index(text))
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return frame.names[name] if name in frame.names else getattr(self.module, name)
            case ast.Attribute(value=value, attr=attr):
                return getattr(self._value(value, frame), attr)
            case ast.Tuple(elts=elts):
                return tuple(self._value(one, frame) for one in elts)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return join(self._value(test, frame), self._value(body, frame), self._value(orelse, frame))
            case ast.BoolOp(op=op, values=values):
                parts = [self._value(one, frame) for one in values]
                return z3.And(parts) if isinstance(op, ast.And) else z3.Or(parts)
            case ast.UnaryOp(op=op, operand=operand):
                value = self._value(operand, frame)
                return _not(value) if isinstance(op, ast.Not) else -value
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return _COMPARE[type(op)](self._value(left, frame), self._value(right, frame))
            case ast.BinOp(left=left, op=op, right=right):
                return self._arithmetic(op, self._value(left, frame), self._value(right, frame))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._evaluate_call(name, [self._value(one, frame) for one in args])
        raise NotImplementedError(ast.unparse(node))

    def _arithmetic(self, op: ast.operator, left: Any, right: Any) -> Any:
        match op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.FloorDiv():
                # z3's division rounds down only for a divisor above zero.
                self.divisors.append(right)
                return left / right
        raise NotImplementedError(type(op).__name__)

    def _evaluate_call(self, name: str, arguments: list[Any]) -> Any:
        if name in ("min", "max"):
            result = arguments[0]
            for one in arguments[1:]:
                result = join(one < result if name == "min" else one > result, one, result)
            return result
        if name in self._functions:
            return self.call(name, *arguments)
        struct = getattr(self.module, name)
        names = struct.__struct_fields__
        given = dict(zip(names, arguments, strict=False))
        defaults = dict(zip(reversed(names), reversed(struct.__struct_defaults__), strict=False))
        return Record({field: given.get(field, defaults.get(field)) for field in names})


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


def _and(one: Any, two: Any) -> Any:
    if isinstance(one, bool):
        return two if one else False
    if isinstance(two, bool):
        return one if two else False
    return z3.And(one, two)


def _or(one: Any, two: Any) -> Any:
    return _not(_and(_not(one), _not(two)))


def _not(one: Any) -> Any:
    return (not one) if isinstance(one, bool) else z3.Not(one)
