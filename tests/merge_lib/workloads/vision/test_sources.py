"""Images in colour, from folders and from data sets of the hub."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from merge_lib.errors import DataError
from merge_lib.workloads.vision.data import make_task, read_snapshot, write_snapshot
from merge_lib.workloads.vision.hub import hub_folder
from merge_lib.workloads.vision.sources import Form, read_raw

RED, BLUE = (200, 0, 0), (0, 0, 200)


def png(colour) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(written, "png")
    return written.getvalue()


def table(rows, *, names=("red", "blue"), label="fine_label", more=None) -> pa.Table:
    """Rows of (colour, label), as the hub writes them."""
    features = {"img": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    columns = {
        "img": [{"bytes": png(colour), "path": "x.png"} for colour, _ in rows],
        label: [number for _, number in rows],
        **(more or {}),
    }
    about = {"info": {"features": features if names else {}}}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(about)})


def shades(base, count, start=0):
    return [(tuple(min(255, part + start + n) for part in base), int(base == BLUE)) for n in range(count)]


@pytest.fixture
def parquet(tmp_path) -> Path:
    folder = tmp_path / "set"
    (folder / "plain").mkdir(parents=True)
    pq.write_table(table(shades(RED, 6) + shades(BLUE, 6)), folder / "plain" / "train-00000-of-00001.parquet")
    test = table(shades(RED, 2, 20) + shades(BLUE, 2, 20))
    pq.write_table(test, folder / "plain" / "test-00000-of-00001.parquet")
    return folder


def test_folders_in_colour_keep_red_green_and_blue(tmp_path):
    for name, colour in (("blue", BLUE), ("red", RED)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), colour).save(tmp_path / name / "1.png")
    raw = read_raw(tmp_path, Form(8, colour=True))
    assert raw.images.shape == (2, 8, 8, 3)
    assert raw.images[:, 0, 0].tolist() == [list(BLUE), list(RED)]
    assert read_raw(tmp_path, Form(8)).images.shape == (2, 8, 8)


def test_the_digits_are_grey():
    with pytest.raises(DataError, match="has grey images, but `colour` is true"):
        read_raw(Path("data/raw/digits.csv.gz"), Form(8, colour=True))


def test_a_data_set_brings_its_classes_and_its_test_images(parquet):
    raw = read_raw(parquet, Form(4, colour=True))
    assert raw.classes == ("red", "blue")
    assert raw.images.shape == (16, 4, 4, 3)
    assert raw.is_test.tolist() == [True] * 4 + [False] * 12
    assert raw.images[0, 0, 0].tolist() == [220, 20, 20]
    assert raw.labels.tolist() == [0] * 2 + [1] * 2 + [0] * 6 + [1] * 6


def test_the_test_split_is_the_data_sets_own(parquet, tmp_path):
    raw = read_raw(parquet, Form(4, colour=True))
    made = make_task(raw, "set", raw.classes, seed=0, validation=0.34, test=0.4)
    assert {split: np.bincount(part.labels).tolist() for split, part in made.splits.items()} == {
        "train": [4, 4],
        "validation": [2, 2],
        "test": [2, 2],
    }
    assert sorted(made.splits["test"].images[:, 0, 0, 1].tolist()) == [20, 20, 21, 21]
    write_snapshot(made, tmp_path / "set.safetensors")
    again = read_snapshot(tmp_path / "set.safetensors")
    assert again.splits["test"].images.tobytes() == made.splits["test"].images.tobytes()


def test_a_copy_of_a_test_image_is_not_trained_on(tmp_path):
    pq.write_table(table([*shades(RED, 3), *shades(BLUE, 3)]), tmp_path / "train-0.parquet")
    pq.write_table(table([*shades(RED, 1), *shades(BLUE, 1, 9)]), tmp_path / "test-0.parquet")
    raw = read_raw(tmp_path, Form(4, colour=True))
    made = make_task(raw, "set", raw.classes, seed=0, validation=0.4, test=0.1)
    reds = [part.images[part.labels == 0][:, 0, 0, 0].tolist() for part in made.splits.values()]
    assert sum(values.count(200) for values in reds) == 1
    assert 200 in made.splits["test"].images[:, 0, 0, 0]


def test_arrow_files_are_read_too(tmp_path):
    for split, rows in (("train", shades(RED, 2) + shades(BLUE, 2)), ("test", shades(RED, 1, 50))):
        (tmp_path / split).mkdir()
        made = table(rows)
        path = str(tmp_path / split / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
    raw = read_raw(tmp_path, Form(4))
    assert raw.images.shape == (5, 4, 4)
    assert raw.is_test.tolist() == [True, False, False, False, False]


def test_classes_without_names_are_numbered(tmp_path):
    pq.write_table(table(shades(RED, 1) + shades(BLUE, 1), names=()), tmp_path / "all.parquet")
    raw = read_raw(tmp_path, Form(4))
    assert raw.classes == ("0", "1")
    assert raw.is_test is None


def test_the_column_with_labels_must_be_clear(tmp_path):
    two = {"coarse_label": [0, 0]}
    pq.write_table(table(shades(RED, 2), names=(), more=two), tmp_path / "all.parquet")
    with pytest.raises(
        DataError,
        match=r"columns of labels fine_label, coarse_label, but the only one was expected.*as `label`",
    ):
        read_raw(tmp_path, Form(4))
    assert read_raw(tmp_path, Form(4), columns=(None, "coarse_label")).labels.tolist() == [0, 0]
    with pytest.raises(DataError, match="columns of images img, but 'image' was expected"):
        read_raw(tmp_path, Form(4), columns=("image", "coarse_label"))


def test_broken_files_are_named(tmp_path):
    (tmp_path / "all.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"all\.parquet' of the data set cannot be read"):
        read_raw(tmp_path, Form(4))


def test_what_the_hubs_tools_fetched_is_found(parquet, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    place = tmp_path / "home" / "hub" / "datasets--owner--set"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc\n")
    (place / "snapshots").mkdir()
    parquet.rename(place / "snapshots" / "abc")
    assert hub_folder("owner/set") == place / "snapshots" / "abc"
    with pytest.raises(DataError, match="Data set 'owner/other' is not on this machine"):
        hub_folder("owner/other")


def test_pictures_are_cropped_to_the_middle_or_stretched(tmp_path):
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255  # white in the middle
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    assert read_raw(tmp_path, Form(4, fit="crop")).images[0].tolist() == [[255] * 4] * 4
    assert read_raw(tmp_path, Form(3)).images[0][0].tolist() == [0, 255, 0]
    assert read_raw(tmp_path, Form(2, fit="crop")).images[0].mean() > 200
