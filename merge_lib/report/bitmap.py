"""Heat maps as PNG, for where no SVG is taken."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from merge_lib.report.palette import LIGHT


def write_block_maps(
    merges: Mapping[str, Mapping[str, Mapping[str, float]]], tasks: Sequence[str], path: Path
) -> Path:
    """The energy kept by block and task; the arguments of `audits.block_figure`."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    rows = max(len(blocks) for blocks in merges.values())
    size = (2.2 + 0.8 * len(tasks), 1.1 + 0.32 * rows)
    figure = Figure(figsize=(size[0] * len(merges), size[1]), layout="constrained", dpi=150)
    colours = LinearSegmentedColormap.from_list("heat", LIGHT.heat)
    for axes, (title, blocks) in zip(
        figure.subplots(1, len(merges), squeeze=False)[0], merges.items(), strict=True
    ):
        values = np.array([[kept.get(task, np.nan) for task in tasks] for kept in blocks.values()])
        axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"{title}: energy kept, %", fontsize=9)
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", fontsize=7)
        axes.set_yticks(range(len(blocks)), list(blocks), fontsize=7)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if value > 0.6 else "black"
                axes.text(
                    column, row, f"{value * 100:.0f}", ha="center", va="center", fontsize=7, color=colour
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": "mergeline"})
    return path
