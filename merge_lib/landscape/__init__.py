"""Where base, experts and merges lie: losses along paths and over planes, conflicts between experts, layer by layer."""

from merge_lib.landscape.conflicts import conflict_table, summarise_conflicts
from merge_lib.landscape.measuring import Examples, measure
from merge_lib.landscape.paths import Waypoint, between, follow
from merge_lib.landscape.planes import Plane
from merge_lib.landscape.surfaces import Rows, frame, mark, survey

__all__ = [
    "Examples",
    "Plane",
    "Rows",
    "Waypoint",
    "between",
    "conflict_table",
    "follow",
    "frame",
    "mark",
    "measure",
    "summarise_conflicts",
    "survey",
]
