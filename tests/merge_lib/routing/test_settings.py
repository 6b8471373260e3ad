import pytest
from pydantic import ValidationError

from merge_lib.routing import RoutingSettings


def test_the_defaults_are_the_authors():
    found = RoutingSettings()
    assert (found.voters, found.weights, found.include_base, found.unseen) == (4, "mean", True, "aggregate")
    assert (found.images.split, found.images.examples) == ("train", None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"voters": 0, "include_base": False}, "leaves nobody to vote"),
        ({"known_tasks": False, "unseen": "base"}, "`unseen: base` asks which tasks were seen"),
        ({"voters": -1}, "greater than or equal to 0"),
        ({"votes": 3}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        RoutingSettings(**given)
