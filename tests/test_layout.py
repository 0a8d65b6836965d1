"""The rules of the tree: which folder may import which, how long files and functions are, how many entries a folder shows."""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("configs", "workloads", "pipelines", "metrics")
SOURCES = (*PACKAGES, "tests", "benchmarks")
MAX_LINES, MAX_FUNCTION_LINES, MAX_ENTRIES = 300, 60, 15

# Each entry imports only from those to its left; entries between the same bars do not import each other.
ORDER: Mapping[str, str] = {
    ".": "configs | workloads | pipelines | metrics | suite",
    "configs": "errors, output, yaml_text | decode, required_versions, settings, plugin_options | registry, run_config | load_config "
    "| command_line",
    "workloads": "records, world | base, readers, run_folder | mlperf | loadgen, llm, vlm, t2v | i2v",
    "workloads/mlperf": "vbench_prompts, language, shopify, livecodebench | datasets, generation | rules | benchmarks | run_rules | "
    "notices",
    "pipelines": "distributed, devices | base, doctor | models | launcher, serving, endpoint, toy | diffusers, transformers, vllm, plan | "
    "embedded, commands",
    "pipelines/launcher": "messages, provenance, signals, brief_report, default_engine | replay | conductor, worker | "
    "session, resume | rate_search | launch",
    "pipelines/diffusers": "library_options, outline, families, stage_timer, held_frame, negative_prompt, pixels, skipped_work, "
    "split_decode, trials, wan_decoder | image_input, speedups | t2v",
    "metrics": "statistics | base | performance, similarity | quality, validity | report | compare, audit, mlperf | commands",
    "metrics/report": "load_run, report_diff, html/render, html/plots | figures, html/token_plots | cautions | report | "
    "run_facts, recompute, html/text_answers, terminal | html/page | html/combined, finish",
}
pytestmark = pytest.mark.xdist_group("layout")  # every file is parsed once

NO_TORCH = ("torch", "diffusers", "transformers", "accelerate")


@pytest.mark.parametrize("folder", ORDER)
def test_imports_go_one_way(folder: str) -> None:
    groups = [[entry.strip() for entry in group.split(",")] for group in ORDER[folder].split("|")]
    place = {entry: number for number, group in enumerate(groups) for entry in group}
    wrong = []
    for path, module in _imports():
        entry, other = _entry(path, folder, place), _entry(_path(module), folder, place)
        if entry and other and entry != other and place[other] >= place[entry]:
            wrong.append(f"{path} imports {module}: {other} is not left of {entry}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ORDER)
def test_the_order_names_every_entry(folder: str) -> None:
    named = {entry.strip().split("/")[0] for group in ORDER[folder].split("|") for entry in group.split(",")}
    there = {path.relative_to(ROOT / folder).parts[0].removesuffix(".py") for path in _sources() if path.is_relative_to(ROOT / folder)}
    missing = there - named - {"tests", "benchmarks", "__init__"}
    assert not missing, f"{folder}: not in the order of imports: {sorted(missing)}"


def test_no_two_files_and_no_two_entries_of_a_folder_import_each_other() -> None:
    wrong = [" -> ".join(circle) for circle in _circles({(path, _path(module)) for path, module in _imports()})]
    inside: dict[str, set[tuple[str, str]]] = {}  # by folder: which of its entries imports which
    for path, module in _imports():
        one, other = path.split("/"), _path(module).split("/")
        depth = next(n for n, (a, b) in enumerate(itertools.zip_longest(one, other)) if a != b)
        inside.setdefault("/".join(one[:depth]), set()).add((one[depth], other[depth]))
    wrong += [f"{folder}: {' -> '.join(circle)}" for folder, edges in sorted(inside.items()) for circle in _circles(edges)]
    assert not wrong, "\n".join(wrong)


def test_no_file_and_no_function_is_too_long() -> None:
    wrong = []
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            wrong.append(f"{name} has more than {MAX_LINES} lines")
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES:
                wrong.append(f"{name}: {node.name} has more than {MAX_FUNCTION_LINES} lines")
    assert not wrong, "\n".join(wrong)


def test_no_folder_shows_too_many_entries() -> None:
    wrong = []
    for folder in sorted({parent for path in _sources() for parent in path.parents if parent.is_relative_to(ROOT) and parent != ROOT}):
        entries = [e.name for e in folder.iterdir() if e.name not in ("__init__.py", "__pycache__")]
        if len(entries) > MAX_ENTRIES:
            wrong.append(f"{folder.relative_to(ROOT).as_posix()} has {len(entries)} entries")
    assert not wrong, "\n".join(wrong)


def test_the_conductors_process_never_imports_torch() -> None:
    seen: set[str] = set()
    waiting = [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "pipelines/launcher/conductor").glob("*.py"))]
    while waiting:
        name = waiting.pop()
        if name in seen or not (ROOT / name).exists():
            continue
        seen.add(name)
        for module in _modules(_tree(ROOT / name).body):
            assert module.split(".")[0] not in NO_TORCH, f"{name} imports {module}"
            waiting.append(_path(module))


def test_all_output_goes_through_one_place() -> None:
    """configs/output.py makes it printable. A conductor's stdout is a pipe, and models are trained by hand."""
    exempt = ("configs/output.py", "pipelines/launcher/conductor/__main__.py", "pipelines/embedded/training/")
    writers = ("print", "Console", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write", "traceback.print_exception")
    found = []
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0].removesuffix(".py") in (*PACKAGES, "suite") and not name.startswith(exempt):
            calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
            found += [f"{name}:{call.lineno}" for call in calls if ast.unparse(call.func) in writers]
    assert not found, "\n".join(found)


@functools.cache
def _sources() -> tuple[Path, ...]:
    return (ROOT / "suite.py", *(path for package in SOURCES for path in sorted((ROOT / package).rglob("*.py"))))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports() -> tuple[tuple[str, str], ...]:
    """Every import of the packages' own modules, in functions and under TYPE_CHECKING too: the file, and the module."""
    found = []
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0].removesuffix(".py") in (*PACKAGES, "suite"):
            found += [(name, m) for m in _modules(ast.walk(_tree(path))) if m.split(".")[0] in (*PACKAGES, "suite") and _path(m) != name]
    return tuple(found)


def _modules(nodes: Iterator[ast.AST] | Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # `from package import module` names a module of its own
                module = f"{node.module}.{alias.name}"
                yield module if (ROOT / _path(module)).is_file() else node.module


def _path(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def _entry(path: str, folder: str, place: Mapping[str, int]) -> str | None:
    """The entry of the folder's order that the file belongs to; the longest name wins, as html/page before html."""
    inside = path if folder == "." else path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else None
    if inside is None:
        return None
    parts = inside.removesuffix(".py").split("/")
    names = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in place), None)


def _circles(edges: set[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """Each set of names that reach each other, as far as there are any."""
    after: dict[str, set[str]] = {}
    for one, other in edges:
        if one != other:
            after.setdefault(one, set()).add(other)

    @functools.cache
    def reached(start: str) -> frozenset[str]:
        seen, waiting = set(), [start]
        while waiting:
            for name in after.get(waiting.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return frozenset(seen)

    known: set[str] = set()
    for name in sorted(after):
        if name in reached(name) and name not in known:
            circle = tuple(sorted(other for other in reached(name) if name in reached(other)))
            known.update(circle)
            yield circle


def test_circles_are_found() -> None:
    assert list(_circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")})) == [("a", "b", "c")]
    assert list(itertools.islice(_circles({("a", "b"), ("b", "c")}), 1)) == []
