import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from merge_lib import catalogue, registry
from merge_lib.errors import SpecError, UnknownMethodError
from merge_lib.registry import ModelStatistics, merge_method
from merge_lib.types import Density, Scale

FACTS = {"title": "T", "paper": "https://example.org", "needs_base": False, "order_free": True}


@pytest.fixture(autouse=True)
def _forget_methods_of_tests():
    before = dict(registry.declared)
    yield
    for name in set(registry.declared) - set(before):
        if not registry.declared[name].module.startswith(
            "merge_lib."
        ):  # those stay imported, and so declared
            del registry.declared[name]
    registry.declared.update(before)


def test_the_methods_are_listed_by_name():
    assert {"average", "ties", "magmax"} <= set(registry.names())
    assert list(registry.names()) == sorted(registry.names())
    assert tuple(info.name for info in registry.methods()) == registry.names()


def test_what_a_method_declares():
    ties = registry.get("ties")
    assert (ties.title, ties.kind, ties.scope, ties.receives) == ("TIES", "batch", "model", "task_vectors")
    assert (ties.needs_base, ties.order_free, ties.randomised) == (True, True, False)
    assert registry.get("dare").randomised
    assert registry.get("magmax").kind == "continual"
    assert registry.get("average").receives == "experts"
    density, _, trim = ties.parameters
    assert (density.name, density.default, density.domain) == ("density", 0.2, "a number in (0, 1]")
    assert density.description == "share of entries kept in each task vector, in (0, 1]."
    assert trim.domain == "one of 'model', 'tensor'"
    assert ties.check_params({}) == {"density": 0.2, "scale": 1.0, "trim": "model"}


def test_an_unknown_name():
    with pytest.raises(
        UnknownMethodError, match=r"no merge method 'tise': did you mean 'ties'\? known: adamerging, "
    ):
        registry.get("tise")


def test_all_wrong_parameters_at_once():
    with pytest.raises(SpecError) as caught:
        registry.get("ties").check_params(
            {"densty": 0.1, "density": 0, "scale": float("nan"), "trim": "both"}
        )
    assert str(caught.value).splitlines() == [
        "Parameter 'density' of method 'ties' is 0, but must be a number in (0, 1]. Change it in `params`.",
        "Parameter 'scale' of method 'ties' is nan, but must be a finite number. Change it in `params`.",
        "Parameter 'trim' of method 'ties' is 'both', but must be one of 'model', 'tensor'. "
        "Change it in `params`.",
        "Method 'ties' has no parameter 'densty': did you mean 'density'? known: density, scale, trim.",
    ]


def test_a_method_without_parameters_takes_none():
    with pytest.raises(SpecError, match=r"Method 'average' has no parameter 'scale': it takes none\."):
        registry.get("average").check_params({"scale": 1})


@pytest.mark.parametrize("value", [True, "0.5", None, [0.5]])
def test_values_are_not_converted(value):
    with pytest.raises(ValidationError, match="density"):
        registry.get("ties").params_model(density=value)


def test_the_index_says_what_the_functions_say():
    index = json.loads(catalogue.INDEX.read_text(encoding="utf-8"))
    stale = "run `python -m merge_lib.catalogue`"
    assert index["sources"] == catalogue.sources_digest(), stale
    found = [info.to_dict() for _, info in sorted(catalogue.import_methods().items())]
    assert index["methods"] == json.loads(json.dumps(found)), stale


def test_a_stale_index_is_not_believed(tmp_path, monkeypatch):
    stale = tmp_path / "index.json"
    monkeypatch.setattr(catalogue, "INDEX", stale)
    for content in (None, '{"sources": "of other files", "methods": []}'):
        if content is not None:
            stale.write_text(content)
        catalogue.builtin_methods.cache_clear()
        assert "ties" in registry.names()
    catalogue.write_index()
    catalogue.builtin_methods.cache_clear()
    assert registry.get("ties") == catalogue.import_methods()["ties"]
    catalogue.builtin_methods.cache_clear()


def test_every_method_file_declares_its_method():
    for folder in ("methods", "continual"):
        files = {path.stem for path in (catalogue.INDEX.parent.parent / folder).glob("[!_]*.py")}
        modules = {info.module for info in registry.methods()}
        assert {f"merge_lib.{folder}.{file}" for file in files} <= modules


def test_a_method_of_one_s_own():
    @merge_method(name="mine", **FACTS)
    def mine(
        experts: Any, *, share: Density, sort: Literal["up", "down"] = "up", count: int = 3, on: bool = True
    ):
        """The first.

        Args:
            experts: rows.
            share: how much
                of it.

        Returns:
            One.
        """
        return experts[0]

    info = registry.get("mine")
    assert "mine" in registry.names()
    assert info.summary == "The first."
    assert [parameter.kind for parameter in info.parameters] == ["number", "string", "integer", "boolean"]
    assert info.parameters[0].required
    assert info.parameters[0].description == "how much of it."
    assert info.check_params({"share": 1}) == {"share": 1.0, "sort": "up", "count": 3, "on": True}
    with pytest.raises(
        SpecError, match=r"Parameter 'share' of method 'mine' is missing\. Give a number in \(0, 1\]"
    ):
        info.check_params({})
    assert registry.MethodInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info
    assert info.implementation.merge is mine


def test_bounds_of_every_kind():
    @merge_method(name="bounded", **FACTS)
    def bounded(
        experts: Any,
        *,
        low: Annotated[int, Field(gt=2)] = 3,
        high: Annotated[float, Field(lt=2)] = 1.0,
    ) -> Any:
        return experts[0]

    domains = [parameter.domain for parameter in registry.get("bounded").parameters]
    assert domains == ["an integer in (2, inf)", "a number in (-inf, 2)"]


def test_two_methods_of_one_name():
    def elsewhere(experts: Any) -> Any:
        return experts[0]

    registry.get("ties").implementation  # noqa: B018 -- imports the first of that name
    with pytest.raises(
        SpecError, match=r"Two methods are called 'ties': one in merge_lib\.methods\.ties, one in"
    ):
        merge_method(name="ties", **FACTS)(elsewhere)


def refused(function, message, **facts):
    with pytest.raises(SpecError, match=message):
        merge_method(name="bad", **{**FACTS, **facts})(function)
    assert "bad" not in registry.names()


def test_signatures_that_are_refused():
    def untyped(experts, *, scale=1.0): ...
    def unholdable(experts, *, weights: list[float] = ()): ...
    def positional(experts, scale: Scale): ...
    def nothing(*, scale: Scale): ...
    def both(experts, task_vectors): ...
    def anything(experts, **params): ...
    def stepping(experts, state): ...

    refused(untyped, "Parameter 'scale' of method 'bad' has no type")
    refused(
        unholdable,
        r"Parameter 'weights' of method 'bad' has the type list\[float\], which a study cannot hold",
    )
    refused(positional, "Method 'bad' takes the positional arguments experts, scale. It must take one of")
    refused(nothing, "takes the positional arguments none")
    refused(both, "takes the positional arguments experts, task_vectors")
    refused(anything, r"takes \*args or \*\*kwargs")
    refused(stepping, "It must take one of expert or task_vector", init=print)


def test_data_is_declared_where_it_is_taken():
    def observing(experts, observed): ...
    def fitting(experts, fitted): ...
    def plain(experts): ...

    refused(observing, "Method 'bad' needs the data 'none'")
    refused(observing, "declares `observation=`", data="unlabelled")
    refused(observing, "declare `data=`", observation="gram")
    refused(fitting, "declares `fit=`", data="labelled")
    refused(plain, "Method 'bad' needs the data 'labelled'", data="labelled")


def test_scope_and_statistics_go_together():
    statistics = ModelStatistics(lambda *_: None, lambda *_: None, lambda *_: None)

    def local(experts): ...
    def whole(experts, statistics): ...

    refused(local, "Method 'bad' has scope 'model'", scope="model")
    refused(local, "Method 'bad' has scope 'model'", scope="model", statistics=statistics)
    refused(local, "Method 'bad' has scope 'tensor'", statistics=statistics)
    refused(whole, "Method 'bad' has scope 'tensor'")
