"""From raw images to task snapshots."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from merge_lib.errors import DataError
from merge_lib.workloads.vision.data import (
    Examples,
    RawImages,
    Snapshot,
    drop_duplicates,
    make_task,
    read_snapshot,
    split_class,
    write_snapshot,
)
from merge_lib.workloads.vision.sources import Form, read_digits, read_raw

RAW = Path("data/raw/digits.csv.gz")
SHARES = {"seed": 0, "validation": 0.1, "test": 0.4}


@pytest.fixture(scope="module")
def digits():
    return read_digits(RAW)


def as_set(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_handwritten_digits_are_whole(digits):
    assert digits.images.shape == (1797, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_no_image_is_in_two_splits_and_none_is_lost(digits):
    snapshot = make_task(digits, "digits-01", ["0", "1"], **SHARES)
    parts = {split: as_set(examples.images) for split, examples in snapshot.splits.items()}
    assert len(parts["train"] | parts["validation"] | parts["test"]) == sum(map(len, parts.values())) == 360


def test_splits_are_stratified(digits):
    snapshot = make_task(digits, "digits-01", ["1", "0"], **SHARES)
    counts = {split: np.bincount(examples.labels).tolist() for split, examples in snapshot.splits.items()}
    # 182 ones and 178 zeros: 0.4 of them are 72.8 and 71.2, 0.1 are 18.2 and 17.8
    assert counts == {"test": [73, 71], "validation": [18, 18], "train": [91, 89]}


def test_labels_are_positions_in_the_task(digits):
    snapshot = make_task(digits, "digits-98", ["9", "8"], **SHARES)
    nines = as_set(digits.images[digits.labels == 9])
    test = snapshot.splits["test"]
    assert [image.tobytes() in nines for image in test.images] == (test.labels == 0).tolist()


def test_a_class_is_split_alike_in_every_task(digits):
    first = make_task(digits, "digits-01", ["0", "1"], **SHARES).splits["test"]
    second = make_task(digits, "digits-71", ["7", "1"], **SHARES).splits["test"]
    assert as_set(first.images[first.labels == 1]) == as_set(second.images[second.labels == 1])


def test_split_of_ten_by_hand_counts():
    parts = split_class(10, seed=3, name="x", validation=0.2, test=0.3)
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 5, "validation": 2, "test": 3}
    assert sorted(parts["train"] + parts["validation"] + parts["test"]) == list(range(10))
    assert parts != split_class(10, seed=4, name="x", validation=0.2, test=0.3)
    assert parts != split_class(10, seed=3, name="y", validation=0.2, test=0.3)


def test_duplicates_are_dropped_and_contradictions_altogether():
    a, b, c = (np.full((1, 2, 2), value, dtype=np.uint8) for value in (7, 3, 5))
    images = np.concatenate([a, b, a, c, b])
    raw = RawImages(images, np.array([0, 1, 0, 1, 0]), ("x", "y"), 16)  # a twice as x; b as y and as x
    kept = drop_duplicates(raw)
    assert kept.images[:, 0, 0].tolist() == [7, 5]
    assert kept.labels.tolist() == [0, 1]


def test_same_seed_same_bytes(digits, tmp_path):
    for name in ("one", "two"):
        write_snapshot(make_task(digits, "t", ["3", "4"], **SHARES), tmp_path / name)
    write_snapshot(make_task(digits, "t", ["3", "4"], **(SHARES | {"seed": 1})), tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "two"]


def test_snapshot_is_read_as_written(digits, tmp_path):
    snapshot = make_task(digits, "t", ["3", "4"], **SHARES)
    write_snapshot(snapshot, tmp_path / "t.safetensors")
    found = read_snapshot(tmp_path / "t.safetensors")
    assert (found.name, found.classes, found.white) == ("t", ("3", "4"), 16)
    assert found.origin == SHARES
    np.testing.assert_array_equal(found.splits["test"].images, snapshot.splits["test"].images)
    np.testing.assert_array_equal(found.splits["test"].labels, snapshot.splits["test"].labels)


def test_truncated_snapshot_is_refused(digits, tmp_path):
    path = tmp_path / "t.safetensors"
    write_snapshot(make_task(digits, "t", ["3", "4"], **SHARES), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot be read .* delete it and run `dvc repro`"):
        read_snapshot(path)


def test_file_without_description_is_no_snapshot(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="was not written by a data stage"):
        read_snapshot(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), np.array([0, 2]), "not one of the 2 classes"),
        (
            np.zeros((2, 8, 8), np.uint8),
            np.array([0, 1, 1]),
            r"images uint8\(2, 8, 8\) and labels int64\(3,\)",
        ),
        (np.zeros((2, 8, 8), np.float32), np.array([0, 1]), "images float32"),
        (np.zeros((0, 8, 8), np.uint8), np.array([], dtype=np.int64), "train is empty"),
    ],
)
def test_inconsistent_snapshot_is_refused(tmp_path, images, labels, message):
    write_snapshot(Snapshot("t", ("a", "b"), 16, {"train": Examples(images, labels)}, {}), tmp_path / "t")
    with pytest.raises(DataError, match=message):
        read_snapshot(tmp_path / "t")


def test_missing_raw_data(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_digits(tmp_path / "no.csv.gz")


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"1,2,x\n"), gzip.compress(b"1,2,3\n4,5\n"), RAW.read_bytes()[:5000]],
    ids=["no gzip", "no number", "ragged", "truncated"],
)
def test_unreadable_raw_data(tmp_path, content):
    (tmp_path / "raw.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read .* gzipped CSV of 64 grey values"):
        read_digits(tmp_path / "raw.csv.gz")


@pytest.mark.parametrize(
    ("row", "message"),
    [([1] * 64, "has 64 columns"), ([17] * 64 + [0], "from 0 to 17"), ([0] * 64 + [-1], "from -1 to 0")],
)
def test_raw_data_outside_the_format(tmp_path, row, message):
    (tmp_path / "raw.csv.gz").write_bytes(gzip.compress(",".join(map(str, row)).encode()))
    with pytest.raises(DataError, match=message):
        read_digits(tmp_path / "raw.csv.gz")


def test_unknown_class_lists_the_known(digits):
    with pytest.raises(DataError, match=r"needs class '10', which the raw data lacks; .*known: 0, 1, 2"):
        make_task(digits, "t", ["0", "10"], **SHARES)


def test_class_too_small_for_its_splits():
    raw = RawImages(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.array([0, 0, 1]), ("x", "y"), 16)
    with pytest.raises(DataError, match=r"Class 'x' of task 't' has 2 distinct images.*validation"):
        make_task(raw, "t", ["x", "y"], **SHARES)


def test_image_folder_is_raw_data(tmp_path):
    for name, value in (("cat", 40), ("dog", 200)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("L", (16, 16), value + number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    raw = read_raw(tmp_path, Form(8))
    assert raw.classes == ("cat", "dog")
    assert raw.images.shape == (4, 8, 8)
    assert (raw.labels.tolist(), raw.images[:, 0, 0].tolist()) == ([0, 0, 1, 1], [40, 41, 200, 201])


def test_broken_image_and_empty_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        read_raw(tmp_path, Form(8))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat/1\.png' cannot be read"):
        read_raw(tmp_path, Form(8))


def test_snapshots_keep_names_and_templates_and_stay_in_the_file(tmp_path):
    examples = {"train": Examples(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([1, 0]))}
    plain = Snapshot("t", ("a", "b"), 16, examples, {})
    told = Snapshot("t", ("a", "b"), 16, examples, {}, ("ape", "bee"), ("a {}",))
    for name, snapshot in (("plain", plain), ("told", told)):
        write_snapshot(snapshot, tmp_path / name)
    assert (read_snapshot(tmp_path / "plain").names, read_snapshot(tmp_path / "plain").templates) == ((), ())
    read = read_snapshot(tmp_path / "told")
    assert (read.names, read.templates) == (("ape", "bee"), ("a {}",))
    before = (tmp_path / "told").read_bytes()
    read.splits["train"].images[:] = 0  # of the copy in memory
    assert (tmp_path / "told").read_bytes() == before
    assert read_snapshot(tmp_path / "told").splits["train"].images.tolist() == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
    ]
