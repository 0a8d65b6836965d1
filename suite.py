"""Triptych: throughput, latency and quality of generative AI inference, in one run.

python suite.py --workload t2v                      one process
accelerate launch suite.py --workload t2v           the same, by Accelerate
python suite.py --resume outputs/RUN                finish an accuracy run that was cut short
python suite.py report outputs/RUN                  rebuild a run's report
python suite.py bundle outputs/RUN                  pack a run, to be scored again elsewhere: suite.py report RUN.zip
python suite.py comply outputs/RUN                  MLPerf's compliance tests on a run's set-up
python suite.py submit --submitter NAME --division closed RUN ...   an MLPerf submission, and what is wrong with it
python suite.py audit REFERENCE CANDIDATE           is a faster run still as good? exit code 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 no verdict
python suite.py compare RUN RUN ...                 speed-ups across runs, quality beside each
python suite.py sample-size --effect 1% RUN         how many prompts an audit against this run needs
python suite.py run-code RUN                        test the programs in a run's answers, fenced in
python suite.py vbench RUN                          let VBench judge a run's videos, in its own environment
python suite.py combine RUN RUN ...                 one page over several runs
python suite.py list                                what can be named
python suite.py serve --workload llm                our pipelines behind OpenAI's HTTP interface
python suite.py plan --preset P --device mi355x     what fits on which devices, and how fast it can be at most
accelerate launch suite.py doctor                   examine devices and the links between them
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.command_line import VerdictCommand

if TYPE_CHECKING:
    from metrics.report.report import Report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=False)

EXIT_INVALID = 3

EPILOG = (
    "Examples: suite.py --workload t2v | suite.py --workload t2v --scenario single_stream --set pipeline.num_inference_steps=4 | "
    "suite.py --workload t2v --set dataset.prompts=my_prompts.txt | accelerate launch --config_file configs/accelerate/cpu_2.yaml "
    "suite.py --workload t2v.  Exit codes: 0 VALID, 3 INVALID, 1 an error, 2 wrong usage, 130 interrupted; "
    "audit: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 no verdict."
)


@app.callback(invoke_without_command=True, epilog=EPILOG)
def run(
    context: typer.Context,
    workload: Annotated[str | None, typer.Option(help="What to run: t2v, i2v, llm, vlm, or a plugin's name.")] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file, or a preset such as t2v/embedded (see: suite.py list).")] = None,
    scenario: Annotated[str | None, typer.Option(help="offline, server, interactive, single_stream, multi_stream.")] = None,
    mode: Annotated[str | None, typer.Option(help="performance, accuracy (every sample once, untimed), or both.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every answer and LoadGen's order.")] = None,
    output: Annotated[str | None, typer.Option(help="Run folder to make; outputs/WORKLOAD-TIME where not given.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the preset, such as shrunk: random weights, small enough for a CPU.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one setting, such as load.min_duration_s=60; repeatable.")] = None,
    find_max_rate: Annotated[bool, typer.Option("--find-max-rate", help="Server scenarios: find the highest rate that is VALID.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Finish this accuracy run, asking only what has no answer.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
) -> None:
    """Run generative AI workloads and report throughput, latency and quality."""
    if context.invoked_subcommand is not None:
        return
    if workload is None and config is None and resume is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)

    from configs.errors import ConfigError, GivenUpError
    from configs.load_config import load_config
    from configs.registry import load_plugin_file
    from pipelines.distributed.ranks import is_main_process
    from pipelines.launcher.launch import launch

    for path in plugin or []:
        load_plugin_file(path)
    if resume is not None:
        from pipelines.launcher.resume import resumed_config

        others = ("workload", "config", "scenario", "mode", "seed", "output", "variant", "set_", "find_max_rate")
        if given := [f"--{name.rstrip('_').replace('_', '-')}" for name in others if context.params[name]]:
            raise ConfigError(f"--resume takes all settings from {resume}; leave out {', '.join(given)}")
        settings = resumed_config(resume)
    else:
        settings = load_config(workload, config, set_ or [], scenario=scenario, mode=mode, seed=seed, variant=variant)
    try:
        folder = launch(settings, output, find_max_rate, resume)
    except GivenUpError as error:
        if is_main_process():
            _report_briefly(error.folder)
        raise
    if not is_main_process():
        return
    from pipelines.launcher.provenance import seal

    seal(folder)
    _finish(_write_report(folder))


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a bundle of one.")],
    output: Annotated[Path | None, typer.Option(help="Of a bundle: the folder to unpack into; BUNDLE-unpacked if not given.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Verdict and reasons alone, as after a run that was given up.")] = False,
) -> None:
    """Rebuild report.json and report.html from a run folder or a bundle; no model is needed.

    A bundle is unpacked first. Its files are held against the hashes of its manifest, and the new report against the one it came with.
    """
    from configs.errors import ConfigError
    from configs.registry import load_plugin_file

    for path in plugin or []:
        load_plugin_file(path)
    if run_folder.is_file() and not brief:
        _report_on_bundle(run_folder, output)
    elif run_folder.is_file() or output is not None:
        raise ConfigError("--output is for bundles, whose report is never --brief; the report of a run folder goes into that folder")
    else:
        _finish(_write_report(run_folder, brief))


@app.command()
def bundle(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[Path | None, typer.Option(help="The file to write; RUN.zip if not given.")] = None,
) -> None:
    """Pack a run folder into one file from which another machine makes the same report: suite.py report RUN.zip."""
    from workloads.run_folder.bundle import write_bundle
    from workloads.run_folder.manifest import modifications

    written = write_bundle(run_folder, output)
    for reason in modifications(run_folder):
        print(f"suite: its report will say INVALID: {reason}", file=sys.stderr, flush=True)
    print(json.dumps({**written._asdict(), "path": str(written.path.resolve())}), flush=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; the first of its kind is the baseline.")],
    label: Annotated[list[str] | None, typer.Option(help="One for each run, in their order; the same one for repeats.")] = None,
    baseline: Annotated[list[Path] | None, typer.Option(metavar="RUN", help="Compare with this one of the runs; repeatable.")] = None,
    by: Annotated[str, typer.Option(help="What speed is: auto, throughput, latency, ttft or tpot.")] = "auto",
    by_model: Annotated[bool, typer.Option("--by-model", help="Compare runs of the same model only.")] = False,
    allow_invalid: Annotated[bool, typer.Option("--allow-invalid", help="Compare INVALID runs too, and mark them.")] = False,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
    output: Annotated[Path, typer.Option(help="The page to write; beside it go its figures, as .json.")] = Path("outputs/compare.html"),
) -> None:
    """Compare runs: speed-ups with intervals, speed per device, geometric means over workloads, and quality beside every speed."""
    from configs.errors import ConfigError
    from configs.registry import load_plugin_file
    from metrics.compare.compare import compare as compare_runs
    from metrics.compare.html import print_comparison, write_comparison

    if output.suffix != ".html":
        raise ConfigError(f"--output {str(output)!r} is no page; its name must end in .html")
    for path in plugin or []:
        load_plugin_file(path)
    data = compare_runs(runs, label or [], baseline or [], by, by_model, allow_invalid)
    written = write_comparison(data, output)
    print_comparison(data)
    speed_ups = {g["title"]: {r["label"]: r["speed_up"]["value"] for r in g["rows"] if r["speed_up"]} for g in data["groups"]}
    means = {mean["label"]: mean["speed_up"] for mean in data["geometric_means"]}
    line = {"compare": str(written.resolve()), "page": str(output.resolve()), "speed_up": speed_ups, "geometric_mean": means}
    print(json.dumps(line), flush=True)


@app.command(cls=VerdictCommand)
def audit(
    reference: Annotated[Path, typer.Argument(help="The run folder that is trusted.")],
    candidate: Annotated[Path, typer.Argument(help="The run folder of the faster variant: same prompts, same seed.")],
    margin: Annotated[
        str | None,
        typer.Option(
            help="Loss of quality that is tolerated: 1% of each metric's mean, or an amount such as 0.01. If not given, what the gates of "
            "the reference's MLPerf benchmark tolerate (0.1% of llama2-70b-99.9), or 1%."
        ),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Judge by this metric; repeatable. All that score answers if not given.")] = None,
    allow_invalid: Annotated[bool, typer.Option("--allow-invalid", help="Audit INVALID runs, marked.")] = False,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
    output: Annotated[Path, typer.Option(help="The page to write; the same as JSON goes beside it.")] = Path("outputs/audit.html"),
) -> None:
    """Is a faster run still as good? Two runs, prompt by prompt.

    Exit codes: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 no verdict: runs that make no audit, wrong usage, an error.
    """
    from configs.errors import ConfigError
    from configs.registry import load_plugin_file
    from metrics.audit.audit import audit as compare_runs
    from metrics.audit.html import print_audit, sentence, write_audit

    if output.suffix != ".html":
        raise ConfigError(f"--output {str(output)!r} is no page; its name must end in .html, and the JSON goes beside it")
    for path in plugin or []:
        load_plugin_file(path)
    data = compare_runs(reference, candidate, margin, metric or [], allow_invalid)
    written = write_audit(data, output)
    print_audit(data)
    line = {"audit": str(written.resolve()), "verdict": data["verdict"], "found": sentence(data)}
    print(json.dumps(line | {"left_out": data["left_out"]}), flush=True)
    raise typer.Exit({"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 2}[data["verdict"]])


@app.command("sample-size")
def sample_size(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder of a reference.")],
    effect: Annotated[str, typer.Option(help="Loss of quality to rule out: 1% of each metric's mean, or an amount such as 0.01.")],
    power: Annotated[float, typer.Option(help="Chance that a candidate which is truly as good is shown to be.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Chance that any metric worse by the effect passes, all metrics together.")] = 0.05,
    correlation: Annotated[float | None, typer.Option(help="Assumed between the two runs' scores; 0, 0.5 and 0.9 if not given.")] = None,
    beside: Annotated[Path | None, typer.Option(metavar="RUN", help="A second run of the same prompts, to see how far two agree.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Plan for this metric; repeatable. All that score answers if not given.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
) -> None:
    """How many prompts an audit needs to show that a candidate is not worse, from a run's own scores."""
    from configs.registry import load_plugin_file
    from metrics.audit.sample_size import plan
    from metrics.audit.sample_size_text import plain, print_plan

    for path in plugin or []:
        load_plugin_file(path)
    found = plan(run_folder, effect, power, alpha, correlation, beside, metric or [])
    print_plan(found)
    print(json.dumps(plain(found)), flush=True)


@app.command()
def comply(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run with a performance test.")],
    test: Annotated[list[str] | None, typer.Option(help="TEST01, 04, 06, 07 or 09; repeatable. All that apply if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; RUN-compliance if not given.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
) -> None:
    """MLPerf's compliance tests: run a run's own set-up again under each test's LoadGen settings, on as many ranks, and judge it.

    Those that are in the folder already stay. Exit codes: 0 all hold, or MLPerf asks for none; 3 one fails or cannot be held; 1 an error.
    """
    from configs.registry import load_plugin_file
    from metrics.mlperf.compliance.comply import comply as hold
    from metrics.mlperf.compliance.results import line, print_table

    for path in plugin or []:
        load_plugin_file(path)
    found = hold(run_folder, test or [], output)
    if found is None:
        return
    print_table(found)
    print(json.dumps(line(found)), flush=True)
    if found.verdict not in ("PASS", "NONE ASKED"):
        raise typer.Exit(EXIT_INVALID)


@app.command()
def submit(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders of MLPerf benchmarks, of one system.")] = None,
    submitter: Annotated[str | None, typer.Option(help="As MLCommons knows it.")] = None,
    division: Annotated[str | None, typer.Option(help="open or closed.")] = None,
    round_: Annotated[str | None, typer.Option("--round", help="v6.0 or v6.1; that of the installed LoadGen if not given.")] = None,
    system: Annotated[str | None, typer.Option(help="The system's name; made of its devices if not given.")] = None,
    describe: Annotated[Path | None, typer.Option(help="JSON: fields of the system's description that cannot be read off it.")] = None,
    compliance: Annotated[list[Path] | None, typer.Option(help="A comply's --output; RUN-compliance is found without. Repeatable.")] = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("outputs/submission"),
    check: Annotated[Path | None, typer.Option(metavar="DIR", help="Check this submission, and write none.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
) -> None:
    """Write an MLPerf submission and check it, more strictly than the official checker; every refusal names file and reason.

    Exit codes: 0 nothing to refuse, 3 refused (the folder is there all the same), 1 an error.
    """
    from configs.errors import ConfigError
    from configs.registry import load_plugin_file
    from metrics.mlperf.submission.check import check as check_submission
    from metrics.mlperf.submission.check import print_refusals
    from metrics.mlperf.submission.write import write_submission
    from workloads.mlperf.notices import UNVERIFIED

    for path in plugin or []:
        load_plugin_file(path)
    if check is not None:
        if runs or submitter or division:
            raise ConfigError("--check reads a submission that is there; leave out runs, --submitter and --division")
        folder = check
    else:
        if division not in (None, "open", "closed"):
            raise ConfigError(f"--division {division!r} is none of MLPerf's: open or closed")
        if not runs or not submitter or division is None:
            raise ConfigError("a submission needs --submitter NAME, --division open or closed, and run folders; or give --check DIR")
        folder = write_submission(runs, submitter, division, round_, system, describe, output, compliance or [])
    refusals = check_submission(folder, round_)
    print_refusals(folder, refusals, lambda text: print(text, file=sys.stderr, flush=True))
    print(UNVERIFIED, file=sys.stderr, flush=True)
    line = {"submission": str(folder.resolve()), "verdict": "REFUSED" if refusals else "OK", "verified_by_mlcommons": False}
    print(json.dumps(line | {"notice": UNVERIFIED, "refusals": [r._asdict() for r in refusals]}), flush=True)
    if refusals:
        raise typer.Exit(EXIT_INVALID)


@app.command()
def combine(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, in the order in which they are shown.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("outputs/combined.html"),
) -> None:
    """Write one page over several runs, such as the three panels."""
    from metrics.report.html.combined import write_combined

    write_combined(runs, output)
    typer.echo(str(output))


@app.command()
def plan(
    preset: Annotated[str, typer.Option("--preset", "--config", help="A preset such as llm/llama2-70b, or a YAML file.")],
    device: Annotated[str, typer.Option(help="A device of configs/devices.yaml, such as mi355x.")],
    devices: Annotated[int, typer.Option(help="How many of them.")] = 8,
    precision: Annotated[str | None, typer.Option(help="Of the weights: bf16, fp8, mxfp4, ..; the preset's own if not given.")] = None,
    attention: Annotated[str | None, typer.Option(help="Of the KV cache and attention's products; the preset's, or bf16.")] = None,
    batch: Annotated[int | None, typer.Option(help="Queries at the same time on one replica; the preset's if not given.")] = None,
    input_tokens: Annotated[int | None, typer.Option(help="Tokens of a prompt; all that the context leaves if not given.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer; the preset's max_new_tokens if not given.")] = None,
    devices_file: Annotated[Path | None, typer.Option(help="YAML in the form of configs/devices.yaml, with devices of your own.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Whose settings to plan, where the preset differs by scenario.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the preset, such as 8xmi355x.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one setting, such as parallel.tensor=8; repeatable.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
    only_json: Annotated[bool, typer.Option("--json", help="No table on stderr.")] = False,
) -> None:
    """Without weights or devices: what fits, memory by precision and layout, FLOPs and bytes, and the throughput that cannot be exceeded.

    Exit codes: 0 the preset's layout fits, 3 it does not (and what would is named), 1 an error.
    """
    from configs.load_config import load_config
    from configs.registry import load_plugin_file
    from pipelines.plan.plan import Asked
    from pipelines.plan.plan import plan as make_plan
    from pipelines.plan.table import plain, print_plan

    for path in plugin or []:
        load_plugin_file(path)
    settings = load_config(None, preset, set_ or [], scenario=scenario, variant=variant)
    asked = Asked(device, devices, precision, attention, batch, input_tokens, output_tokens, devices_file)
    found = make_plan(settings, preset, asked)
    if not only_json:
        print_plan(found)
    print(json.dumps(plain(found)), flush=True)
    if not found.chosen.fits:
        raise typer.Exit(EXIT_INVALID)


@app.command()
def serve(
    workload: Annotated[str | None, typer.Option(help="Whose pipeline to serve: t2v, llm, vlm, or a plugin's name.")] = None,
    config: Annotated[str | None, typer.Option(help="A YAML file, or a preset such as llm/embedded.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the preset, such as shrunk.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one setting, such as pipeline.batch_size=8; repeatable.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; any but this machine's own needs --api-key-env.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one; the line on stdout tells which.")] = 0,
    api_key_env: Annotated[str | None, typer.Option(metavar="NAME", help="The variable with the key that clients must send.")] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where videos go; a folder that is removed at the end if not given.")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A Python file that registers a plugin; repeatable.")] = None,
) -> None:
    """Put a pipeline behind /v1/chat/completions, /v1/completions or /v1/videos, for other clients to measure. Ctrl-C ends it."""
    from configs.load_config import load_config
    from configs.registry import load_plugin_file
    from pipelines.serving.server import serve as serve_until_stopped

    for path in plugin or []:
        load_plugin_file(path)
    serve_until_stopped(load_config(workload, config, set_ or [], variant=variant), host, port, api_key_env, videos)


@app.command()
def doctor(
    output: Annotated[Path, typer.Option(help="File (.json) to write, or a folder for doctor.json.")] = Path("outputs/doctor.json"),
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one step may take before the ranks behind are named.")] = 120,
) -> None:
    """Examine every rank's device and the links between them; name what is slow, missing or different.

    Start it as a run is started: accelerate launch suite.py doctor. It times a matrix product on every device, all-reduce and
    all-gather over all ranks, within each host and between hosts, and messages between pairs of ranks. A later run on the same
    hosts takes the result into its system.json. Exit codes: 0 nothing wrong, 3 errors found, 1 an error; accelerate launch
    itself turns 3 into 1, so let programs read "verdict" in the last line on stdout.
    """
    from pipelines.doctor.examine import examine

    if not examine(output, timeout):
        raise typer.Exit(EXIT_INVALID)


@app.command("run-code")
def run_code(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with answers to LiveCodeBench.")],
    tests: Annotated[Path | None, typer.Option(help="LiveCodeBench's own files, for runs that carry no tests.")] = None,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that one test of one program may take.")] = 60,
    workers: Annotated[int | None, typer.Option(min=1, help="Programs at the same time; one a processor if not given.")] = None,
    weak_sandbox: Annotated[bool, typer.Option("--weak-sandbox", help="Go on where this machine does not fence programs in.")] = False,
) -> None:
    """Run the programs that a model wrote against their tests, fenced in, and make the report again with what they scored.

    Nothing else ever runs them. They get no network, no file to write and none to read but Python's, and no more time than --timeout.
    """
    from metrics.mlperf.accuracy.code_results import run_code as run_all
    from metrics.mlperf.accuracy.code_sandbox import Limits
    from metrics.report.report import load_run

    found = run_all(load_run(run_folder), tests, Limits(seconds=timeout), workers, weak_sandbox)
    missing = f", {found.untested} have no tests in the files" if found.untested else ""
    fences = ", ".join(found.fences) or "none"
    print(f"suite: {found.passed} programs pass, {found.failed} fail{missing}; fences: {fences}", file=sys.stderr, flush=True)
    _finish(_write_report(run_folder))


@app.command("vbench-setup")
def vbench_setup(
    python: Annotated[str, typer.Option(help="A Python 3.10 or 3.11.")] = "python3.10",
    directory: Annotated[Path | None, typer.Option("--dir", help="Where it goes; ~/.cache/triptych/vbench if not given.")] = None,
    torch_index: Annotated[str | None, typer.Option(help="Where torch comes from, such as a ROCm index; pip's own if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Make the environment that VBench needs for itself, with pinned packages; some gigabytes are fetched."""
    from metrics.quality.vbench.environment import plan_setup, set_up

    planned = plan_setup(python, directory, torch_index)
    if dry_run:
        for command in planned.commands:
            print(" ".join(command))
        return
    set_up(planned, lambda line: print(f"suite: {line}", file=sys.stderr, flush=True))
    print(json.dumps({"vbench": str(planned.folder.resolve())}), flush=True)


@app.command()
def vbench(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with videos of VBench's prompts.")],
    directory: Annotated[Path | None, typer.Option("--dir", help="Of the environment; ~/.cache/triptych/vbench if not given.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Without a GPU, in hours.")] = False,
) -> None:
    """Let VBench judge a run's videos in its own environment, and make the report again with its score."""
    from metrics.quality.vbench.environment import evaluate
    from metrics.report.report import load_run

    evaluate(load_run(run_folder), directory, cpu)
    _finish(_write_report(run_folder))


@app.command("list")
def list_() -> None:
    """List workloads, pipelines, metrics and presets that can be named."""
    from configs.load_config import presets
    from configs.registry import KINDS, names

    for kind in KINDS:
        typer.echo(f"{kind}:")
        for name, origin in sorted(names(kind).items()):
            typer.echo(f"  {name:24} {origin}")
    typer.echo("presets (--config NAME):")
    for name in presets():
        typer.echo(f"  {name}")


def main() -> None:
    """Entry point: what a user can mend is told in one message, without a traceback."""
    from configs.errors import SuiteError

    try:
        app()
    except SuiteError as error:
        from pipelines.distributed.ranks import is_main_process

        if is_main_process():
            print(f"suite: {error}", file=sys.stderr, flush=True)
        raise SystemExit(130 if str(error).startswith("interrupted") else 1) from None
    except KeyboardInterrupt:
        from pipelines.distributed.ranks import is_main_process

        if is_main_process():
            print("suite: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _write_report(folder: Path, brief: bool = False) -> Report:
    import gc

    from metrics.report.html.page import write_html
    from metrics.report.report import build_report

    gc.freeze()  # imageio's PyAV plugin collects garbage on every close; spare it the libraries' objects
    built = build_report(folder, brief)
    write_html(built)
    return built


def _report_on_bundle(packed: Path, output: Path | None) -> None:
    from metrics.report.report_diff import print_comparison, report_bytes
    from workloads.run_folder.bundle import unpack

    folder = unpack(packed, output)
    before = report_bytes(folder)
    built = _write_report(folder)
    _finish(built, same_report=print_comparison(folder, before))


def _report_briefly(folder: Path) -> None:
    """After a run that was given up: its verdict and reasons in its folder, and on stdout; the message comes from `main`."""
    from pipelines.launcher.provenance import seal

    try:
        seal(folder)
        _print_last_line(_write_report(folder, brief=True))
    except OSError as error:
        print(f"suite: no report in {folder}: {error.strerror}", file=sys.stderr, flush=True)


def _finish(built: Report, **more: bool | None) -> None:
    """A short table for people on stderr, one JSON line for programs on stdout, and the exit code."""
    from metrics.report.terminal import print_summary

    print_summary(built)
    _print_last_line(built, **more)
    if not built.valid:
        raise typer.Exit(EXIT_INVALID)


def _print_last_line(built: Report, **more: bool | None) -> None:
    from metrics.report.report import headline

    data = built.data
    line = {"run": str(built.run.folder.resolve()), "verdict": data["verdict"], "rules": data["rules"], "verified_by_mlcommons": False}
    line |= {"headline": headline(built), **more}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
