"""Tables of models of speech."""

from collections.abc import Mapping

from costsim.huggingface.adapters.encoder_decoders import BART_READS
from costsim.huggingface.adapters.shared import BIASES, PLAIN
from costsim.huggingface.fields import Adapter, Head, Read, allowed_by, count, only

_KNOWN_SIZES = ("source_vocab", "scale_embedding")  # of BART that have no counterpart here

SPEECH: Mapping[str, Adapter] = {
    "whisper": Adapter(
        family="speech-recognizer",
        classes={"WhisperForConditionalGeneration": Head()},
        reads=(
            *(read for read in BART_READS if read.field not in _KNOWN_SIZES),
            Read("vocab", ("vocab_size",), count),
            Read("mel_bins", ("num_mel_bins",), count),
            Read("source_positions", ("max_source_positions",), count),
            Read("max_positions", ("max_target_positions",), count),
        ),
        facts={**PLAIN, **BIASES, "k_bias": False, "kernel": 3, "norm": "pre", "norm_eps": 1e-5},
        checks={
            "tie_word_embeddings": only(True),
            "apply_spec_augment": only(False),
            "max_length": allowed_by(lambda value: value),
        },
        no_effect=(
            *("scale_embedding",),  # read, and not applied
            *("mask_time_prob", "mask_time_length", "mask_time_min_masks"),  # of apply_spec_augment
            *("mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
            *("use_weighted_layer_sum", "classifier_proj_size"),  # of another head
            *("median_filter_width", "forced_decoder_ids"),  # of generation
        ),
        base="WhisperModel",
    ),
}
