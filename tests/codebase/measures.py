"""All measures of the code base, each with its limit and its offenders."""

from collections.abc import Set as AbstractSet

from msgspec import Struct

from tests.codebase import source
from tests.codebase.source import Function, read_modules

LIMITS: dict[str, float] = {
    "private functions with one caller": 0.12,
    "functions named by a participle": 0.03,
    "class names in several modules": 10,
    "functions from a measurement to its patch": 130,
    "files from a measurement to its patch": 35,
    "folders with more than 20 modules": 0,
}
"""By measure; shares are of all functions."""


class Measures(Struct, frozen=True):
    """The measures of one tree."""

    functions: int
    """All but dunder methods; the shares are relative to this number."""
    lines: int
    modules: int
    classes: int
    one_caller: list[Function]
    one_reference: list[Function]
    """Those, and callbacks."""
    participles: list[Function]
    shared_classes: dict[str, list[str]]
    folders: dict[str, int]
    long_functions: list[Function]
    long_files: dict[str, int]
    path: AbstractSet[tuple[str, str]] | None
    """Functions that run from a measurement to its patch, by file and qualified name; None: not traced."""

    @property
    def inside_of_policy(self) -> AbstractSet[tuple[str, str]]:
        """The part of the path that ``propose`` of the policy leads to."""
        of_policies = {step for step in self.path or () if step[0].startswith("services/control/policies/")}
        return {step for step in of_policies if not step[0].endswith("/policy.py") or not step[1].endswith(".propose")}

    def figures(self) -> dict[str, float]:
        """Every measure by name."""
        figures: dict[str, float] = {
            "private functions with one caller": len(self.one_caller) / self.functions,
            "private functions with one reference": len(self.one_reference) / self.functions,
            "functions named by a participle": len(self.participles) / self.functions,
            "class names in several modules": len(self.shared_classes),
        }
        if self.path is not None:
            inside = self.inside_of_policy
            figures["functions from a measurement to its patch"] = len(self.path - inside)
            figures["files from a measurement to its patch"] = len({file for file, _ in self.path - inside})
            figures["functions inside of the policy"] = len(inside)
        return figures | {
            f"folders with more than {source.MOST_MODULES} modules": len(self.folders),
            f"functions over {source.MOST_FUNCTION_LINES} lines": len(self.long_functions),
            f"files over {source.MOST_FILE_LINES} lines": len(self.long_files),
            "lines of product code": self.lines,
        }

    def counts(self) -> dict[str, str]:
        """For measures that are shares or parts of a whole: the part and the whole."""
        return {
            "private functions with one caller": f"{len(self.one_caller)} of {self.functions:,}",
            "private functions with one reference": f"{len(self.one_reference)} of {self.functions:,}, with callbacks",
            "functions named by a participle": f"{len(self.participles)} of {self.functions:,}",
            "class names in several modules": f"of {self.classes}",
            "lines of product code": f"in {self.modules} modules",
        }

    def offenders(self) -> dict[str, list[str]]:
        """What counts towards each measure, as ``FILE: …`` or ``FILE:LINE …``, in order."""
        by_class = [f"{file}: {name}" for name, files in self.shared_classes.items() for file in files]
        return {
            "private functions with one caller": [str(one) for one in self.one_caller],
            "functions named by a participle": [str(one) for one in self.participles],
            "class names in several modules": sorted(by_class),
            "from a measurement to its patch": [f"{file}: {name}" for file, name in sorted(self.path or ())],
            "folders": [f"{folder}: {count} modules" for folder, count in self.folders.items()],
            "long functions": [f"{one}: {one.lines} lines" for one in self.long_functions],
            "long files": [f"{file}: {lines} lines" for file, lines in self.long_files.items()],
        }


def measure(path: AbstractSet[tuple[str, str]] | None = None) -> Measures:
    """Measure the tree; ``path`` is the result of a trace."""
    modules = read_modules()
    return Measures(
        functions=sum(len(module.functions) for module in modules),
        lines=sum(module.lines for module in modules),
        modules=len(modules),
        classes=len({name for module in modules for name in module.classes}),
        one_caller=source.functions_with_one_caller(modules),
        one_reference=source.functions_with_one_reference(modules),
        participles=source.functions_named_by_participle(modules),
        shared_classes=source.classes_in_several_modules(modules),
        folders=source.large_folders(modules),
        long_functions=source.long_functions(modules),
        long_files=source.long_files(modules),
        path=path,
    )
