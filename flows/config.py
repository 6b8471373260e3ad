"""A study, read from YAML and checked whole: every error at once, with its line and the nearest name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flows.landscape_settings import LandscapeSettings
from flows.learner_entries import LearnerEntry, check_taught
from flows.method_entries import MethodEntry
from flows.routing_checks import check_features
from flows.yaml_errors import YamlDocument, explain
from merge_lib.errors import SpecError
from merge_lib.plugins import load_plugins
from merge_lib.results import Regime
from merge_lib.types import Name
from merge_lib.workloads import WorkloadConfig
from tasks.project import Project

AXES = "axes"  # the key of a file that holds several studies: flows.axes


class Frozen(BaseModel):
    """A part of the study: read once, never changed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseEntry(Frozen):
    """Where the base comes from: pre-trained by the workload, or a checkpoint of the user's."""

    checkpoint: Path | None = None
    seed: int = Field(default=0, ge=0)
    per_seed: bool = False  # each seed of the study pre-trains a base of its own, by `seed` + that seed

    @model_validator(mode="after")
    def _per_seed_is_pretrained(self) -> Self:
        if self.per_seed and self.checkpoint is not None:
            raise ValueError(
                "`per_seed` pre-trains a base for each seed, but `checkpoint` names one for all; leave one out"
            )
        return self


class Resources(Frozen):
    """What a run may use in its own process."""

    parallel: int | None = Field(default=None, ge=1)  # steps computed at once; None: the cores, at most 4
    threads: int = Field(default=1, ge=1)  # of torch in each step; the last bits of a training depend on it


class StudyConfig(Frozen):
    """The whole experiment, as a study YAML states it."""

    study: Name
    description: str = ""
    plugins: tuple[str, ...] = ()  # Python files of the user's own, with methods or workloads
    workload: WorkloadConfig
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    regimes: Annotated[tuple[Regime, ...], Field(min_length=1)] = ("sequential", "parallel")
    merged_from: Name | None = None  # label of the method whose merges experts start from in regime "merged"
    base: BaseEntry = BaseEntry()
    methods: tuple[MethodEntry, ...] = ()
    learners: tuple[LearnerEntry, ...] = Field(
        default=(), validate_default=True
    )  # no merges: ways of training
    references: tuple[Literal["joint"], ...] = ("joint",)
    keep_merged: bool = True  # False: each merge is evaluated as it is made, and not written
    audit: bool = True  # say what each method's merge after the last task removed
    landscape: LandscapeSettings = LandscapeSettings()
    forgetting: bool = (
        False  # and which directions and examples it forgot; `mergeline forgetting` says it later, too
    )
    resources: Resources = Resources()
    levels: dict[str, str] = Field(
        default_factory=dict
    )  # of its axes, if it is one cell of a study with `axes`

    @property
    def snapshots(self) -> tuple[str, ...]:
        """All data that the study reads."""
        load = self.workload
        names = (*load.pretraining_snapshots(), *load.task_snapshots(self.tasks), *load.probe_snapshots())
        return tuple(dict.fromkeys(names))

    @field_validator("tasks", "seeds", "regimes")
    @classmethod
    def _no_repeats(cls, values: Sequence[Any]) -> Sequence[Any]:
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"{', '.join(repeated)} stands here more than once; each may stand once")
        return values

    @model_validator(mode="after")
    def _merged_has_a_leader(self) -> Self:
        labels = [entry.label for entry in self.methods]
        if ("merged" in self.regimes) != (self.merged_from is not None):
            raise ValueError(
                "regime `merged` trains each expert from what the method `merged_from` made of those before it; "
                "give both or neither"
            )
        if self.merged_from is not None and self.merged_from not in labels:
            raise ValueError(
                f"`merged_from` is '{self.merged_from}', but must be the label of one of `methods`: "
                f"{', '.join(labels)}"
            )
        return self

    @model_validator(mode="after")
    def _leader_looks_back(self) -> Self:
        for entry in self.methods:
            if entry.label == self.merged_from and entry.search and entry.search.when == "last":
                raise ValueError(
                    f"`merged_from` is '{entry.label}', whose search waits for the last task (`when: last`), but "
                    "experts are trained from its merges. Give its search `when: every` or `when: first`."
                )
        return self

    @field_validator("methods")
    @classmethod
    def _rows_of_each(cls, entries: tuple[MethodEntry, ...]) -> tuple[MethodEntry, ...]:
        return tuple(row for entry in entries for row in entry.rows())

    @field_validator("methods")
    @classmethod
    def _votes_need_features(
        cls, entries: tuple[MethodEntry, ...], info: ValidationInfo
    ) -> tuple[MethodEntry, ...]:
        if "workload" in info.data:
            voting = [entry.label for entry in entries if entry.routing is not None and entry.routing.votes]
            check_features(info.data["workload"], voting)
        return entries

    @field_validator("methods")
    @classmethod
    def _labels_differ(cls, entries: tuple[MethodEntry, ...]) -> tuple[MethodEntry, ...]:
        check_labels([entry.label for entry in entries])
        return entries

    @field_validator("learners")
    @classmethod
    def _learners_fit(
        cls, entries: tuple[LearnerEntry, ...], info: ValidationInfo
    ) -> tuple[LearnerEntry, ...]:
        if not entries and info.data.get("methods") == ():
            raise ValueError("the study compares nothing; give `methods`, `learners` or both")
        methods = [entry.label for entry in info.data.get("methods", ())]
        check_labels([*methods, *(entry.label for entry in entries)])
        if "workload" in info.data:
            check_taught(entries, info.data["workload"])
        return entries


def check_labels(labels: Sequence[str]) -> None:
    """Refuse labels that stand for two rows each."""
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two rows have the label {', '.join(repeated)}; give each its own `label`")


def restore_study(root: Path, content: dict[str, Any]) -> StudyConfig:
    """The study of a run, from the validated form that was kept of it."""
    load_plugins(root, content.get("plugins", ()))
    return StudyConfig.model_validate(content)


def changed_study(root: Path, content: dict[str, Any], overrides: Sequence[str]) -> StudyConfig:
    """The study of a run with other settings.

    Args:
        root: the project's folder.
        content: the validated form that was kept of it.
        overrides: as of `load_study`.

    Raises:
        SpecError: anything in them is wrong.
    """
    load_plugins(root, content.get("plugins", ()))
    document = YamlDocument.of(content, Path("the run's settings"))
    for override in overrides:
        document.override(override)
    try:
        return StudyConfig.model_validate(document.plain())
    except ValidationError as failure:
        raise SpecError(explain(failure, document, StudyConfig)) from failure


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The validated study.

    Args:
        path: the study's YAML file.
        overrides: `key=value`, keys dotted (`workload.fine_tuning.epochs=3`, `methods.ties.params.density=0.5`).

    Returns:
        The frozen configuration, defaults filled in.

    Raises:
        SpecError: the file cannot be read, or anything in it is wrong; the message lists all errors.
    """
    document = YamlDocument.read(path)
    for override in overrides:
        document.override(override)
    if document.root.get(AXES) is not None:
        raise SpecError(
            f"{document.line((AXES,))}: the study has `{AXES}`, so it is several studies. Name a level of each axis "
            "(`mergeline run` runs them all), or take the key out."
        )
    try:
        return validated(document)
    except ValidationError as failure:
        raise SpecError(explain(failure, document, StudyConfig)) from failure


def validated(document: YamlDocument) -> StudyConfig:
    """The study that a parsed file describes.

    Raises:
        ValidationError: anything in it is wrong.
    """
    content = {key: value for key, value in document.plain().items() if key != AXES}
    if isinstance(files := content.get("plugins"), list):
        load_plugins(Project.find(document.path.resolve().parent).root, [str(file) for file in files])
    return StudyConfig.model_validate(content)
