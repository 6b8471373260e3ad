"""The measurements of memory, of dry runs, and of a cold cache."""

from pathlib import Path

import psutil
import pytest

from flows.dry_run_bench import make_headers, measure_dry_run
from flows.memory_bench import PARTS, Asked, Merged, growth, make_models, measure_memory
from flows.merge_bench import cached_share, forget
from flows.process_cost import Cost
from flows.synthetic import Llama
from merge_lib.errors import MergeError


def merged(input_bytes, wall_s, rss_bytes=50):
    return Merged("ties", 3, input_bytes, 100, Cost(wall_s, wall_s, rss_bytes, rss_bytes))


def test_growth_is_of_seconds_for_each_byte():
    lines = [merged(4_000_000_000, 10), merged(1_000_000_000, 2), merged(2_000_000_000, 5)]
    assert [line.s_per_gb for line in lines] == [2.5, 2.0, 2.5]
    assert growth(lines, "ties") == 1.25


def test_a_bound_holds_up_to_its_last_byte():
    assert merged(1, 1, 100).is_held
    assert not merged(1, 1, 101).is_held


def test_experts_beyond_the_distinct_ones_are_links_to_them(tmp_path):
    base, experts = make_models(tmp_path, 4_000_000, experts=5, distinct=2)
    assert len({base, *experts}) == 6
    assert len({path.stat().st_ino for path in experts}) == 2
    assert make_models(tmp_path, 4_000_000, experts=5, distinct=2) == (base, experts)


@pytest.mark.slow
def test_a_bound_is_held_with_24_experts(tmp_path):
    asked = Asked(8_000_000, experts=24, distinct=3, memory_bytes=145 << 20, threads=2)
    lines = measure_memory(tmp_path, asked, lambda _text: None)
    assert [(line.method, line.inputs) for line in lines] == len(PARTS) * [
        ("task_arithmetic", 25),
        ("ties", 25),
    ]
    assert all(line.is_held for line in lines), [line.cost.rss_bytes >> 20 for line in lines]


def test_headers_of_large_models_take_no_space_and_are_previewed(tmp_path):
    llama = Llama(width=4096, layers=2)
    model, _ = make_headers(tmp_path / "seen", llama, 2)
    (weights,) = model.glob("*.safetensors")
    assert weights.stat().st_size > 2 * llama.parameters > 10_000 * weights.stat().st_blocks
    done = measure_dry_run(tmp_path, 1, llama)
    assert (done.tensors, done.parameters) == (21, llama.parameters + 5 * llama.width)
    assert done.median_s > 0


def test_a_file_is_dropped_from_the_cache_though_it_was_just_written(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(3_000_000))
    assert cached_share(path) == 1
    if file_system_of(path) in ("tmpfs", "ramfs"):  # such files have no other place than the cache
        with pytest.raises(MergeError, match="stayed in the page cache"):
            forget([path])
        return
    forget([path])
    assert cached_share(path) == 0
    assert cached_share(path) == 0  # looking reads nothing


def file_system_of(path):
    """The kind of file system that a path lies on."""
    mounts = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    return next(mounts[folder] for folder in path.resolve().parents if folder in mounts)
