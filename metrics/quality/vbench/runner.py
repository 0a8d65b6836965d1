"""VBench over a folder of videos. Run by VBench's own Python (metrics/quality/vbench/environment.py); imports nothing of the suite.

    python vbench_runner.py --videos FOLDER --out FOLDER --name NAME [--cpu] DIMENSION...

Writes NAME_eval_results.json as VBench does, {dimension: [mean, [{"video_path": .., "video_results": ..}, ..]]}, and environment.json.
One process, as the reference asks for results that count (VBench's pull request 141: several give other means).
"""

import argparse
import json
import shutil
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("dimensions", nargs="+")
    asked = parser.parse_args()
    if missing := [program for program in ("wget", "unzip") if shutil.which(program) is None]:
        sys.exit(f"VBench fetches weights with {' and '.join(missing)}, which is not here; install it")

    import torch
    import vbench

    if not torch.cuda.is_available() and not asked.cpu:
        sys.exit("no GPU is here, and VBench takes hours without one; suite.py vbench --cpu does it all the same")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {name: version(name) for name in ("vbench", "torch", "transformers", "numpy")} | {"device": str(device)}
    (Path(asked.out) / "environment.json").write_text(json.dumps(facts), encoding="utf-8")
    judge = vbench.VBench(device, str(files(vbench).joinpath("VBench_full_info.json")), asked.out)
    judge.evaluate(videos_path=asked.videos, name=asked.name, dimension_list=asked.dimensions)


if __name__ == "__main__":
    main()
