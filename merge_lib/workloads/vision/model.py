"""A small vision transformer (pre-norm, class token, learned positions) with Hugging Face's parameter names.

Legend: n images, k channels (no such dimension where the model is grey), h = w image size, s patches and the class
token, d width, a heads, c classes.
Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, section 3.1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from merge_lib.workloads.vision.config import ViTConfig

INITIAL_STD = 0.02


class Embeddings(nn.Module):
    """Patches to vectors, with the class token in front and positions added."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        patches = (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.position_embeddings = nn.Parameter(torch.empty(1, patches + 1, config.width))
        self.projection = nn.Linear(config.channels * config.patch_size**2, config.width)

    def forward(self, images: Float[Tensor, "n *k h w"]) -> Float[Tensor, "n s d"]:
        """[n, h, w] or [n, k, h, w] to [n, s, d]."""
        n, *_, h, w = images.shape
        p = self.patch_size
        blocks = images.reshape(n, -1, h // p, p, w // p, p)  # [n, k, h/p, p, w/p, p]
        blocks = blocks.permute(0, 2, 4, 1, 3, 5)  # [n, h/p, w/p, k, p, p]
        tokens = self.projection(blocks.flatten(3).flatten(1, 2))  # [n, s-1, k p p] -> [n, s-1, d]
        return torch.cat([self.cls_token.expand(n, -1, -1), tokens], dim=1) + self.position_embeddings


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, tokens: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """Each token as a mixture of all tokens' values."""
        n, s, d = tokens.shape
        query, key, value = (
            part(tokens).view(n, s, self.heads, -1).transpose(1, 2)  # [n, a, s, d/a]
            for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).reshape(n, s, d))


class Layer(nn.Module):
    """One block: attention, then a two-layer perceptron, each on normalised input and added."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.layernorm_after = nn.LayerNorm(config.width)
        self.intermediate = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.output = nn.Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, tokens: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """The tokens after both additions."""
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        hidden = functional.gelu(self.intermediate(self.layernorm_after(tokens)))
        return tokens + self.output(hidden)


class Encoder(nn.Module):
    """The blocks, one after another."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.computes_twice = False  # in training, rather than keep what a block computes

    def forward(self, tokens: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d"]:
        """The tokens after the last block."""
        is_twice = self.computes_twice and self.training and torch.is_grad_enabled()
        for layer in self.layer:
            tokens = checkpoint(layer, tokens, use_reentrant=False) if is_twice else layer(tokens)
        return tokens


class ViT(nn.Module):
    """Images to logits over all classes of the base; `head` is the classifier."""

    def __init__(self, config: ViTConfig, *, classes: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, classes)

    def forward(self, images: Float[Tensor, "n *k h w"]) -> Float[Tensor, "n c"]:
        """Logits from the class token."""
        tokens = self.encoder(self.embeddings(images))
        return self.head(self.layernorm(tokens[:, 0]))

    def activation_checkpointing_enable(self, **_: object) -> None:
        """Keep only what goes into each block; the backward pass computes the rest again."""
        self.encoder.computes_twice = True

    def activation_checkpointing_disable(self) -> None:
        """Keep everything again."""
        self.encoder.computes_twice = False


def empty_model(config: ViTConfig, *, classes: int) -> ViT:
    """A model without values (on the meta device): a skeleton to load a state dict into."""
    with torch.device("meta"):
        return ViT(config, classes=classes)


def initial_model(config: ViTConfig, *, classes: int, generator: torch.Generator) -> ViT:
    """A model with random weights, all drawn from the generator.

    Matrices are Glorot-uniform, tokens and positions normal with a deviation of 0.02, biases 0, norms 1.
    """
    model = empty_model(config, classes=classes).to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if name.startswith("embeddings.") and parameter.ndim == 3:
                parameter.normal_(0.0, INITIAL_STD, generator=generator)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(1.0 if "layernorm" in name and name.endswith("weight") else 0.0)
    return model
