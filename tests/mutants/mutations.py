"""What can be mutated: statements and conditions of the packages, and the faults that each can have. __main__.py runs the tests.

A unit is a simple statement, the condition of a compound one, or a module's constant; of a long table each part. Units and faults are
compared as ast.unparse writes them, so that neither the file nor its line breaks matter.
"""

from __future__ import annotations

import ast
import collections
import copy
import difflib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("configs", "workloads", "pipelines", "metrics")
# The first that matches a file's path. Pages, and what runs only on a GPU or in an environment of its own, are left out.
SUBJECTS = {
    "none": r"html|terminal|plan|_text\.py|doctor|embedded|vbench|_child|vllm|serving|devices|commands",
    "launcher": r"pipelines/(launcher|distributed)",
    "manifest": r"workloads/(run_folder|records)",
    "rules": r"workloads/(mlperf|loadgen|world/checker)|validity/mlperf_rules",
    "metrics": r"metrics/(validity|statistics|report|audit|compare|mlperf|performance)",
    "engines": r"pipelines/",
}
KINDS = ("sign", "bound", "constant", "dropped")
SIGNS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
PAIRS: tuple[tuple[type[ast.cmpop], type[ast.cmpop]], ...] = ((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq))
BOUNDS = dict(PAIRS) | {b: a for a, b in PAIRS}
DULL = re.compile(r"\b(print|echo|warn|log|console|stderr|folder|path|mkdir)\b|timeout|help=|^[A-Z_]+_S = ", re.IGNORECASE)  # no behaviour
MAX_CHARS = 300  # of a unit
NEAR = 0.6  # the least likeness of a reworded unit, 0 to 1


@dataclass(frozen=True)
class Mutant:
    """function: its qualified name, or the module's constant. file: where it was. occurrence: which of equal units there, from 0."""

    number: int
    subject: str
    kind: str
    file: str
    function: str
    before: str
    after: str
    occurrence: int = 0


class Unit(NamedTuple):
    """anchor: the statement before which the unit's execution can be noted; None for a module's constant."""

    file: str
    function: str
    node: ast.stmt | ast.expr
    text: str
    anchor: ast.stmt | None


class Place(NamedTuple):
    """Where a mutant is in some tree, and what its text becomes. likeness: 1 where it is word for word as chosen."""

    unit: Unit
    after: str
    likeness: float


def units(tree: Path) -> list[Unit]:
    found = []
    for path in sorted(p for package in PACKAGES for p in (tree / package).rglob("*.py")):
        file = path.relative_to(tree).as_posix()
        found += list(_units(file, ast.parse(path.read_text(encoding="utf-8")).body, "", None, inside=False))
    return found


def _units(file: str, body: Sequence[ast.stmt], scope: str, chain: ast.stmt | None, inside: bool) -> Iterator[Unit]:
    """chain: the `if` that these are the `elif` of. inside: whether in a function."""
    for stmt in body:
        if isinstance(stmt, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{scope}.{stmt.name}".lstrip(".")
            yield from _units(file, stmt.body, name, None, inside or not isinstance(stmt, ast.ClassDef))
        elif not scope and isinstance(stmt, ast.Assign | ast.AnnAssign) and stmt.value is not None:
            yield from (Unit(file, assigned(stmt), node, text, None) for node, text in _parts(stmt))
        elif inside:
            anchor = chain or stmt
            conditions = [value for _, value in ast.iter_fields(stmt) if isinstance(value, ast.expr)]
            conditions += [item.context_expr for item in getattr(stmt, "items", [])]
            compound = any(hasattr(stmt, name) for name in ("body", "cases"))
            yield from (Unit(file, scope, node, ast.unparse(node), anchor) for node in (conditions if compound else [stmt]))
            blocks = [getattr(stmt, name, []) for name in ("body", "orelse", "finalbody")]
            blocks += [part.body for name in ("handlers", "cases") for part in getattr(stmt, name, [])]
            for block in blocks:
                is_elif = len(block) == 1 and isinstance(block[0], ast.If) and block[0].col_offset == stmt.col_offset
                yield from _units(file, block, scope, anchor if is_elif else None, inside)


def assigned(stmt: ast.Assign | ast.AnnAssign) -> str:
    return ast.unparse(stmt.targets[0] if isinstance(stmt, ast.Assign) else stmt.target)


def _parts(node: ast.stmt | ast.expr) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    if len(text := ast.unparse(node)) <= MAX_CHARS:
        yield node, text
    else:
        inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr) and not isinstance(n, ast.Name)]
        yield from itertools.chain.from_iterable(map(_parts, inner))


def mutations(unit: Unit) -> Iterator[tuple[str, str]]:
    """Each fault that the unit can have: its kind, and the text with it."""
    node = unit.node
    if DULL.search(unit.text) or isinstance(node, ast.Raise | ast.Assert) or len(unit.text) > MAX_CHARS:
        return
    targets = node.targets if isinstance(node, ast.Assign) else []  # not variables: any test catches one that is missing
    calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if unit.anchor and (calls or isinstance(node, ast.AugAssign) or any(isinstance(t, ast.Attribute | ast.Subscript) for t in targets)):
        yield "dropped", "pass"
    for i, part in enumerate(_operators(node)):
        for which in range(len(part.ops) if isinstance(part, ast.Compare) else 1):
            twin = copy.deepcopy(node)
            if kind := _alter(_operators(twin)[i], which):
                yield kind, ast.unparse(twin)


def _operators(node: ast.AST) -> list[ast.AST]:
    """Nodes that hold a sign, a bound or a number, but for those in texts."""
    if isinstance(node, ast.JoinedStr):
        return []
    own = [node] if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp | ast.AugAssign | ast.Constant) else []
    return own + list(itertools.chain.from_iterable(map(_operators, ast.iter_child_nodes(node))))


def _alter(node: ast.AST, which: int) -> str:
    """Put a fault into the node and say its kind; empty where it can have none. Sums of texts and of lists would only crash."""
    if isinstance(node, ast.Compare) and (swapped := BOUNDS.get(type(node.ops[which]))):
        node.ops[which] = swapped()
        return "bound"
    if isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return "bound"
    if isinstance(node, ast.BinOp | ast.AugAssign) and (sign := SIGNS.get(type(node.op))):
        sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
        if any(isinstance(s, ast.JoinedStr | ast.List | ast.ListComp | ast.Tuple) or _is_text(s) for s in sides):
            return ""
        node.op = sign()
        return "sign"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value: Any = node.value
        node.value = value + 1 if isinstance(value, int) and abs(value) < 10 else type(value)(value * 1.5) or 1.0
        return "constant"
    return ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def choose(tree: Path, seed: int, count: int) -> list[Mutant]:
    """As many of each subject, its kinds in turn, over as many files as there are; one a function."""
    everything, pools = units(tree), collections.defaultdict[tuple[str, str], list[tuple[Unit, str]]](list)
    used = {word for unit in everything if unit.anchor for word in words(unit.node)}
    for unit in everything:
        if unit.anchor or unit.function in used:
            for kind, after in mutations(unit):
                pools[_subject(unit.file), kind].append((unit, after))
    draw, chosen, files, functions = random.Random(seed), list[Mutant](), collections.Counter[str](), set[tuple[str, str]]()
    for pool in pools.values():
        draw.shuffle(pool)
    subjects = list(SUBJECTS)[1:]
    for turn, subject in itertools.product(range(count // len(subjects)), subjects):
        for kind in (KINDS[(turn + i) % len(KINDS)] for i in range(len(KINDS))):
            if left := [(u, after) for u, after in pools[subject, kind] if (u.file, u.function) not in functions]:
                unit, after = min(left, key=lambda pair: files[pair[0].file])
                equal = [u.node for u in everything if (u.file, u.function, u.text) == (unit.file, unit.function, unit.text)]
                files[unit.file] += 1
                functions.add((unit.file, unit.function))
                mutant = Mutant(len(chosen) + 1, subject, kind, unit.file, unit.function, unit.text, after)
                chosen.append(replace(mutant, occurrence=next(i for i, node in enumerate(equal) if node is unit.node)))
                break
    return chosen


def _subject(file: str) -> str:
    return next((name for name, pattern in SUBJECTS.items() if re.search(pattern, file)), "none")


def words(node: ast.AST) -> set[str]:
    """Names and attributes in it."""
    return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)}


def locate(mutant: Mutant, everything: Sequence[Unit]) -> Place | None:
    """The mutated unit, wherever its file is now; else the most like it of those that can have such a fault."""
    same = [u for u in everything if (u.function, u.text) == (mutant.function, mutant.before)]
    if same:
        file = max((u.file for u in same), key=lambda f: (f == mutant.file, difflib.SequenceMatcher(None, f, mutant.file).ratio()))
        there = [u for u in same if u.file == file]
        return Place(there[min(mutant.occurrence, len(there) - 1)], mutant.after, 1.0)
    best: Place | None = None
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(mutant.before)
    for unit in everything:
        matcher.set_seq1(unit.text)
        own = 0.3 * (unit.function.rpartition(".")[2] == mutant.function.rpartition(".")[2])
        least = (best.likeness if best else NEAR) - own
        if matcher.real_quick_ratio() > least and matcher.quick_ratio() > least and (likeness := matcher.ratio()) > least:
            afters = [after for kind, after in mutations(unit) if kind == mutant.kind]
            after = max(afters, key=lambda text: difflib.SequenceMatcher(None, text, mutant.after).ratio(), default="")
            best = Place(unit, after, min(0.99, likeness + own)) if after else best
    return best


def mutated(tree: Path, place: Place) -> str:
    """The text of the place's file with the fault in it."""
    lines, node = (tree / place.unit.file).read_bytes().splitlines(keepends=True), place.unit.node
    assert node.end_lineno is not None
    head, tail = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
    text = b"".join([*lines[: node.lineno - 1], head, place.after.encode(), tail, *lines[node.end_lineno :]]).decode()
    ast.parse(text)
    return text


def noted(tree: Path, places: dict[int, Place]) -> tuple[dict[str, str], dict[str, set[int]]]:
    """Texts of files in which execution of the mutated units is noted; and test files that name their constants, with the mutants' numbers.

    What is made at import, or is cached, is executed once, for all tests: its use is noted.
    """
    names, lines = collections.defaultdict[str, set[int]](set), collections.defaultdict[tuple[str, int], set[int]](set)
    for number, place in places.items():
        for name in _kept_in(tree / place.unit.file, place):
            names[name].add(number)
        if place.unit.anchor:
            lines[place.unit.file, _first_line(place.unit.anchor)].add(number)
    for unit in units(tree):
        if unit.anchor:
            for name in words(unit.node) & names.keys():
                lines[unit.file, _first_line(unit.anchor)] |= names[name]
    texts = {file: (tree / file).read_text(encoding="utf-8").splitlines(keepends=True) for file, _ in lines}
    for (file, line), numbers in sorted(lines.items(), reverse=True):
        text = texts[file][line - 1]
        call = f"__import__('mutant_recorder').hit({', '.join(map(str, sorted(numbers)))})\n"
        texts[file].insert(line - 1, text[: len(text) - len(text.lstrip())] + call)
    tests = {p.relative_to(tree).as_posix(): ast.parse(p.read_text(encoding="utf-8")) for p in (tree / "tests").rglob("test_*.py")}
    naming = {file: {n for name in words(module) & names.keys() for n in names[name]} for file, module in tests.items()}
    return {file: "".join(text) for file, text in texts.items()}, naming


def _kept_in(file: Path, place: Place) -> set[str]:
    """The module's constants that the unit has a part in, and the cached functions."""
    uses, keeping = dict[str, set[str]](), set[str]()
    for stmt in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(stmt, ast.FunctionDef):
            uses[stmt.name] = words(stmt)
            keeping |= {stmt.name} if any("cache" in ast.unparse(d) for d in stmt.decorator_list) else set()
        elif isinstance(stmt, ast.Assign | ast.AnnAssign):
            for name in re.findall(r"\w+", assigned(stmt)):  # A, B = 1, 2
                uses[name] = words(stmt)
                keeping.add(name)
    parts = set(re.findall(r"\w+", place.unit.function if place.unit.anchor is None else place.unit.function.partition(".")[0]))
    while more := {name for name, used in uses.items() if used & parts} - parts:
        parts |= more
    return parts & keeping


def _first_line(stmt: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(stmt, "decorator_list", [])
    return min([stmt.lineno, *(d.lineno for d in decorators)])
