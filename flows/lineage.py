"""From a metric back to the data: what each row of a run was made from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from merge_lib.results import CheckpointRef, StudyResults
from tasks.project import Project
from tasks.records import Record, RecordStore

_ORDER = ("reference", "learner", "merge")  # where one checkpoint has several rows, the first made it


def lineage_of(project: Project, results: StudyResults, label: str | None = None) -> list[dict[str, Any]]:
    """One entry a merge or reference row: the last checkpoint's chain of records, down to the data hashes.

    A merge that was not kept has no path, until a later run keeps it.
    """
    store = RecordStore(project.store)
    rows = [row for row in results.rows if label is None or row.label == label]
    made_by: dict[str, CheckpointRef] = {}
    for row in sorted(results.rows, key=lambda row: _ORDER.index(row.kind)):
        for ref in row.checkpoints:  # a merge of one expert has the expert's digest; the expert comes first
            made_by.setdefault(ref.digest, ref)
    return [
        {
            "label": row.label,
            "regime": row.regime,
            "seed": row.seed,
            "metrics": {name: row.metrics.get(name) for name in ("average_accuracy", "forgetting")},
            "model": _chain(project, store, row.checkpoints[-1], made_by),
        }
        for row in rows
    ]


def _chain(
    project: Project, store: RecordStore, ref: CheckpointRef, made_by: dict[str, CheckpointRef]
) -> dict[str, Any]:
    record = _record_of(store, ref)
    path = ref.path or _kept_since(project, store, record)
    node: dict[str, Any] = {"digest": ref.digest, "path": path, "size_bytes": ref.size_bytes}
    if record is None:
        return node
    node |= {"made_by": record.kind, "key": record.key, "params": record.params}
    if ref.search is not None:
        node["search"] = asdict(ref.search)
    data = {name: digest for name, digest in record.inputs.items() if digest not in made_by}
    parents = {name: digest for name, digest in record.inputs.items() if digest in made_by}
    node["data"] = data
    node["from"] = {
        name: _chain(project, store, made_by[digest], made_by) for name, digest in sorted(parents.items())
    }
    return node


def _kept_since(project: Project, store: RecordStore, record: Record | None) -> str | None:
    """Where a later run has written a merge that was not kept at first."""
    if record is None or record.values["checkpoint"] is None:
        return None
    return project.relative(store.folder(record.kind, record.key) / record.values["checkpoint"])


def _record_of(store: RecordStore, ref: CheckpointRef) -> Record | None:
    if ref.record:
        kind, _, key = ref.record.partition("/")
        return store.find(kind, key)
    if ref.path is None:
        return None
    place = Path(ref.path)
    return store.find(place.parent.parent.name, place.parent.name)


def lineage_lines(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The chains as an indented text."""
    for entry in entries:
        regime, seed = entry["regime"] or "–", "–" if entry["seed"] is None else entry["seed"]
        measured = ", ".join(
            f"{name} {value:.3f}" for name, value in entry["metrics"].items() if value is not None
        )
        yield f"{entry['label']} · {regime} · seed {seed}" + (f": {measured}" if measured else "")
        yield from _tree(entry["model"], "  ", "")


def _tree(node: dict[str, Any], indent: str, role: str) -> Iterator[str]:
    recipe = _recipe(node)
    yield f"{indent}{role}{node['digest']}  {node['path'] or 'not kept'}" + (
        f"  [{recipe}]" if recipe else ""
    )
    if (search := node.get("search")) is not None:
        yield f"{indent}  {_searched(search)}"
    for name, digest in sorted(node.get("data", {}).items()):
        yield f"{indent}  data {name}: {digest}"
    for name, parent in node.get("from", {}).items():
        yield from _tree(parent, indent + "  ", f"{name}: ")


def _searched(search: dict[str, Any]) -> str:
    values = ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in search["values"].items()
    )
    return (
        f"{search['record']}: {values} reached {search['objective']:.3f} on the validation data of "
        f"{search['experts']} tasks, the best of {search['trials']} trials"
    )


def _recipe(node: dict[str, Any]) -> str:
    params = node.get("params", {})
    if node.get("made_by") == "merge":
        return f"merge {_called(params['method'], params['params'])} seed {params['seed']}"
    if node.get("made_by") == "route":
        routing = ", ".join(
            f"{key}={value}" for key, value in sorted(params["routing"].items()) if key != "images"
        )
        return f"{_recipe({**node, 'made_by': 'merge'})} answered by {routing}"
    if node.get("made_by") == "train":
        how = f" by {_called(params['learner'], params['params'])}" if "learner" in params else ""
        return f"train on {', '.join(params['train_on'])}{how} seed {params['seed']}"
    return str(node.get("made_by", ""))


def _called(name: str, settings: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in sorted(settings.items()))})"
