"""Vision Transformers: patches of images, an encoder, and the head of an image's class."""

from collections.abc import Iterator
from typing import Literal

from costsim.graph.builder import GraphBuilder
from costsim.inputs.section import Clash, Count, Field, Layers, Section, check
from costsim.models.blocks import norm
from costsim.models.head import loss
from costsim.models.layers import encoder_layer, layers
from costsim.models.meeting import Mask
from costsim.models.sections import Tokens, Transformer


class Model(Transformer):
    """ViT (Dosovitskiy et al., arXiv:2010.11929) as transformers' ViTForImageClassification lays it out.

    A convolution whose kernels do not overlap is the linear layer of each patch that it is counted as.
    """

    family: Literal["image-classifier"] = Field(description="which fields a model has, and how it is built")
    layers: Layers = Field(description="of the encoder")
    image_size: Count = Field(description="pixels of a side")
    patch_size: Count = Field(description="pixels of a patch's side")
    channels: Count = Field(default=3, description="numbers of a pixel")
    classes: Count = Field(description="that images have")
    norm: Literal["post", "pre", "sandwich", "branch"] = "pre"

    @check
    def _patches_fit(self) -> Iterator[Clash]:
        if self.patch_size > self.image_size:
            yield ("patch_size",), f"expected at most image_size, {self.image_size}"

    @check
    def _whole_head(self) -> Iterator[Clash]:
        if self.head.chunks > 1:
            yield (), "head.chunks cuts logits of every token: an image has those of one"

    def stacks(self) -> dict[str, int]:
        """How many layers its stacks have, in order."""
        return {"encoder": self.layers}


class Batch(Section):
    """One micro-batch of images."""

    sequences: Tokens = Field(description="images, each a sequence of patches")


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims."""
    patches = (model.image_size // model.patch_size) ** 2
    return {
        "batch": batch.sequences,
        "patches": patches,
        "tokens": patches + 1,
        "pixels": model.channels * model.patch_size**2,
        "classes": model.classes,
        **model.sizes(),
    }


def _embed(b: GraphBuilder, model: Model) -> str:
    """Patches, behind a token for the image, with their positions: [batch, tokens, model]."""
    x = b.linear(b.given("pixels", ("batch", "patches", "pixels")), "patches", ("model",))
    first = b.given("class_token.weight", ("model",), role="weight")
    first = b.op("repeat", first, name="class_tokens", dims=("batch", "model"))
    x = b.op("prepend", first, x, name="class_token", dims=("batch", "tokens", "model"))
    positions = b.given("positions.weight", ("tokens", "model"), role="weight")
    x = b.op("add_bias", x, positions, name="add_positions")
    return b.dropout(x, model.dropout)


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:  # noqa: ARG001 - sizes has it
    """Append the forward ops, and return the name of the loss."""
    with b.scope("embedding", layer=True):
        x = _embed(b, model)
    x = layers(b, model, "encoder", model.layers, x, lambda y, _: encoder_layer(b, model, y, Mask()))
    with b.scope("head", layer=True):
        if model.norm != "post":
            x = norm(b, model, x, "norm")
        x = b.op("select_first", x, name="first_token")
        return loss(b, b.linear(x, "logits", ("classes",)), label_smoothing)
