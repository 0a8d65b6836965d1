"""The tree's own rules: imports go one way, and nothing heavy happens at import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ORDER = ("configs", "workloads", "pipelines", "metrics", "suite")


@pytest.mark.parametrize("package", ORDER[:-1])
def test_imports_go_one_way(package: str) -> None:
    later = set(ORDER[ORDER.index(package) + 1 :])
    for path in (ROOT / package).rglob("*.py"):
        for module in _imported(path):
            assert module.partition(".")[0] not in later, f"{path.relative_to(ROOT)} imports {module}"


def test_the_conductor_never_imports_torch() -> None:
    seen: set[str] = set()
    waiting = ["pipelines.launcher.conductor.conductor"]
    while waiting:
        module = waiting.pop()
        path = ROOT / (module.replace(".", "/") + ".py")
        if module in seen or not path.exists():
            continue
        seen.add(module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not any(n.split(".")[0] in ("torch", "diffusers", "transformers", "accelerate") for n in names), module
            waiting += names


def _imported(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found
