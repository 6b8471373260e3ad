"""One CLIP on many data sets: each head is made once, each image encoded once.

Legend: n images of a split, p texts, d width of the common space, c classes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.probe import Split
from merge_lib.workloads.clip.heads import Head, Targets
from merge_lib.workloads.clip.model import Clip, class_logits, class_weights
from merge_lib.workloads.clip.subjects import ImageSet
from merge_lib.workloads.clip.texts import Texts
from merge_lib.workloads.training.devices import device_of


class Measured:
    """A model in evaluation, and what was computed with it so far. Results are on the CPU.

    Args:
        model: with the tensors that are measured.
        texts: what tokens stand for a text.
        at_once: images or texts that are encoded together.
    """

    def __init__(self, model: Clip, texts: Texts, *, at_once: int) -> None:
        self.model, self.texts, self.at_once = model.eval(), texts, at_once
        self.device = device_of(model)
        self._features: dict[str, Tensor] = {}
        self._heads: dict[tuple[tuple[str, ...], ...], Tensor] = {}

    @property
    def scale(self) -> float:
        """Factor on cosines that makes logits of them."""
        return float(self.model.logit_scale.detach().float().exp())

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "p d"]:
        """Unit features of texts; one that was encoded before is not encoded again."""
        new = [text for text in dict.fromkeys(texts) if text not in self._features]
        for start in range(0, len(new), self.at_once):
            part = new[start : start + self.at_once]
            with torch.inference_mode():
                found = self.model(input_ids=self.texts.ids(part).to(self.device)).texts
            self._features.update(zip(part, found.cpu(), strict=True))
        return torch.stack([self._features[text] for text in texts])

    def head(self, head: Head) -> Float[Tensor, "c d"]:
        """The weights of a zero-shot head."""
        if head.texts not in self._heads:
            self._heads[head.texts] = class_weights(self.text_features(head.prompts), head.average)
        return self._heads[head.texts]

    def image_features(
        self, images: ImageSet, split: Split, rows: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n d"]:
        """Unit features of a split's images, in order, or of some of them."""
        rows = torch.arange(images.size(split)) if rows is None else rows
        parts = rows.split(self.at_once)
        return torch.cat([self.features_of(images.images(split, part)) for part in parts])

    def features_of(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        """Unit features of images that the model takes as they are, all together."""
        with torch.inference_mode():
            return self.model(pixel_values=images.to(self.device)).images.cpu()

    def logits(self, images: ImageSet, head: Head, split: Split) -> Float[Tensor, "n c"]:
        """CLIP's logits of a split's images for a head's classes."""
        return class_logits(self.image_features(images, split), self.head(head), torch.tensor(self.scale))

    def accuracy(self, images: ImageSet, targets: Targets, split: Split) -> float:
        """Share of a split's images whose highest output is the right one."""
        guesses = self.logits(images, targets.head, split).argmax(1)
        return float((guesses == targets.of(images.labels(split))).double().mean())
