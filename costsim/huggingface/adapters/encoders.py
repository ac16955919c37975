"""Tables of encoders."""

from collections.abc import Mapping
from typing import Any

from costsim.huggingface.adapters.shared import BIASES, PLAIN, SIZES
from costsim.huggingface.fields import (
    Adapter,
    Derived,
    Fields,
    Head,
    Read,
    Worked,
    activation,
    classes,
    count,
    flag,
    natural,
    only,
    plus,
    positive,
    rate,
)

_HIDDEN_DROPOUT = Derived("hidden_dropout_prob", lambda model: model["dropout"])

ENCODER_READS = (
    *SIZES,
    Read("activation", ("hidden_act",), activation),
    Read("norm_eps", ("layer_norm_eps",), positive),
    Read("dropout", ("hidden_dropout_prob",), rate),
    Read("attention_dropout", ("attention_probs_dropout_prob",), rate),
    Read("token_types", ("type_vocab_size",), natural),
)
_ENCODER_FACTS = {**PLAIN, **BIASES, "norm": "post", "activation_dropout": 0.0}
TEXT_FACTS = {
    **_ENCODER_FACTS,
    "positions": "learned",
    "local_rotary": False,
    "mask_embedding": False,
    "first_norm": True,
    "pooling": "first",
    "head_bias": True,
    "logits_bias": True,
}
ENCODER_NO_EFFECT = ("tie_word_embeddings",)  # a masked-lm head checks it


_CLASSIFIER_DROPOUT = Read("head_dropout", ("classifier_dropout",), rate, null=_HIDDEN_DROPOUT)


def classifier(task_head: str, dropout: Read = _CLASSIFIER_DROPOUT) -> Head:
    """The head of sequence classification."""
    return Head(
        reads=(Read("classes", ("id2label", "num_labels", "_num_labels"), classes), dropout),
        facts={"task_head": task_head},
        checks={"problem_type": only(None, "single_label_classification")},
    )


TIED = {"tie_word_embeddings": only(True)}
MASKED_LM: Fields = {"task_head": "masked-lm", "classes": None, "head_dropout": 0.0}
_REPLACED_TOKEN: Fields = {**MASKED_LM, "task_head": "replaced-token"}


def _embedding_dim(_: Mapping[str, Any], full: Mapping[str, Any]) -> int | None:
    """The width of an embedding that is projected to that of the model."""
    width = count(full["embedding_size"])
    return None if width == full["hidden_size"] else width


ENCODERS: Mapping[str, Adapter] = {
    "bert": Adapter(
        family="encoder-classifier",
        classes={
            "BertForMaskedLM": Head(facts=MASKED_LM, checks=TIED),
            "BertForSequenceClassification": classifier("bert"),
        },
        reads=ENCODER_READS,
        facts={**TEXT_FACTS, "position_offset": 0},
        no_effect=ENCODER_NO_EFFECT,
    ),
    "roberta": Adapter(
        family="encoder-classifier",
        classes={
            # RobertaLMHead has gelu whatever hidden_act says
            "RobertaForMaskedLM": Head(facts={**MASKED_LM, "activation": "gelu"}, checks=TIED),
            "RobertaForSequenceClassification": classifier("roberta"),
        },
        reads=(
            *ENCODER_READS,
            Read("position_offset", ("pad_token_id",), plus(1), note=" + 1: positions begin after it"),
        ),
        facts=TEXT_FACTS,
        no_effect=ENCODER_NO_EFFECT,
    ),
    "distilbert": Adapter(
        family="encoder-classifier",
        classes={
            "DistilBertForMaskedLM": Head(facts=MASKED_LM, checks=TIED),
            "DistilBertForSequenceClassification": classifier(
                "distilbert", Read("head_dropout", ("seq_classif_dropout",), rate)
            ),
        },
        reads=(
            Read("d_model", ("dim", "hidden_size"), count),
            Read("ffn_dim", ("hidden_dim",), count),
            Read("heads", ("n_heads", "num_attention_heads"), count),
            Read("layers", ("n_layers", "num_hidden_layers"), count),
            Read("vocab", ("vocab_size",), count),
            Read("max_positions", ("max_position_embeddings",), count),
            Read("activation", ("activation",), activation),
            Read("dropout", ("dropout",), rate),
            Read("attention_dropout", ("attention_dropout",), rate),
        ),
        facts={**TEXT_FACTS, "norm_eps": 1e-12, "token_types": 0, "position_offset": 0},
        checks={"tie_weights_": only(True)},
        no_effect=(*ENCODER_NO_EFFECT, "qa_dropout", "seq_classif_dropout"),
    ),
    "vit": Adapter(
        family="image-classifier",
        classes={
            "ViTForImageClassification": Head(
                reads=(Read("classes", ("id2label", "num_labels", "_num_labels"), classes),),
                checks={"problem_type": only(None, "single_label_classification")},
            )
        },
        reads=(
            *(read for read in ENCODER_READS if read.field not in ("vocab", "max_positions", "token_types")),
            Read("image_size", ("image_size",), count),
            Read("patch_size", ("patch_size",), count),
            Read("channels", ("num_channels",), count),
            Read("qkv_bias", ("qkv_bias",), flag),
        ),
        facts={
            **{name: fact for name, fact in _ENCODER_FACTS.items() if name != "qkv_bias"},
            "norm": "pre",
            "upcast": True,  # softmax(..., dtype=torch.float32)
        },
        no_effect=(*ENCODER_NO_EFFECT, "encoder_stride", "pooler_output_size", "pooler_act"),  # of other heads
    ),
    "electra": Adapter(
        family="encoder-classifier",
        classes={
            "ElectraForPreTraining": Head(facts=_REPLACED_TOKEN),
            # its generator's head has gelu whatever hidden_act says
            "ElectraForMaskedLM": Head(facts={**MASKED_LM, "activation": "gelu"}, checks=TIED),
            "ElectraForSequenceClassification": classifier("electra"),
        },
        reads=ENCODER_READS,
        facts={**TEXT_FACTS, "position_offset": 0},
        no_effect=(
            *ENCODER_NO_EFFECT,
            *("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"),  # of multiple choice
        ),
        worked={"embedding_dim": Worked(("embedding_size",), _embedding_dim)},
    ),
}
