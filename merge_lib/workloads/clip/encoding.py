"""One CLIP among several that vote: features of images and of classes.

Legend: n images of a split, c classes, d width of the common space.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.probe import Split
from merge_lib.workloads.clip.heads import Targets
from merge_lib.workloads.clip.measuring import Measured
from merge_lib.workloads.clip.subjects import ImageSet


@dataclass(frozen=True)
class ClipEncoder:
    """A model with two sides; see `merge_lib.routing.Encoder`.

    Attributes:
        measured: the model.
        sets: images by data set.
        targets: of each, where its classes stand in its head.
    """

    measured: Measured
    sets: Mapping[str, ImageSet]
    targets: Mapping[str, Targets]

    def inputs(
        self, task: str, *, split: Split, rows: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n d"]:
        """Unit features of a split's images, or of some of them."""
        return self.measured.image_features(self.sets[task], split, rows)

    def classes(self, task: str) -> Float[Tensor, "c d"]:
        """Of each class in the task's head the mean of the unit features of its texts."""
        head = self.targets[task].head
        return head.average @ self.measured.text_features(head.prompts)
