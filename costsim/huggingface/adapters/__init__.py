"""What the fields of Hugging Face `config.json` files mean to us: a table for each `model_type`, by sort of model.

A table says which field of a config is which of ours and what it is where it is null, what is so in every model of the
type, which values we understand, and which fields change no shape. Whatever else a config has must have the default of
its type (defaults.json), as if it were left out, or is refused by name: it may change the architecture. Source of all
tables: configuration_*.py and modeling_*.py of transformers, versions 4.0 to 5.24.
"""

from collections.abc import Mapping

from costsim.huggingface.adapters.decoders import DECODERS
from costsim.huggingface.adapters.encoder_decoders import ENCODER_DECODERS
from costsim.huggingface.adapters.encoders import ENCODERS
from costsim.huggingface.adapters.experts import EXPERTS
from costsim.huggingface.adapters.gemma import GEMMA
from costsim.huggingface.adapters.relative_encoders import RELATIVE_ENCODERS
from costsim.huggingface.adapters.rotary import ROTARY
from costsim.huggingface.adapters.speech import SPEECH
from costsim.huggingface.fields import Adapter

ADAPTERS: Mapping[str, Adapter] = {
    **DECODERS,
    **ROTARY,
    **GEMMA,
    **EXPERTS,
    **ENCODERS,
    **RELATIVE_ENCODERS,
    **ENCODER_DECODERS,
    **SPEECH,
}

# Types with a text model inside, in `text_config`, and what its type is where it does not say it.
TEXT_MODELS: Mapping[str, str] = {"gemma3": "gemma3_text"}
