"""VBench over a folder of videos. Run by VBench's own Python (metrics/quality/vbench/environment.py); imports nothing of the suite.

    python runner.py --videos FOLDER --out FOLDER --name NAME [--cpu] DIMENSION...

Writes NAME_eval_results.json as VBench does, {dimension: [mean, [{"video_path": .., "video_results": ..}, ..]]}, and environment.json.
One process, which the reference requires for submitted results (VBench's pull request 141: several processes give other means).
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
    options = parser.parse_args()
    if missing := [program for program in ("wget", "unzip") if shutil.which(program) is None]:
        sys.exit(f"VBench downloads weights with {' and '.join(missing)}, which is not installed; install it")

    import torch
    import vbench

    if not torch.cuda.is_available() and not options.cpu:
        sys.exit("there is no GPU, and VBench takes hours without one; use suite.py vbench --cpu to run it anyway")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {name: version(name) for name in ("vbench", "torch", "transformers", "numpy")} | {"device": str(device)}
    (Path(options.out) / "environment.json").write_text(json.dumps(facts), encoding="utf-8")
    judge = vbench.VBench(device, str(files(vbench).joinpath("VBench_full_info.json")), options.out)
    judge.evaluate(videos_path=options.videos, name=options.name, dimension_list=options.dimensions)


if __name__ == "__main__":
    main()
