"""transformers' CLIP, called for images, for texts or for both.

Legend: b images, p texts, l tokens, c classes, d width of the common space, s side of an image.
"""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel


class Embedded(NamedTuple):
    """What the encoders make of images and texts: unit vectors in float32, None for what was not given."""

    images: Float[Tensor, "b d"] | None
    texts: Float[Tensor, "p d"] | None
    scale: Float[Tensor, ""]  # factor on cosines, that makes logits of them


class Clip(CLIPModel):
    """The same model with the same weights; `forward` encodes what it is given."""

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 s s"] | None = None,
        input_ids: Int64[Tensor, "p l"] | None = None,
    ) -> Embedded:
        """Unit features of images, of texts, or of both.

        Texts need no mask: a token sees those before it alone, and padding stands behind the end.
        """
        images = texts = None
        if pixel_values is not None:
            found = self.get_image_features(pixel_values=pixel_values).pooler_output
            images = functional.normalize(found.float(), dim=-1)
        if input_ids is not None:
            found = self.get_text_features(input_ids=input_ids).pooler_output
            texts = functional.normalize(found.float(), dim=-1)
        return Embedded(images, texts, self.logit_scale.float().exp())


def class_weights(texts: Float[Tensor, "p d"], average: Float[Tensor, "c p"]) -> Float[Tensor, "c d"]:
    """A zero-shot head: of each class the mean of its texts' features, as a unit vector."""
    return functional.normalize(average.to(texts) @ texts, dim=-1)


def class_logits(
    images: Float[Tensor, "b d"], weights: Float[Tensor, "c d"], scale: Tensor
) -> Float[Tensor, "b c"]:
    """CLIP's logits: cosines, scaled."""
    return scale * images @ weights.T
