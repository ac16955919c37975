"""Tables of encoders."""

from collections.abc import Mapping

from costsim.huggingface.adapters.shared import BIASES, PLAIN, SIZES
from costsim.huggingface.fields import (
    Adapter,
    Derived,
    Fields,
    Head,
    Read,
    activation,
    classes,
    natural,
    only,
    plus,
    positive,
    rate,
)

_HIDDEN_DROPOUT = Derived("hidden_dropout_prob", lambda model: model["dropout"])

_ENCODER_READS = (
    *SIZES,
    Read("activation", ("hidden_act",), activation),
    Read("norm_eps", ("layer_norm_eps",), positive),
    Read("dropout", ("hidden_dropout_prob",), rate),
    Read("attention_dropout", ("attention_probs_dropout_prob",), rate),
    Read("token_types", ("type_vocab_size",), natural),
)
_ENCODER_FACTS = {**PLAIN, **BIASES, "norm": "post", "activation_dropout": 0.0}
_ENCODER_NO_EFFECT = ("tie_word_embeddings",)  # a masked-lm head checks it


def _classifier(task_head: str) -> Head:
    """The head of sequence classification."""
    return Head(
        reads=(
            Read("classes", ("id2label", "num_labels", "_num_labels"), classes),
            Read("head_dropout", ("classifier_dropout",), rate, null=_HIDDEN_DROPOUT),
        ),
        facts={"task_head": task_head},
        checks={"problem_type": only(None, "single_label_classification")},
    )


_TIED = {"tie_word_embeddings": only(True)}
_MASKED_LM: Fields = {"task_head": "masked-lm", "classes": None, "head_dropout": 0.0}

ENCODERS: Mapping[str, Adapter] = {
    "bert": Adapter(
        family="encoder-classifier",
        classes={
            "BertForMaskedLM": Head(facts=_MASKED_LM, checks=_TIED),
            "BertForSequenceClassification": _classifier("bert"),
        },
        reads=_ENCODER_READS,
        facts={**_ENCODER_FACTS, "position_offset": 0},
        no_effect=_ENCODER_NO_EFFECT,
    ),
    "roberta": Adapter(
        family="encoder-classifier",
        classes={
            # RobertaLMHead has gelu whatever hidden_act says
            "RobertaForMaskedLM": Head(facts={**_MASKED_LM, "activation": "gelu"}, checks=_TIED),
            "RobertaForSequenceClassification": _classifier("roberta"),
        },
        reads=(
            *_ENCODER_READS,
            Read("position_offset", ("pad_token_id",), plus(1), note=" + 1: positions begin after it"),
        ),
        facts=_ENCODER_FACTS,
        no_effect=_ENCODER_NO_EFFECT,
    ),
}
