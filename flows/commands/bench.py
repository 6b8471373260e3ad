"""`mergeline bench`: speed, measured side by side in one call."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson, Checkpoints, OnlyMethods, Overrides, Rounds, Threads
from flows.console import err, out, print_json
from merge_lib.errors import SpecError
from tasks.project import Project

bench = typer.Typer(help="Measure speed, as ratios within one call.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bench, name="bench")


@bench.command("pipeline")
def pipeline(
    study: Annotated[Path, typer.Argument(help="The study to time.")] = Path("studies/digits.yaml"),
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Time a study as a bare Python loop and as the flow; exit 1 if the flow is over its limits."""
    from flows.bench import LIMIT_RATIO, LIMIT_RERUN_S, measure
    from flows.environment import prepare

    project = Project.find()
    prepare(project)
    with err.status("loop, start-up, flow, flow again: a few minutes"):
        times = measure(project, study, overrides or ())
    is_within = times.ratio <= LIMIT_RATIO and times.rerun_beyond_start_up_s <= LIMIT_RERUN_S
    if as_json:
        extra = {"ratio": times.ratio, "rerun_beyond_start_up_s": times.rerun_beyond_start_up_s}
        print_json({**asdict(times), **extra, "within_limits": is_within})
    else:
        out.print(f"bare loop                       {times.loop_s:7.1f} s")
        out.print(
            f"flow, one step at a time        {times.flow_s:7.1f} s, of which start-up {times.start_up_s:.1f} s"
        )
        out.print(f"  (flow − start-up) / loop      {times.ratio:7.2f}    limit {LIMIT_RATIO}")
        for name, seconds in sorted(times.parts.items(), key=lambda part: -part[1]):
            out.print(f"    {name:<28}{seconds:7.1f} s")
        out.print(f"flow, a step for each core      {times.parallel_s:7.1f} s")
        out.print(
            f"unchanged, again                {times.rerun_s:7.1f} s, start-up {times.warm_start_up_s:.1f} s"
        )
        out.print(
            f"  beyond start-up               {times.rerun_beyond_start_up_s:7.1f} s  limit {LIMIT_RERUN_S}"
        )
    sys.exit(0 if is_within else 1)


@bench.command("merge")
def merge(  # noqa: PLR0913, PLR0917 -- one for each option of the command
    size: Annotated[str, typer.Option(help="Of one checkpoint.")] = "400MB",
    experts: Annotated[int, typer.Option(min=2, help="How many beside the base.")] = 3,
    method: OnlyMethods = None,
    rounds: Rounds = 5,
    is_cold: Annotated[
        bool, typer.Option("--cold", help="Drop the inputs from the page cache first.")
    ] = False,
    threads: Threads = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    folder: Checkpoints = None,
    as_json: AsJson = False,
) -> None:
    """Time merges of synthetic Llama-shaped checkpoints beside the floor of reading and writing their bytes."""
    import tempfile

    from flows.commands.merge import parse_size
    from flows.merge_bench import METHODS, measure

    options = {"is_cold": is_cold, "threads": threads, "device": device}
    with tempfile.TemporaryDirectory() as temporary, err.status("making checkpoints, then measuring"):
        times = measure(
            folder or Path(temporary), method or METHODS, parse_size(size), experts, rounds, **options
        )
    if as_json:
        print_json([{**asdict(line), "ratio": line.ratio} for line in times])
        return
    out.print(f"arithmetic: {times[0].arithmetic}", soft_wrap=True)
    out.print(f"{'method':<26}{'read GB':>9}{'write GB':>9}{'floor s':>9}{'merge s':>9}{'ratio':>7}")
    for line in times:
        sizes = f"{line.read_bytes / 1e9:>9.2f}{line.write_bytes / 1e9:>9.2f}"
        out.print(f"{line.method:<26}{sizes}{line.floor_s:>9.2f}{line.merge_s:>9.2f}{line.ratio:>7.2f}")


@bench.command("kernels")
def kernels(
    method: OnlyMethods = None,
    rounds: Annotated[int, typer.Option(min=1, help="The best of so many counts.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Time the arithmetic alone: one thread, three experts, a piece that stays in the caches."""
    import tempfile

    from flows.kernel_bench import measure_kernels

    with tempfile.TemporaryDirectory() as folder, err.status("timing kernels"):
        times = measure_kernels(Path(folder), method or (), rounds)
    if as_json:
        print_json([asdict(line) for line in times])
        return
    out.print("seconds of one thread for 200 M parameters, base and three experts in bfloat16")
    out.print(f"{'method':<26}{'statistics':>12}{'merge':>8}")
    for line in times:
        out.print(f"{line.method:<26}{line.statistics_s:>12.2f}{line.merge_s:>8.2f}")


@bench.command("methods")
def methods(
    method: OnlyMethods = None,
    rounds: Rounds = 3,
    threads: Threads = 2,
    folder: Checkpoints = None,
    as_json: AsJson = False,
) -> None:
    """Time every merge method through the engine, with its memory and the distance to the least that it must do."""
    import tempfile

    from flows.method_bench import measure_methods

    tell = lambda text: err.print(text, highlight=False)  # noqa: E731 (no spinner: it would take a core's time)
    with tempfile.TemporaryDirectory() as temporary:
        lines = measure_methods(folder or Path(temporary), method or (), rounds, threads, tell)
    if as_json:
        keys = ("s_per_billion", "memory_ratio", "distance")
        print_json([{**asdict(line), **{key: getattr(line, key) for key in keys}} for line in lines])
        return
    out.print("seconds for 10⁹ parameters of each expert; memory as a share of the inputs; floor")
    out.print(
        f"{'method':<28}{'width':>6}{'experts':>8}{'s':>8}{'s/10⁹':>8}{'memory':>8}{'floor s':>9}{'×':>6}  route"
    )
    for line in lines:
        sizes = (
            f"{line.method:<28}{line.width:>6}{line.experts:>8}{line.seconds:>8.2f}{line.s_per_billion:>8.2f}"
        )
        told = f"{line.memory_ratio:>8.2f}{line.floor_s:>9.3f}{line.distance:>6.1f}  {line.floor}, {line.arithmetic}"
        out.print(sizes + told, highlight=False, soft_wrap=True)


@bench.command("fusion-bench")
def fusion_bench(
    method: OnlyMethods = None,
    rounds: Rounds = 3,
    folder: Checkpoints = None,
    as_json: AsJson = False,
) -> None:
    """Merge by us and by FusionBench: how far the results are apart, and what both took.

    FusionBench is installed once, from your package index, into an environment under the cache folder, and uses the
    torch of this one.
    """
    import tempfile

    from flows.peers.side_by_side import compare, table

    tell = lambda text: err.print(text, highlight=False)  # noqa: E731 (no spinner: it would take a core's time)
    with tempfile.TemporaryDirectory() as temporary:
        lines = compare(folder or Path(temporary), method or (), rounds, tell)
    if as_json:
        print_json([{**asdict(line), "times_faster": line.times_faster} for line in lines])
        return
    for text in table(lines):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


@bench.command("memory")
def memory(
    size: Annotated[str, typer.Option(help="Of the largest checkpoints.")] = "2GB",
    experts: Annotated[int, typer.Option(min=1, help="How many beside the base.")] = 24,
    distinct: Annotated[
        int, typer.Option(min=1, help="How many are files of their own; the rest are hard links to them.")
    ] = 6,
    bound: Annotated[str, typer.Option("--memory", help="What a merge may take.")] = "512M",
    method: OnlyMethods = None,
    threads: Threads = 2,
    folder: Checkpoints = None,
    as_json: AsJson = False,
) -> None:
    """Merge many experts within a bound on memory, at a quarter, a half and the whole of a size; exit 1 if it broke.

    The resident size is that of the whole process and its children, looked at every five milliseconds, and no less
    than the system's own record of its peak. Hard links are read like other files, but from the page cache.
    """
    import tempfile

    from flows.commands.merge import parse_size
    from flows.memory_bench import METHODS, Asked, growth, measure_memory

    asked = Asked(parse_size(size), experts, distinct, parse_size(bound), threads, method or METHODS)
    with tempfile.TemporaryDirectory() as temporary:
        lines = measure_memory(
            folder or Path(temporary), asked, lambda text: err.print(text, highlight=False)
        )
    if as_json:
        keys = ("is_held", "s_per_gb", "cpu_s_per_gb")
        print_json([{**asdict(line), **{key: getattr(line, key) for key in keys}} for line in lines])
    else:
        out.print(
            f"{'method':<18}{'inputs':>7}{'read GB':>9}{'s':>8}{'s/GB':>7}{'CPU s/GB':>10}{'MiB':>6}  within {bound}"
        )
        for line in lines:
            shown = f"{line.method:<18}{line.inputs:>7}{line.input_bytes / 1e9:>9.2f}{line.cost.wall_s:>8.1f}"
            peak = f"{line.s_per_gb:>7.2f}{line.cpu_s_per_gb:>10.2f}{line.cost.rss_bytes >> 20:>6}"
            out.print(f"{shown}{peak}  {'yes' if line.is_held else 'NO'}")
        for name in asked.methods:
            out.print(
                f"{name}: a byte of the largest takes {growth(lines, name):.2f} times the CPU of the smallest"
            )
    sys.exit(0 if all(line.is_held for line in lines) else 1)


@bench.command("dry-run")
def dry_run(
    rounds: Annotated[int, typer.Option(min=1, help="The median is over so many.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Time `mergeline merge --dry-run` on headers of four models, 32 layers, width 4096; exit 1 over the limit."""
    import tempfile

    from flows.dry_run_bench import LIMIT_S, measure_dry_run

    with tempfile.TemporaryDirectory() as temporary:
        done = measure_dry_run(Path(temporary), rounds)
    if as_json:
        print_json({**asdict(done), "limit_s": LIMIT_S})
    else:
        out.print(
            f"{done.tensors} tensors, {done.parameters / 1e9:.1f} G parameters, {done.read_bytes / 1e9:.0f} GB to read"
        )
        out.print(f"dry run, whole process  {done.median_s:6.2f} s  limit {LIMIT_S} s")
    sys.exit(0 if done.median_s <= LIMIT_S else 1)


@bench.command("peers")
def peers(
    size: Annotated[str, typer.Option(help="Of one checkpoint.")] = "400MB",
    experts: Annotated[int, typer.Option(min=2, help="How many beside the base.")] = 3,
    method: OnlyMethods = None,
    rounds: Rounds = 3,
    peer: Annotated[
        list[str] | None, typer.Option(help="mergekit or sd-mecha; may be repeated. Default: both.")
    ] = None,
    folder: Checkpoints = None,
    as_json: AsJson = False,
) -> None:
    """Time our merges beside mergekit's and sd-mecha's, on the same files and recipes, as whole processes.

    Each tool is installed once, from your package index, into an environment of its own under the cache folder.
    """
    import tempfile

    from flows.commands.merge import parse_size
    from flows.peers.bench import choose, compare
    from flows.peers.table import NOTES, machine, record, table

    chosen, size_bytes = choose(peer or (), method or ()), parse_size(size)
    tell = lambda text: err.print(text, highlight=False)  # noqa: E731 (no spinner: it would take a core's time)
    with tempfile.TemporaryDirectory() as temporary:
        lines = compare(folder or Path(temporary), chosen, size_bytes, experts, rounds, tell)
    if as_json:
        print_json(record(lines, size_bytes=size_bytes, experts=experts, rounds=rounds))
    else:
        told = ", ".join(f"{name} {value}" for name, value in machine().items())
        for text in (told, f"base and {experts} experts of {size}, {rounds} rounds", *table(lines), *NOTES):
            out.print(text, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1 if any(line.refused for line in lines) else 0)


@bench.command("training")
def training(
    model: Annotated[
        list[str] | None,
        typer.Option(help="vit, llama, vit-base or llama-1b; may be repeated. Default: the first two."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="At least; more, up to four times as many, while they leave it open.")
    ] = 9,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    steps: Annotated[int | None, typer.Option(min=1, help="Of each measurement.")] = None,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Time the training loop beside a bare one on the same model and batches; exit 1 if it is over the limit.

    The ratio is the median over rounds in which each loop runs twice, in turn; beside it stands where it lies with 95 %
    confidence.
    """
    import torch

    from flows.training_bench import LIMIT_RATIO, measure_training

    if precision not in ("fp32", "bf16"):
        raise SpecError(f"--precision is '{precision}', but both loops know fp32 and bf16 only.")
    torch.set_num_threads(threads)
    lines = measure_training(model or (), rounds, precision=precision, steps=steps)
    if as_json:
        print_json([{**asdict(line), "examples_per_s": line.examples_per_s} for line in lines])
    else:
        out.print(f"{lines[0].device}, {precision}; limit of the ratio {LIMIT_RATIO}")
        out.print(
            f"{'model':<10}{'10⁶ params':>11}{'batch':>7}{'bare ms':>9}{'ours ms':>9}{'ratio':>7}  95 % within"
        )
        for line in lines:
            sizes = f"{line.name:<10}{line.parameters / 1e6:>11.2f}{line.batch_size:>7}"
            times = f"{line.bare_step_s * 1e3:>9.1f}{line.step_s * 1e3:>9.1f}{line.ratio:>7.3f}"
            spread = (
                f"{line.low_ratio:.3f} to {line.high_ratio:.3f}, {line.rounds} rounds, of processor time "
            )
            spread += f"{line.processor_ratio:.3f}" + ("" if line.is_decided else ", UNDECIDED")
            memory = "" if line.peak_bytes is None else f", {line.peak_bytes / 2**30:.1f} GiB at most"
            out.print(f"{sizes}{times}  {spread}{memory}", highlight=False, soft_wrap=True)
    sys.exit(0 if all(line.ratio <= LIMIT_RATIO for line in lines) else 1)
