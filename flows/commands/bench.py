"""`mergeline bench`: speed, measured side by side in one call."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.console import err, out, print_json
from tasks.project import Project

bench = typer.Typer(help="Measure speed, as ratios within one call.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bench, name="bench")


@bench.command("pipeline")
def pipeline(
    study: Annotated[Path, typer.Argument(help="The study to time.")] = Path("studies/digits.yaml"),
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
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
