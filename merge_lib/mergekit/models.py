"""The models that a recipe names: where they are, and whether they have the same tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merge_lib.errors import CheckpointMismatchError, SpecError
from merge_lib.files.folders import Source
from merge_lib.streaming.companions import read_json
from merge_lib.streaming.headers import read_source


def open_model(name: str, folder: Path, given: Mapping[str, Path]) -> Source:
    """The headers of a model; of `model+adapter` as the adapter changes the model.

    Args:
        name: as the recipe has it: a path from the recipe's folder or, if nothing is there, from the current one.
        folder: of the recipe.
        given: paths by name, which come first.

    Raises:
        SpecError: there is no such path.
        CheckpointError: what is there cannot be merged.
    """
    if name in given:
        return replace(read_source(given[name]), label=name)
    model, _, adapter = name.partition("+")
    base = _find(model, folder, given)
    source = read_source(_find(adapter, folder, given), base) if adapter else read_source(base)
    return replace(source, label=name)


def check_tokenizers(models: Iterable[Source], template: Source) -> None:
    """Refuse models whose tokens are not those of the template: their embeddings mean something else.

    Raises:
        CheckpointMismatchError: lists the models.
    """
    expected = _tokenizers(template)[:1]
    wrong = [
        model.label
        for model in models
        if expected and any(not _agree(path, expected[0]) for path in _tokenizers(model))
    ]
    if wrong:
        raise CheckpointMismatchError(
            f"The tokens of {', '.join(wrong)} are not those of {template.label}. Rows of embeddings are merged "
            "by their number, so the tokenizers must agree. Merge models that share one."
        )


def _find(name: str, folder: Path, given: Mapping[str, Path]) -> Path:
    if name in given:
        return Path(given[name])
    tried = [folder / name, Path(name)]
    for path in tried:
        if path.exists():
            return path
    raise SpecError(
        f"Model '{name}' is neither in the recipe's folder ({tried[0].absolute()}) nor in the current one "
        f"({tried[1].absolute()}). Model hub names are not fetched: give the path of a local folder or file."
    )


def _tokenizers(model: Source) -> list[Path]:
    """The files with a model's tokens; an adapter may bring one of its own."""
    folders = [model.path] if model.base is None else [model.path, model.base]
    return [path for folder in folders if (path := folder / "tokenizer.json").is_file()]


def _agree(left: Path, right: Path) -> bool:
    return left.read_bytes() == right.read_bytes() or _vocabulary(left) == _vocabulary(right)


def _vocabulary(path: Path) -> dict[str, Any]:
    """Tokens by number."""
    content = read_json(path)
    return {"vocab": content.get("model", {}).get("vocab"), "added": content.get("added_tokens")}
