from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from merge_lib import MergeSpec
from merge_lib.errors import SpecError, UnknownMethodError

FILES = {"base": "base.safetensors", "experts": ["1.safetensors", "2.safetensors"]}


def test_a_spec_holds_every_default():
    spec = MergeSpec(method="ties", params={"density": 0.1}, **FILES)
    assert spec.params == {"density": 0.1, "scale": 1.0, "trim": "model"}
    assert spec.experts == (Path("1.safetensors"), Path("2.safetensors"))
    assert (spec.seed, spec.exclude) == (0, ())
    assert MergeSpec.model_validate(spec.model_dump()) == spec
    assert MergeSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        MergeSpec(method="average", **FILES).seed = 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "ties", "params": {"densty": 1}}, "no parameter 'densty': did you mean 'density'"),
        ({"method": "ties", "exlude": ["a"]}, "`exlude`: Extra inputs are not permitted"),
        ({"method": "ties", "seed": -1}, "`seed`: Input should be greater than or equal to 0"),
        ({"method": "ties", "experts": []}, "`experts`: Tuple should have at least 1 item"),
        ({"method": "ties", "base": None}, r"Method 'ties' works on task vectors .* Give the `base`"),
        (
            {"method": "average", "base": None, "exclude": ["head"]},
            "`exclude` names head, .* no base is given",
        ),
        ({}, "`method`: Field required"),
    ],
)
def test_what_is_wrong_is_said(fields, message):
    with pytest.raises(SpecError, match=message):
        MergeSpec(**{**FILES, **fields})


def test_all_problems_at_once():
    with pytest.raises(SpecError, match=r"(?s)`experts\.0`.*`seed`.*`sed`"):
        MergeSpec(method="average", experts=[3], seed="x", sed=1)


def test_an_unknown_method_is_that():
    with pytest.raises(UnknownMethodError, match="did you mean 'ties'"):
        MergeSpec(method="tie", **FILES)


def test_within_another_model():
    class Study(BaseModel):
        merge: MergeSpec

    with pytest.raises(ValidationError, match="did you mean 'ties'"):
        Study.model_validate({"merge": {"method": "tie", **FILES}})
