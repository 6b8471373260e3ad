"""The bare loop that the flow is measured against does the whole of a study, or says what it cannot do."""

import pytest

from flows.bench import check_for_loop
from flows.config import load_study
from merge_lib.errors import SpecError

STUDY = """\
study: tiny
workload: {name: vision, scenario: class-incremental}
tasks: [digits-01, digits-23]
seeds: [0]
methods: [average, ties, {method: condu, params: {task: 0}}, ema]
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_plain_merges_are_what_it_knows(study):
    check_for_loop(load_study(study))


def test_all_that_it_would_leave_out_is_told_at_once(study):
    methods = (
        "methods=[average, emr, regmean, {method: ties, equalise: norms, layer_scales: {slope: 0.5}},"
        " {method: magmax, search: {trials: 2, params: {scale: {low: 0.5, high: 1.0}}}}]"
    )
    asked = (methods, "regimes=[parallel, merged]", "merged_from=average", "base.checkpoint=base.safetensors")
    with pytest.raises(SpecError) as refused:
        check_for_loop(load_study(study, asked))
    head, *problems = str(refused.value).splitlines()
    assert head == "The bare loop cannot run this study:"
    assert [problem.partition(", but the loop")[0] for problem in problems] == [
        "`regimes` names merged",
        "`base.checkpoint` is base.safetensors",
        "method 'emr' needs a model for each task",
        "method 'regmean' needs data",
        "method 'ties' needs `layer_scales`, `equalise`",
        "method 'magmax' needs `search`",
    ]
