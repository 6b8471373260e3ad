"""The patterns of cues, one a class: colours that are far apart, and grey noise. Drawn once from a seed, then frozen.

Legend: c classes, k channels, p side of a patch, n images, h = w image size.
Reference: Hess, van de Ven, Tuytelaars, CoLLAs 2025 workshop, arXiv:2507.23311, for the two families; the paper states
neither sizes nor places nor patterns, so these are ours.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from merge_lib.workloads.cues.places import Family

LEVELS = 13  # of red, green and blue among which colours are chosen


@dataclass(frozen=True)
class Cue:
    """A patch for each class, and where it lies.

    Attributes:
        patterns: [c, k, p, p] in [-1, 1] as the images are; without k for grey models.
        row: of the patch's first pixel.
        column: of the patch's first pixel.
    """

    patterns: Float[Tensor, "c *k p p"]
    row: int
    column: int

    def write(self, images: Float[Tensor, "n *k h w"], shown: Int64[Tensor, " n"]) -> None:
        """Overwrite the patch of each image, in place, by the pattern of a class."""
        side = self.patterns.shape[-1]
        patch = images[..., self.row : self.row + side, self.column : self.column + side]
        patch.copy_(self.patterns[shown])

    def permuted(self, generator: torch.Generator) -> "Cue":
        """The same patterns at the same place, each for another class than before."""
        order = torch.randperm(len(self.patterns), generator=generator)
        other = torch.empty_like(order)
        other[order] = order.roll(1)
        return Cue(self.patterns[other], self.row, self.column)


def generator_of(*parts: object) -> torch.Generator:
    """A generator whose draws depend on these words and numbers, and on nothing else."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def bank(
    family: Family, *, classes: int, channels: int, side: int, generator: torch.Generator
) -> Float[Tensor, "c *k p p"]:
    """The patterns of a family, in [-1, 1]; for one channel without that dimension."""
    if family == "colour":
        values = colours(classes, generator)[:, :, None, None].expand(-1, -1, side, side)
    else:
        values = torch.rand(classes, 1, side, side, generator=generator).expand(-1, channels, -1, -1)
    patterns = (2.0 * values - 1.0).contiguous()
    return patterns if channels > 1 else patterns[:, 0]


def colours(count: int, generator: torch.Generator) -> Float[Tensor, "c 3"]:
    """`count` values of red, green and blue in [0, 1], each as far as possible from those before, in random order."""
    levels = torch.linspace(0.0, 1.0, LEVELS)
    cube = torch.cartesian_prod(levels, levels, levels)  # [LEVELS³, 3]
    chosen = [int(torch.randint(len(cube), (1,), generator=generator))]
    distance = (cube - cube[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (cube - cube[chosen[-1]]).square().sum(1))
    return cube[chosen][torch.randperm(count, generator=generator)]
