"""Finding models in folders and in the hub's cache, without a network."""

import shutil
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, T5ForConditionalGeneration

from merge_lib.errors import CheckpointCorruptError, CheckpointError, CheckpointMismatchError
from merge_lib.workloads.pretrained.loading import load_model, load_tokenizer
from merge_lib.workloads.pretrained.locating import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, which cannot be reached."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_into_cache(folder: Path, cache: Path, name: str) -> Path:
    """The files as the hub's tools lay them out: named by content, and linked."""
    place = cache / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    for sub in (place / "refs", place / "blobs", snapshot):
        sub.mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = place / "blobs" / f"{number:040d}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


@pytest.mark.parametrize("kind", ["llama"])
def test_a_folder_and_the_hubs_cache_are_the_same_model(located, folders, cache):
    snapshot = put_into_cache(folders["llama"], cache, "someone/llama")
    found = locate("someone/llama", Path("/nowhere"))
    assert (found.folder, found.revision, found.source) == (snapshot, COMMIT, "someone/llama")
    assert found.digest == located.digest
    assert locate(f"someone/llama@{COMMIT}", Path("/nowhere")) == found.__class__(
        snapshot, f"someone/llama@{COMMIT}", COMMIT, located.digest
    )


@pytest.mark.parametrize("kind", ["llama"])
def test_a_path_counts_from_the_root_and_its_content_is_its_digest(located, folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "models" / "mini")
    found = locate("models/mini", tmp_path)
    assert found.folder == tmp_path / "models" / "mini"
    assert found.digest == located.digest
    (found.folder / "README.md").write_text("words")
    assert locate("models/mini", tmp_path).digest == located.digest
    (found.folder / "generation_config.json").write_text("{}")
    assert locate("models/mini", tmp_path).digest != located.digest


def test_a_model_that_is_nowhere_is_told_with_files_and_places(cache, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        locate("openai/clip-vit-base-patch16", tmp_path, parts=("model", "tokenizer", "images"))
    said = str(caught.value)
    place = cache / "models--openai--clip-vit-base-patch16"
    for part in (
        "Model 'openai/clip-vit-base-patch16' is not whole on this machine. Missing: config.json, ",
        "model.safetensors (or model.safetensors.index.json with its shards, or pytorch_model.bin), ",
        "tokenizer.json (or vocab.json with merges.txt or ",
        "preprocessor_config.json (or processor_config.json). The hub could not be asked (",
        "`hf download openai/clip-vit-base-patch16 --revision main`",
        f"'{place}/snapshots/by-hand' (with the one word `by-hand` in the file '{place}/refs/main')",
        f"or into a folder such as '{tmp_path}/openai/clip-vit-base-patch16'",
    ):
        assert part in said


def test_files_put_by_hand_where_the_message_says_are_found(folders, cache, tmp_path):
    place = cache / "models--someone--llama"
    shutil.copytree(folders["llama"], place / "snapshots" / "by-hand")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("by-hand")
    assert locate("someone/llama", tmp_path).revision == "by-hand"


def test_only_what_is_missing_is_named(folders, cache, tmp_path):
    snapshot = put_into_cache(folders["llama"], cache, "someone/llama")
    with pytest.raises(CheckpointError, match=r"Missing: tokenizer\.json .*put these files into '[^']*0123"):
        locate("someone/llama", tmp_path, parts=("model", "tokenizer"))
    (snapshot / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"Missing: config\.json\. "):
        locate("someone/llama", tmp_path)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors"}}'
    )
    with pytest.raises(
        CheckpointError, match=r"Model folder '.*half' lacks config\.json, model-1\.safetensors\."
    ):
        locate("half", tmp_path)
    with pytest.raises(CheckpointError, match=r"neither a folder \('.*a/b/c' does not exist\) nor a name"):
        locate("a/b/c", tmp_path)


@pytest.mark.parametrize("kind", ["llama"])
def test_a_model_of_another_kind_is_refused(located):
    with pytest.raises(
        CheckpointMismatchError, match=r"does not hold what T5For.* needs: .*is missing.*config\.json"
    ):
        load_model(located, T5ForConditionalGeneration)


@pytest.mark.parametrize("kind", ["llama"])
def test_damaged_files_are_named(located, tmp_path):
    shutil.copytree(located.folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"short")
    broken = locate("broken", tmp_path)
    with pytest.raises(CheckpointCorruptError, match=r"broken/model\.safetensors is not a whole"):
        load_model(broken, LlamaForCausalLM)
    with pytest.raises(CheckpointError, match=r"Model 'broken' in '.*' cannot be loaded as a tokenizer"):
        load_tokenizer(broken)
