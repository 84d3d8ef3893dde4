"""Measures the source of the product: ``services`` and ``schemas`` without generated modules.

Dunder methods do not count as functions, because their names are fixed.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "schemas")
MOST_MODULES, MOST_FUNCTION_LINES, MOST_FILE_LINES = 20, 60, 400

_NO_PARTICIPLES = {"bed", "embed", "exceed", "feed", "need", "proceed", "red", "seed", "shed", "speed", "succeed"}
_IRREGULAR = frozenset(
    {
        *("begun", "built", "chosen", "done", "drawn", "driven", "fed", "found", "given", "gone", "heard", "held"),
        *("kept", "known", "left", "lost", "made", "meant", "met", "paid", "remade", "said", "seen", "sent", "shown"),
        *("sought", "spent", "stood", "taken", "thought", "told", "withdrawn", "written"),
    }
)
"""Participles that are not imperatives as well, unlike ``put``, ``read`` and ``run``."""


PRIVATE_WORDS = frozenset({"duty", "hand", "means", "said", "tell", "teller", "tells", "thing", "told", "voice"})
"""Words that no name is made of: the field says reconcile, notify, report, publish, lease, observed, desired."""


_STARTS_TASK = ("create_task", "run")


class Function(Struct, frozen=True):
    """A function or method, and where it is defined."""

    file: str
    line: int
    name: str
    lines: int
    is_property: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


class Module(Struct, frozen=True):
    """The data of one module for the measures."""

    file: str
    lines: int
    functions: tuple[Function, ...]
    classes: tuple[str, ...]
    """Without leading underscores."""
    references: Counter[str]
    """How often each name occurs in an expression, as a name or as an attribute."""
    calls: Counter[str]
    """How often each name is called, but for coroutines of tasks."""
    names: frozenset[str]
    """All names in it: of functions, classes, parameters, variables and attributes."""


def read_modules(root: Path = ROOT) -> list[Module]:
    """Parse the product's modules below ``root``, ordered by path."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return [_read_module(path, root) for path in paths if not path.stem.endswith("_pb2")]


def _read_module(path: Path, root: Path) -> Module:
    text, file = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
    functions, classes, references, calls, parameters = [], [], Counter[str](), Counter[str](), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            is_property = any(ast.unparse(one).endswith("property") for one in node.decorator_list)
            functions.append(Function(file, node.lineno, node.name, lines, is_property))
        elif isinstance(node, ast.ClassDef):
            classes.append(node.name.strip("_"))
        elif isinstance(node, ast.Name):
            references[node.id] += 1
        elif isinstance(node, ast.Attribute):
            references[node.attr] += 1
        elif isinstance(node, ast.arg):
            parameters.add(node.arg)
        elif isinstance(node, ast.Call):
            calls[_called(node)] += 1
            if _called(node) in _STARTS_TASK:
                calls.subtract(_called(one) for one in node.args if isinstance(one, ast.Call))
    names = frozenset({one.name for one in functions} | set(classes) | set(references) | parameters)
    return Module(file, len(text.splitlines()), tuple(functions), tuple(classes), references, calls, names)


def _called(call: ast.Call) -> str:
    """The name of what is called; empty where it has none."""
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def functions_with_one_caller(modules: Sequence[Module]) -> list[Function]:
    """Private functions and methods whose name is referred to exactly once in their module, by a call.

    A function that is only passed on, such as a callback, the target of a thread or the coroutine of a task, has no
    caller that it could be a part of.  ``functions_with_one_reference`` counts it, too.
    """
    return [one for module in modules for one in functions_with_one_reference([module]) if module.calls[one.name] == 1]


def functions_with_one_reference(modules: Sequence[Module]) -> list[Function]:
    """Private functions and methods whose name is referred to exactly once in their module."""
    return [
        one
        for module in modules
        for one in module.functions
        if one.name.startswith("_") and module.references[one.name] == 1
    ]


def functions_named_by_participle(modules: Sequence[Module]) -> list[Function]:
    """Functions whose name begins with a participle (``_decided``, ``sent_between``); properties may."""
    return [
        one
        for module in modules
        for one in module.functions
        if not one.is_property and is_participle(one.name.strip("_").partition("_")[0])
    ]


def is_participle(word: str) -> bool:
    """Whether an English word is a past participle and not also an imperative."""
    return word in _IRREGULAR or (word.endswith("ed") and word not in _NO_PARTICIPLES)


def names_of_private_words(modules: Sequence[Module]) -> list[str]:
    """Names that contain one of ``PRIVATE_WORDS``, as ``FILE: NAME``; ``file.tell`` is Python's own."""
    return sorted(
        f"{module.file}: {name}"
        for module in modules
        for name in module.names
        if name != "tell" and PRIVATE_WORDS.intersection(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))
    )


def classes_in_several_modules(modules: Sequence[Module]) -> dict[str, list[str]]:
    """The files of each class name that more than one module defines, a leading underscore aside."""
    files = defaultdict(list)
    for module in modules:
        for name in dict.fromkeys(module.classes):
            files[name].append(module.file)
    return {name: where for name, where in sorted(files.items()) if len(where) > 1}


def large_folders(modules: Sequence[Module]) -> dict[str, int]:
    """Folders with more than ``MOST_MODULES`` modules, ``__init__.py`` aside, and how many they have."""
    counts = Counter(str(Path(module.file).parent) for module in modules if not module.file.endswith("__init__.py"))
    return {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def long_functions(modules: Sequence[Module]) -> list[Function]:
    """Functions of more than ``MOST_FUNCTION_LINES`` lines, decorators aside."""
    return [one for module in modules for one in module.functions if one.lines > MOST_FUNCTION_LINES]


def long_files(modules: Sequence[Module]) -> dict[str, int]:
    """Files of more than ``MOST_FILE_LINES`` lines, and how many they have."""
    return {module.file: module.lines for module in modules if module.lines > MOST_FILE_LINES}
