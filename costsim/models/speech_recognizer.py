"""Speech recognition: an encoder of log-mel spectrograms behind two convolutions, and a decoder of words: Whisper."""

from collections.abc import Iterator
from typing import Literal

from costsim.graph.builder import GraphBuilder
from costsim.inputs.section import Clash, Count, Field, Layers, Section, check
from costsim.models.blocks import convolution, norm
from costsim.models.head import words
from costsim.models.layers import decoder_layer, encoder_layer, layers
from costsim.models.meeting import Mask
from costsim.models.sections import Tokens, Transformer, too_long

_STRIDE = 2  # of the second convolution, which makes a position of two frames


class Model(Transformer):
    """Whisper (Radford et al., arXiv:2212.04356, section 2.2) as transformers lays it out.

    Each spectrogram fills all positions of the encoder, whose sinusoidal table is not trained.
    """

    family: Literal["speech-recognizer"] = Field(description="which fields a model has, and how it is built")
    encoder_layers: Layers = Field(description="layers of the encoder")
    decoder_layers: Layers = Field(description="layers of the decoder")
    mel_bins: Count = Field(default=80, description="numbers of a frame of the spectrogram")
    kernel: Count = Field(default=3, description="frames that each of the convolutions reads at once, an odd number")
    source_positions: Count = Field(default=1500, description="of the encoder, one for each two frames")
    vocab: Count = Field(description="words, rows of the embedding, which is the head, too")
    max_positions: Count = Field(default=448, description="rows of the decoder's trained position table")
    norm: Literal["post", "pre", "sandwich", "branch"] = "pre"

    @check
    def _odd(self) -> Iterator[Clash]:
        if self.kernel % 2 == 0:
            yield ("kernel",), "expected an odd number: the frames before and after one, and it"

    def stacks(self) -> dict[str, int]:
        """How many layers its stacks have, in order."""
        return {"encoder": self.encoder_layers, "decoder": self.decoder_layers}


class Batch(Section):
    """One micro-batch of spectrograms, with what is said in them."""

    sequences: Tokens = Field(description="spectrograms, each with its words")
    target_tokens: Tokens = Field(description="per sentence, padding included")
    padding_mask: bool = Field(default=False, description="mask padded words in the decoder's self attention")


def sizes(model: Model, batch: Batch) -> dict[str, int]:
    """The sizes of a training step's dims. Raises ValueError if a sentence is longer than the positions."""
    if batch.target_tokens > model.max_positions:
        raise too_long("sentences", batch.target_tokens, model.max_positions)
    return {
        "batch": batch.sequences,
        "mel": model.mel_bins,
        "kernel": model.kernel,
        "frames": _STRIDE * model.source_positions,
        "source": model.source_positions,
        "target": batch.target_tokens,
        "target_vocab": model.vocab,
        "positions": model.max_positions,
        **model.sizes(),
    }


def _hear(b: GraphBuilder, model: Model) -> str:
    """The convolved spectrograms with their positions: [batch, source, model]."""
    x = b.given("spectrograms", ("batch", "frames", "mel"))
    for name, length, stride in (("conv1", "frames", 1), ("conv2", "source", _STRIDE)):
        x = b.op("gelu", convolution(b, x, name, "model", (length, "kernel"), stride), name=f"{name}.gelu")
    x = b.op("add_bias", x, b.given("source_position_table", ("source", "model")), name="source_add_position")
    return b.dropout(x, model.dropout, name="source_dropout")


def _embed(b: GraphBuilder, model: Model, table: str) -> str:
    """The embedded words with their positions: [batch, target, model]."""
    y = b.op("embed", table, b.given("target_ids", ("batch", "target"), values="index"), name="target_tokens")
    positions = b.given("target_position_table", ("positions", "model"), role="weight")
    at = b.given("target_positions", ("batch", "target"), values="index")
    y = b.op("add", y, b.op("embed", positions, at, name="target_position"), name="target_add_position")
    return b.dropout(y, model.dropout, name="target_dropout")


def _final(b: GraphBuilder, model: Model, stack: str, x: str) -> str:
    """The norm behind a stack."""
    if model.norm == "post":
        return x
    with b.scope(f"{stack}.final", layer=True):
        return norm(b, model, x, "norm")


def forward(b: GraphBuilder, model: Model, batch: Batch, label_smoothing: float) -> str:
    """Append the forward ops, and return the name of the loss."""
    with b.scope("embedding", layer=True):
        table = b.given("target.weight", ("target_vocab", "model"), role="weight")
        keep = b.given("target_keep", ("batch", "target"), values="mask") if batch.padding_mask else None
        x = _hear(b, model)
    x = layers(b, model, "encoder", model.encoder_layers, x, lambda y, _: encoder_layer(b, model, y, Mask()))
    memory = _final(b, model, "encoder", x)
    with b.scope("embedding", layer=True):
        y = _embed(b, model, table)
    later = Mask(keep, causal=True)
    y = layers(
        b, model, "decoder", model.decoder_layers, y, lambda z, _: decoder_layer(b, model, z, memory, later, Mask())
    )
    y = _final(b, model, "decoder", y)
    with b.scope("head", layer=True):
        return words(b, model.head, y, table, label_smoothing)
