"""The comparison, but for the environments of the peers: what is asked of whom, and what the figures say."""

import json
import sys

import pytest

from flows.peers import recipes
from flows.peers.bench import METHODS, START_UP, Case, Line, choose, median_cost, run_cases
from flows.peers.environment import MERGEKIT, SD_MECHA
from flows.peers.table import record, table
from flows.process_cost import Cost
from flows.recipe import load_recipe
from flows.synthetic import MANY_SMALL, Llama, make_checkpoints
from merge_lib.checkpoints import read_state_dict
from merge_lib.errors import SpecError
from merge_lib.mergekit.recipe import base_of, models_of, parse_recipe

SMALL = Llama(width=8, layers=1, vocabulary=10)


@pytest.fixture
def models(tmp_path):
    return make_checkpoints(tmp_path / "models", SMALL, 3)


@pytest.mark.parametrize("method", recipes.MERGEKIT_METHODS)
def test_mergekit_recipes_are_read(method, models):
    recipe = parse_recipe(recipes.mergekit_yaml(method, *models))
    base, experts = models
    assert recipe.merge_method == ("linear" if method == recipes.MANY else method)
    assert recipe.dtype == "bfloat16"
    expected = {"passthrough": {experts[0]}, "slerp": {base, experts[0]}}.get(method, {*experts})
    if base_of(recipe):
        expected |= {base}
    assert {*models_of(recipe)} == {str(model) for model in expected}


@pytest.mark.parametrize("method", recipes.SD_MECHA_METHODS)
def test_recipes_beside_sd_mecha_are_read_and_name_the_same_files(method, models, tmp_path):
    text, plan = recipes.sd_mecha_pair(method, *models)
    if "merge_method" in text:
        ours = {*models_of(parse_recipe(text))}
    else:
        (tmp_path / "recipe.yaml").write_text(text)
        spec = load_recipe(tmp_path / "recipe.yaml")
        ours = {str(path) for path in (models[0], *spec.experts)}
    assert {f"{model}/model.safetensors" for model in ours} == {*plan["models"]}
    assert json.loads(json.dumps(plan)) == plan


def test_many_has_3600_tensors_beside_the_three_outside_of_layers():
    assert len(MANY_SMALL.shapes()) == 3_603
    assert 2 * MANY_SMALL.parameters == pytest.approx(118e6, rel=0.02)


def test_a_llama_is_no_larger_than_asked_and_its_shapes_add_up():
    llama = Llama.of_parameters(50_000_000)
    assert 40_000_000 < llama.parameters <= 50_000_000
    matrices = [shape for shape in llama.shapes().values() if len(shape) == 2]
    assert sum(rows * columns for rows, columns in matrices) == llama.parameters


def test_checkpoints_are_model_folders_and_kept(models, tmp_path):
    base, experts = models
    tensors = [read_state_dict(model) for model in (base, *experts)]
    assert {name: tuple(tensor.shape) for name, tensor in tensors[0].items()} == SMALL.shapes()
    change = (tensors[1]["lm_head.weight"] - tensors[0]["lm_head.weight"]).float()
    assert 0.001 < change.std() < 0.003
    assert json.loads((base / "config.json").read_text())["hidden_size"] == 8
    before = (base / "model.safetensors").stat().st_mtime_ns
    assert make_checkpoints(tmp_path / "models", SMALL, 3) == models
    assert (base / "model.safetensors").stat().st_mtime_ns == before


def test_choosing():
    assert choose((), ()) == METHODS
    assert choose((), ("sce", "linear")) == {"mergekit": ("linear", "sce"), "sd-mecha": ("linear",)}
    assert choose((), ("sce",)) == {"mergekit": ("sce",)}
    with pytest.raises(SpecError, match=r"'mergekitt' is not a tool.*mergekit"):
        choose(("mergekitt",), ())
    with pytest.raises(SpecError, match="'sce' is not a method of sd-mecha"):
        choose(("sd-mecha",), ("sce",))


def test_medians_are_of_each_figure():
    costs = [Cost(1.0, 5.0, 30, 7), Cost(3.0, 4.0, 10, 9), Cost(2.0, 6.0, 20, 8)]
    assert median_cost(costs) == Cost(2.0, 5.0, 20, 8)


def test_the_table_has_times_and_shares():
    ours, theirs = (Cost(0.5, 0.8, 90_000_000, 60_000_000),), (Cost(15.0, 16.0, 2_000_000_000, 600_000_000),)
    lines = [
        Line("mergekit", "ties", ours, theirs),
        Line("sd-mecha", "linear", (), (), "it could not read the file"),
    ]
    head, row, _, other, why = table(lines)
    assert head.split()[:4] == ["beside", "mergekit", "ours", "s"]
    assert row.split() == [
        "ties",
        "0.50",
        "15.00",
        "30.0",
        "0.80",
        "16.00",
        "60",
        "600",
        "0.10",
        "90",
        "2000",
    ]
    assert "could not be compared" in other
    assert why == "sd-mecha, linear: it could not read the file"
    told = record(lines, rounds=1)
    assert (told["rounds"], told["machine"]["mergekit"]) == (1, MERGEKIT.version)
    assert told["cases"][0]["times_faster"] == 30
    assert told["cases"][0]["theirs"]["median"]["wall_s"] == 15
    assert told["cases"][1]["refused"] == "it could not read the file"


def test_a_side_that_fails_or_writes_nothing_is_told_and_the_others_go_on(tmp_path):
    out = tmp_path / "merged.safetensors"
    write = (sys.executable, "-c", f"open({str(out)!r}, 'x').write('merged')")
    fail, nothing = (sys.executable, "-c", "import sys; sys.exit('no model')"), (sys.executable, "-c", "")
    cases = [
        Case(SD_MECHA, START_UP, nothing, nothing, out),
        Case(SD_MECHA, "linear", write, write, out),
        Case(SD_MECHA, "ties", write, fail, out),
        Case(SD_MECHA, "slerp", write, nothing, out),
        Case(SD_MECHA, "dare", fail, write, out),
    ]
    told = []
    lines = {line.method: line for line in run_cases(cases, tmp_path, 2, told.append)}
    for method in (START_UP, "linear"):
        assert (len(lines[method].ours), len(lines[method].theirs), lines[method].refused) == (2, 2, None)
    assert "no model" in lines["ties"].refused
    assert "wrote no" in lines["slerp"].refused
    assert "no model" in lines["dare"].refused
    assert not out.exists()
    assert told[-1] == "round 2 of 2: linear, beside sd-mecha"
