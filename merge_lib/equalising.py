"""`equalise`: task vectors of one length, an option around any method that works on them.

What it does is `merge_lib.ops.lengths.Lengths`; this module imports no torch.
"""

from typing import Literal

from merge_lib import registry
from merge_lib.errors import SpecError

Equalise = Literal["norms"]


def check_equalised(method: str) -> None:
    """Refuse a method that the option does not suit.

    Raises:
        SpecError: it works on weights, or learned something for task vectors of their own lengths.
    """
    info = registry.get(method)
    if info.receives != "task_vectors":
        raise SpecError(
            f"`equalise` scales task vectors (expert − base), but method '{method}' works on weights. Leave it out, "
            "or take a method on task vectors."
        )
    if info.is_fitted:
        raise SpecError(
            f"`equalise` would change the task vectors for which method '{method}' learns its values from data. "
            "Leave it out."
        )
