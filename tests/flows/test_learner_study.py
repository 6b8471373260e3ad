"""A study of learners, from its YAML to its report: nothing is merged, one model is trained along the sequence."""

from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.config import load_study
from flows.estimates import plan_steps
from flows.lineage import lineage_lines, lineage_of
from merge_lib.errors import SpecError
from tasks.journal import results_of

pytestmark = pytest.mark.slow

KIF = "{learner: recurrent_kif, params: {share: 0.1, inner_steps: 2, outer_steps: 1, select_examples: 10}}"
LEARNERS = f"learners=[sequential, {{learner: replay, params: {{share: 0.1}}}}, {KIF}]"
ALONE = ("methods=[]", LEARNERS, "seeds=[0]")


def test_learners_go_along_the_sequence_and_stand_beside_nothing(project, run):
    first, worked = run(*ALONE)
    results = results_of(project, first)
    rows = {row.label: row for row in results.rows if row.kind == "learner"}
    assert list(rows) == ["sequential", "replay", "recurrent_kif"]
    # both regimes' experts and joint training are 4; sequential learning and first tasks are among them
    assert worked["train"] == 4 + 2
    assert [ref.digest for ref in rows["sequential"].checkpoints] == [
        ref.digest for row in results.rows if row.regime == "sequential" for ref in row.checkpoints
    ]
    assert len({row.checkpoints[0].digest for row in rows.values()}) == 1
    for row in rows.values():
        assert row.regime is None
        assert [len(stage) for stage in row.accuracy] == [2, 2]
        assert row.metrics["backward_transfer"] is not None
        assert row.metrics["fwt_vs_expert"] is not None

    replay, kif = (rows[name].checkpoints[-1].taught for name in ("replay", "recurrent_kif"))
    assert replay.memory_examples == kif.memory_examples > 0
    assert replay.memory_bytes == kif.memory_bytes == replay.memory_examples * 65  # 8 x 8 pixels and a label
    assert (replay.held_out, kif.held_out) == (0, 10)
    assert kif.fusions > 0
    assert (rows["replay"].facts.replays, rows["replay"].facts.is_tuned) == (True, False)
    assert (rows["recurrent_kif"].facts.replays, rows["recurrent_kif"].facts.is_tuned) == (True, True)

    report = (project.runs / first / "report" / "report.md").read_text()
    for said in (
        "Learners after the last task",
        "10 development examples a task",
        "Fusions",
        "Each two learners",
    ):
        assert said in report
    lines = "\n".join(lineage_lines(lineage_of(project, results, "recurrent_kif")))
    assert "train on digits-23 by recurrent_kif(" in lines
    assert "data digits-01" in lines  # its memory is from there

    told = {one.info.run_name: one.data.metrics for one in runs_of(project, results.study)}
    metrics = told["learn digits-23 · recurrent_kif 2/2 · seed 0"]
    assert metrics["memory_examples"] == kif.memory_examples
    assert {"fusion/shared", "fusion/inner_norm"} <= metrics.keys()

    config = load_study(Path("studies/digits.yaml"), ALONE)
    steps, is_known = plan_steps(project, config)
    assert is_known
    assert all(step.is_cached for step in steps)
    assert run(*ALONE)[1] == Counter()

    # other parameters of one learner are other work, of its second task alone
    assert run(*ALONE, "learners.replay.params.share=0.2")[1] == Counter(train=1, evaluate=1)


def runs_of(project, study):
    client = MlflowClient(f"sqlite:///{project.root}/.mergeline/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    return client.search_runs([experiment.experiment_id], max_results=200)


def test_what_is_wrong_with_learners_is_told_at_once_with_its_place(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: tiny\nworkload: {name: vision, scenario: class-incremental}\ntasks: [digits-01]\nseeds: [0]\n"
        "learners:\n  - sequental\n  - {learner: replay, params: {shaer: 3}}\n"
        "  - learner: recurrent_kif\n    params: {preset: papr}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_study(path)
    told = str(caught.value)
    assert "3 errors" in told
    assert "study.yaml:6: learners.0: there is no learner 'sequental': did you mean 'sequential'?" in told
    assert "study.yaml:7: learners.1.params.shaer: unknown key 'shaer'. Did you mean 'share'?" in told
    assert "study.yaml:9: learners.2.params.preset: input should be 'code' or 'paper'" in told

    path.write_text(
        path.read_text().split("learners:")[0] + "learners: [sequential, o_lora, {learner: cues}]\n"
    )
    with pytest.raises(SpecError, match=r"no learner 'cues'"):
        load_study(path)
    with pytest.raises(
        SpecError, match=r"'o_lora' needs low-rank adapters, but workload 'vision' trains full"
    ):
        load_study(path, ["learners=[o_lora]"])
    with pytest.raises(
        SpecError, match=r"learners: the study compares nothing; give `methods`, `learners` or both"
    ):
        load_study(path, ["learners=[]"])
    with pytest.raises(SpecError, match=r"learners: two rows have the label replay"):
        load_study(path, ["learners=[replay, replay]"])
    with pytest.raises(SpecError, match=r"learners: two rows have the label average"):
        load_study(path, ["methods=[average]", "learners=[{learner: replay, label: average}]"])
    bare = load_study(path, ["learners=[replay]", "learners.replay.params.share=0.5"])
    assert bare.learners[0].params == {"share": 0.5, "memory_seed": 42, "mix": 0.5}
