"""Names of tensors that changed while what they name did not.

`transformers` 5 holds some models under newer names than it stores them, and adapters are named after what is held:
`vit.layers.0.attention.q_proj` for the stored `vit.encoder.layer.0.attention.attention.query`. Both become one
spelling here, by the roles of the parts of a transformer block, whatever the architecture.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

_SPELLINGS = (  # in this order, on whole parts of a name
    (r"encoder\.layers?(?=\.\d)", "layers"),
    (r"attention\.(?:attention\.|self\.)?query", "attention.q_proj"),
    (r"attention\.(?:attention\.|self\.)?key", "attention.k_proj"),
    (r"attention\.(?:attention\.|self\.)?value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense|mlp\.dense1", "mlp.fc1"),
    (r"output\.dense|mlp\.dense2", "mlp.fc2"),
)
_RULES = tuple((re.compile(rf"(?<![^.])(?:{pattern})(?![^.])"), newer) for pattern, newer in _SPELLINGS)
_MODEL = re.compile(r"(?<![^.])model\.")  # `model.language_model.layers` and `language_model.model.layers`


def spelling_of(name: str) -> str:
    """The one spelling of all names of the same tensor."""
    for pattern, newer in _RULES:
        name = pattern.sub(newer, name)
    return _MODEL.sub("", name)


def match_spellings(wanted: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each wanted name the known one: itself, or the only one that is spelled the same; else it is left out."""
    known = frozenset(known)
    wanted = tuple(wanted)
    spelled: dict[str, list[str]] = defaultdict(list)
    if not known.issuperset(wanted):
        for name in known:
            spelled[spelling_of(name)].append(name)
    matched = {name: [name] if name in known else spelled[spelling_of(name)] for name in wanted}
    return {name: found[0] for name, found in matched.items() if len(found) == 1}
