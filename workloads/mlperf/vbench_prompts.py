"""VBench's prompts for wan-2.2-t2v-a14b in MLPerf: 248 lines of text, in three groups by their place in the file.

The file does not name the dimension of VBench that a prompt belongs to; its order does: 72 acting subjects, 90 prompts in nine styles, 86
places. Source of the numbers: mlcommons/inference, text_to_video/wan-2.2-t2v-a14b, and VBench's own prompt lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.errors import ConfigError
from workloads.readers.prompt_file import read_prompts
from workloads.readers.table_file import Row
from workloads.records import Sample

NUM_PROMPTS = 248
GROUPS = {"subject": 72, "style": 90, "scene": 86}  # in the file's order
DIMENSIONS = {
    "subject": ("subject_consistency", "dynamic_degree", "motion_smoothness"),
    "style": ("appearance_style",),
    "scene": ("scene", "background_consistency"),
}
# How a prompt of the style group ends.
STYLES = (
    "Van Gogh style",
    "oil painting",
    "by Hokusai, in the style of Ukiyo",
    "black and white",
    "pixel art",
    "in cyberpunk style",
    "animated style",
    "watercolor painting",
    "surrealism style",
)
# Of every clip; `pipeline.negative_prompt` in the preset. Source: the reference's inference_config.yaml, repeated in mlcommons/endpoints
# (VideoGen data set).
NEGATIVE_PROMPT = (
    "vivid colors, overexposed, static, blurry details, subtitles, style, work of art, painting, picture, still, overall grayish, "
    "worst quality, low quality, JPEG artifacts, ugly, deformed, extra fingers, poorly drawn hands, poorly drawn face, deformed, "
    "disfigured, deformed limbs, fused fingers, static image, cluttered background, three legs, many people in the background, "
    "walking backwards"
)


def read_lines(path: Path, name: str, fix: str) -> list[Row]:
    """One row a line; `path` may be the folder of the file."""
    file = path / name if path.is_dir() else path
    if not file.exists():
        raise ConfigError(f"{str(file)!r} does not exist. {fix}")
    return [Row(f"{str(file)!r}, prompt {i}", {"prompt": text}, fix) for i, text in enumerate(read_prompts(str(file)), 1)]


def vbench(rows: Iterable[Row]) -> Iterator[Sample]:
    """Prompts with the dimensions in which VBench judges their clips. A set of another size is split into three thirds."""
    listed = list(rows)
    sizes = list(GROUPS.values()) if len(listed) == NUM_PROMPTS else [len(listed) - 2 * (len(listed) // 3)] + [len(listed) // 3] * 2
    groups = [group for group, size in zip(GROUPS, sizes, strict=True) for _ in range(size)]
    seen: dict[str, str] = {}
    for index, (row, group) in enumerate(zip(listed, groups, strict=True)):
        prompt = row.text("prompt")
        if prompt.endswith(STYLES) != (group == "style"):
            raise row.wrong("prompt", f"is at another place than in VBench's file: prompts {_span(sizes)}, and only they, end in a style")
        if "/" in prompt or len(prompt.encode()) > 240:
            raise row.wrong("prompt", "cannot be a file name, from which VBench takes the prompt of a clip")
        if prompt in seen:
            raise row.wrong("prompt", f"repeats {seen[prompt]}")
        seen[prompt] = row.where
        yield Sample(index, prompt, {"world": False, "subset": group, "dimensions": list(DIMENSIONS[group]), "vbench_index": index})


def _span(sizes: list[int]) -> str:
    return f"{sizes[0] + 1} to {sizes[0] + sizes[1]}"
