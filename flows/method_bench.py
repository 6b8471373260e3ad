"""What every method costs through the engine: seconds, memory, and how far from the least that it could be."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from flows.merge_bench import measure_floor
from flows.method_data import ROWS, make_data
from flows.method_floors import SPECTRAL, Machine, arithmetic_floor
from flows.synthetic import Llama, make_checkpoints
from merge_lib import registry
from merge_lib.layers import describe_layers
from merge_lib.spec import MergeSpec
from merge_lib.streaming.allocator import give_back_freed_memory, trim_freed_memory
from merge_lib.streaming.memory_bound import bound_memory, resident_bytes
from merge_lib.streaming.planning import MergePlan, make_plan
from merge_lib.streaming.run import MergeOptions, merge_to

EXPERTS = 4
WIDE = Llama(width=1024, layers=1, vocabulary=2048)
SQUARE = Llama(width=512, layers=1, vocabulary=1024)  # of methods that decompose matrices
SMALL = Llama(width=256, layers=1, vocabulary=512)  # of methods that take hundreds of steps on each
_STEPPING = frozenset({"dop"})
_PAIRS = frozenset({"linear", "slerp", "nuslerp"})  # measured with two experts


@dataclass(frozen=True)
class MethodCost:
    """One method, medians over the rounds.

    Attributes:
        parameters: of one checkpoint.
        input_bytes: of all inputs, those of data included.
        peak_bytes: the most that the merge took beyond what the process had.
        planned_bytes: what the plan said that it would.
        floor_s: the more of reading and writing the bytes and of the products and decompositions.
        floor: which of the two it is.
    """

    method: str
    width: int
    parameters: int
    experts: int
    input_bytes: int
    seconds: float
    peak_bytes: int
    planned_bytes: int
    floor_s: float
    floor: str
    arithmetic: str

    @property
    def s_per_billion(self) -> float:
        """Seconds for 10⁹ parameters of each expert."""
        return self.seconds / (self.parameters * self.experts / 1e9)

    @property
    def memory_ratio(self) -> float:
        """The peak as a share of the inputs."""
        return self.peak_bytes / self.input_bytes

    @property
    def distance(self) -> float:
        """How many floors the merge takes."""
        return self.seconds / self.floor_s


def measure_methods(
    folder: Path,
    methods: Sequence[str],
    rounds: int,
    threads: int,
    tell: Callable[[str], None],
    sizes: tuple[Llama, Llama, Llama] = (WIDE, SQUARE, SMALL),
) -> list[MethodCost]:
    """Time the merges of every method, then look at the memory of one more.

    Args:
        folder: where checkpoints and data are made and kept.
        methods: names; none means all.
        rounds: how often each is timed, after once that does not count.
        threads: of the merges.
        tell: told what is under way.
        sizes: of most methods, of those that decompose matrices, and of those that take steps.
    """
    machine = Machine()
    asked = [_Asked.of(name, folder, sizes) for name in methods or registry.names()]
    times = []
    for one in asked:
        tell(f"timing {one.spec.method}")
        times.append(one.time(folder, rounds, threads))
    give_back_freed_memory(1 << 16, 1 << 16)  # so that the resident size is what is in use
    lines = []
    for one, seconds in zip(asked, times, strict=True):
        peak = one.peak(folder, threads)
        lines.append(one.cost(folder, threads, seconds, peak, machine))
    return lines


@dataclass(frozen=True)
class _Asked:
    """A method with the checkpoints that it is measured on."""

    spec: MergeSpec
    llama: Llama

    @classmethod
    def of(cls, name: str, folder: Path, sizes: tuple[Llama, Llama, Llama]) -> "_Asked":
        info = registry.get(name)
        llama = sizes[2] if name in _STEPPING else sizes[1] if name in SPECTRAL else sizes[0]
        experts = 2 if name in _PAIRS else EXPERTS
        place = folder / f"llama-{llama.parameters}"
        base, models = make_checkpoints(place, llama, EXPERTS)
        data = make_data(place, info, llama.shapes(), experts)
        spec = MergeSpec(
            method=name, base=base if info.needs_base else None, experts=models[:experts], **data
        )
        return cls(spec, llama)

    def time(self, folder: Path, rounds: int, threads: int) -> float:
        """The median, without the first."""
        return median([self._merge(folder, threads) for _ in range(rounds + 1)][1:])

    def peak(self, folder: Path, threads: int) -> int:
        """Bytes of the resident size beyond those before the merge."""
        trim_freed_memory()  # so that what earlier merges left is not taken for nothing
        before = resident_bytes()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now
        self._merge(folder, threads)
        return max(_peak_bytes() - before, 0)

    def cost(self, folder: Path, threads: int, seconds: float, peak: int, machine: Machine) -> MethodCost:
        plan = make_plan(self.spec)
        inputs = [file for source in plan.sources for file in source.files]
        written = sum(work.size_bytes for work in plan.works)
        reading = measure_floor(inputs, folder / "floor.bytes", written)
        layers = list(describe_layers(self.llama.shapes()).values())
        experts = len(self.spec.experts)
        working = arithmetic_floor(self.spec.method, layers, experts, ROWS, threads, machine)
        return MethodCost(
            method=self.spec.method,
            width=self.llama.width,
            parameters=sum(work.count for work in plan.works),
            experts=experts,
            input_bytes=sum(file.stat().st_size for file in inputs) + _data_bytes(plan),
            seconds=seconds,
            peak_bytes=peak,
            planned_bytes=_planned_bytes(plan, threads),
            floor_s=max(reading, working),
            floor="arithmetic" if working > reading else "bytes",
            arithmetic="kernels" if plan.is_compiled else "torch",
        )

    def _merge(self, folder: Path, threads: int) -> float:
        out = folder / "merged.safetensors"
        started = perf_counter()
        merge_to(self.spec, out, MergeOptions(threads=threads))
        elapsed = perf_counter() - started
        for path in (out, out.with_suffix(".merge_manifest.json")):
            path.unlink()
        return elapsed


def _data_bytes(plan: MergePlan) -> int:
    return sum(plan.observed_bytes.values()) + plan.fitted_bytes


def _planned_bytes(plan: MergePlan, threads: int) -> int:
    """What the plan counts beside the process."""
    resident = 1 << 40
    return bound_memory([plan], threads, None, resident).process_bytes - resident


def _peak_bytes() -> int:
    """The most that this process has taken since it was asked to forget."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resident_bytes()
