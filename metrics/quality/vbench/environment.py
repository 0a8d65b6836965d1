"""VBench in its own Python environment, because it pins packages of 2023: created once, and called as a program on a run's videos."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from configs.errors import ConfigError, RunError
from metrics.base import Run
from metrics.quality.vbench.metric import ALL, FILE, SCHEMA, videos
from workloads.run_folder.files import write_json
from workloads.run_folder.manifest import add_file, modifications

RUNNER = Path(__file__).with_name("runner.py")
NAME = "triptych"  # prefix of VBench's own files
# torch below 2.6, because VBench's checkpoints are pickles, which torch refuses from 2.6 on; Python 3.10 or 3.11, because the tokenizers of
# transformers 4.33.2 have wheels for no later one.
TORCH = ("torch==2.5.1", "torchvision==0.20.1")
PACKAGES = ("vbench==0.1.5", "transformers==4.33.2", "numpy==1.26.4", "setuptools<81", "wheel")
PROGRAMS = ("wget", "unzip")  # VBench downloads its models' weights with them


class Setup(NamedTuple):
    """folder: of the environment. commands: create it, in this order."""

    folder: Path
    commands: list[list[str]]


def default_folder() -> Path:
    return Path.home() / ".cache" / "triptych" / "vbench"


def plan_setup(python: str, folder: Path | None, torch_index: str | None) -> Setup:
    """The commands that create the environment. Raises ConfigError where it exists, or Python or a program is missing."""
    folder = folder or default_folder()
    if _python(folder).exists():
        raise ConfigError(f"an environment exists in {str(folder)!r}; remove it first, or give --dir another folder")
    if shutil.which(python) is None:
        raise ConfigError(f"{python!r} is not installed; VBench needs Python 3.10 or 3.11: give one with --python")
    pip = [str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check"]
    index = ["--index-url", torch_index] if torch_index else []
    return Setup(folder, [[python, "-m", "venv", str(folder)], [*pip, *index, *TORCH], [*pip, *TORCH, *PACKAGES]])


def set_up(plan: Setup, say: Callable[[str], None]) -> None:
    """Run the plan's commands and `say` each. Raises RunError naming the one that failed; the partial environment is removed."""
    for command in plan.commands:
        say(shlex.join(command))
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(plan.folder, ignore_errors=True)
            raise RunError(f"{' '.join(command)} failed ({error}); the environment was removed") from None


def evaluate(run: Run, folder: Path | None = None, allow_cpu: bool = False) -> None:
    """Run VBench on the run's videos, and store its results in the run folder.

    Raises ConfigError where there is no environment or no video, or the run was modified; RunError where VBench fails.
    """
    folder = folder or default_folder()
    if not _python(folder).exists():
        raise ConfigError(f"{str(folder)!r} holds no VBench environment; create it once: suite.py vbench-setup --dir {folder}")
    if reasons := modifications(run.folder):
        raise ConfigError(f"run {run.folder.name!r} was modified after it finished: {reasons[0]}")
    found = videos(run)
    if not found:
        raise ConfigError(f"run {run.folder.name!r} has no video of a VBench prompt; such runs have dataset.source vbench")
    requested = {d for record in found.values() for d in run.samples[record.sample_index].meta["dimensions"]}
    with tempfile.TemporaryDirectory(prefix="triptych-vbench-") as name:
        staged, out = Path(name) / "videos", Path(name) / "out"
        staged.mkdir()
        out.mkdir()
        for video, record in found.items():
            if "/" in video or video.startswith("."):
                raise ConfigError(f"prompt {video!r} cannot be a file name, from which VBench reads a clip's prompt")
            (staged / video).symlink_to((run.folder / str(record.media)).resolve())
        results = _call(folder, staged, out, [d for d in ALL if d in requested], allow_cpu)
    kept = {
        "schema": SCHEMA,
        "environment": results.pop("environment", {}),
        "videos": {video: record.digest for video, record in found.items()},
        "results": results["dimensions"],
    }
    write_json(run.folder / FILE, kept)
    add_file(run.folder, FILE)


def _call(folder: Path, staged: Path, out: Path, dimensions: Sequence[str], allow_cpu: bool) -> dict[str, Any]:
    """VBench's eval_results.json, and the versions of the environment."""
    command = [
        str(_python(folder)),
        str(RUNNER),
        "--videos",
        str(staged),
        "--out",
        str(out),
        "--name",
        NAME,
        *(["--cpu"] if allow_cpu else []),
    ]
    ended = subprocess.run([*command, *dimensions], stderr=subprocess.PIPE, text=True, errors="replace")
    file = out / f"{NAME}_eval_results.json"
    if ended.returncode or not file.exists():
        last = ended.stderr.strip().splitlines()[-1:] or ["it wrote no results"]
        raise RunError(f"VBench failed with exit code {ended.returncode}: {last[0][:500]}")
    environment = out / "environment.json"
    try:
        return {
            "dimensions": json.loads(file.read_text(encoding="utf-8")),
            "environment": json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {},
        }
    except ValueError as error:
        raise RunError(f"VBench's {file.name} is damaged: {error}") from None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"
