"""The sections of a workload file. Those of its model are in costsim/models, a file for each family."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from costsim.errors import nearest_divisor
from costsim.inputs.schema_policy import Rule
from costsim.inputs.section import (
    Before,
    Clash,
    Count,
    Field,
    Grade,
    Hundred,
    Name,
    NonNegative,
    Positive,
    Rate,
    Section,
    check,
)
from costsim.names import (
    AttentionPairs,
    ExchangeAlgorithm,
    GatherAlgorithm,
    Law,
    LinkOverlap,
    PipelineSchedule,
    ReduceAlgorithm,
    ScatterAlgorithm,
    Scope,
    Traffic,
    Writes,
)


class Optimizer(Section):
    """The update: a row of the op table and its numbers."""

    kind: Literal["adam", "adamw", "sgd", "momentum", "lion", "adafactor", "muon", "galore", "soap"] = Field(
        description="adam: coupled (L2) decay; adamw: decoupled decay; momentum: SGD with it; galore: AdamW of "
        "projected gradients; soap: along Shampoo's eigenvectors"
    )
    lr: Positive = Field(description="learning rate; no count depends on it, runs of `validate` do")
    beta1: Rate = Field(default=0.9, description="decay of the mean of gradients, of adam and its kin")
    beta2: Rate = Field(default=0.999, description="decay of the mean of their squares")
    momentum: Rate = Field(default=0.95, description="of momentum and muon")
    eps: Positive = Field(default=1e-8, description="what is added to the root of that mean")
    weight_decay: NonNegative = Field(default=0.0, description="part of a weight that decays, times lr, an update")
    clip_norm: Positive | None = Field(default=None, description="clip gradients to this global norm")
    in_backward: bool = Field(
        default=False, description="each weight is updated as soon as its gradient is there, which is then freed (LOMO)"
    )
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = Field(default=5, description="of muon")
    rank: Count | None = Field(default=None, description="of galore: directions that gradients are projected to")
    scale: Positive = Field(default=0.25, description="of galore: a factor of what is projected back")
    largest_side: Count = Field(default=10000, description="of soap: longer sides of a matrix are not rotated")
    refreshes: bool = Field(
        default=False, description="of galore and soap: whether the step finds the directions anew, as one of many does"
    )
    left_out: Annotated[tuple[str, ...], Hundred] = Field(
        default=("embedding.*", "head.*"), description="globs over weights that muon, galore and soap leave to adamw"
    )

    @check
    def _has_its_rank(self) -> Iterator[Clash]:
        if self.kind == "galore" and self.rank is None:
            yield ("rank",), "missing; galore projects gradients to so many directions"

    @check
    def _needs_no_other_gradient(self) -> Iterator[Clash]:
        if self.in_backward and self.clip_norm is not None:
            yield ("in_backward",), "clip_norm needs all gradients before any weight is updated; leave one of them out"


class Trained(Section):
    """Weights that are trained, or a share of their output channels: the first ones."""

    weights: str = Field(description="a glob over names of weights")
    share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=1.0, description="of the output channels of each; the others are frozen"
    )


def _trained(entry: Any) -> Any:
    return {"weights": entry} if isinstance(entry, str) else entry


def _or_glob(schema: Any) -> Any:
    return {"anyOf": [{"type": "string"}, schema]}


class Training(Section):
    """How long: policies with phases are laid over these steps."""

    steps: Count = Field(description="updates of the weights")
    micro_batches: Count = Field(default=1, description="forward and backward passes per update")
    trainable: Annotated[tuple[Annotated[Trained, Before(_trained, _or_glob)], ...], Field(min_length=1), Hundred] = (
        Field(
            default=(Trained(weights="*"),),
            description="globs over names of weights, or {weights: glob, share: 0.25}; the others are frozen",
        )
    )
    frozen_in: Literal["dram", "flash"] = Field(
        default="dram", description="where what is not trained of weights lies; in flash it takes none of the memory"
    )


class Algorithms(Section):
    """How ranks carry out what they exchange: which algorithm, and whether in levels."""

    all_gather: GatherAlgorithm = Field(
        default="ring",
        description="recursive: doubling, of a power of two; bruck: of any number; direct: to each at once",
    )
    reduce_scatter: ScatterAlgorithm = Field(default="ring", description="recursive: halving; direct: to each at once")
    all_reduce: ReduceAlgorithm = Field(
        default="ring", description="recursive: halving, then doubling; tree: two trees, of half the data each"
    )
    all_to_all: ExchangeAlgorithm = Field(
        default="direct", description="to each at once; ring: a partner a step; bruck: few steps, more bytes"
    )
    levels: bool = Field(
        default=True,
        description="groups that span nodes work within nodes, and between nodes each rank with its own share; false: "
        "as one ring, whose rank at the edge of a node sends all over the link between nodes",
    )

    @check
    def _is_one_ring(self) -> Iterator[Clash]:
        others = [name for name in (self.all_gather, self.reduce_scatter, self.all_reduce) if name != "ring"]
        if not self.levels and others:
            yield ("levels",), f"false is about rings; {others[0]} works in levels, say true"


def _groups(ranks: int, wanted: int) -> str:
    """Why ranks of data do not divide into groups of so many, and of how many they do."""
    return f"{ranks} ranks of data do not divide into groups of {wanted}; of {nearest_divisor(ranks, wanted)} they do"


class Parallel(Section):
    """How many devices share a step, and how. `batch` and `micro_batches` are those of one rank of `data`."""

    tensor: Count = Field(
        default=1, description="ranks that share heads, the width of feed forward, and the vocabulary"
    )
    sequence: bool = Field(
        default=True, description="ranks of tensor share the tokens where they do not share those: norms, residuals"
    )
    context: Count = Field(
        default=1, description="ranks that each have a slice of every sequence: keys and values pass round (a ring)"
    )
    expert: Count = Field(default=1, description="of the ranks of data (and context), those that share the experts")
    data: Count = Field(default=1, description="ranks that each have a batch of their own")
    zero: Literal[0, 1, 2, 3] = Field(
        default=0,
        description="what ranks of data share: 1 the optimizer's states and the weights that it updates, 2 gradients "
        "too, 3 all weights, which are gathered where they are used (FSDP)",
    )
    secondary: Count = Field(
        default=1,
        description="with zero 3: neighbours among the ranks of data that together keep a second copy of the weights, "
        "which the backward gathers (hpZ of ZeRO++); those of a node",
    )
    pipeline: Count = Field(default=1, description="stages, each of which has some of the layers")
    encoder_stages: Count | None = Field(
        default=None,
        description="of the stages of an encoder-decoder, those that have the encoder's layers; so many that the stage "
        "with most layers has least, if not said",
    )
    chunks: Count = Field(
        default=1, description="runs of layers of a stage, which micro-batches pass one after another: interleaving"
    )
    stage: Annotated[int, Field(ge=0)] = Field(default=0, description="whose rank is counted, from 0 on")
    schedule: PipelineSchedule = Field(default="1f1b", description="in which order stages work on micro-batches")
    error_feedback: bool = Field(
        default=False,
        description="what rounding loses of gradients that ranks of data send is kept, and added in the next step "
        "(1-bit Adam): a state of the gradient's size",
    )
    overlap: LinkOverlap = Field(
        default="none",
        description="whose messages take no time as long as the rest of the step lasts: nobody's, those of ranks of "
        "data (and of those that have the same experts), all",
    )
    algorithms: Algorithms = Field(default=Algorithms(), description="how ranks carry out what they exchange")

    @property
    def replicas(self) -> int:
        """Ranks that have the same weights, but for experts: those of data, and of context in each."""
        return self.data * self.context

    @property
    def devices(self) -> int:
        """How many share a step."""
        return self.tensor * self.replicas * self.pipeline

    @check
    def _of_data(self) -> Iterator[Clash]:
        if self.replicas % self.expert:
            yield ("expert",), _groups(self.replicas, self.expert)
        if self.stage >= self.pipeline:
            yield ("stage",), f"there are {self.pipeline} stages, from 0 on; the last is {self.pipeline - 1}"
        if self.schedule == "interleaved" and self.chunks == 1:
            yield ("schedule",), "interleaved wants several runs of layers a stage: say chunks: 2"
        if self.encoder_stages is not None and self.pipeline == 1:
            yield ("encoder_stages",), "are of stages of a pipeline, of which there is one; say pipeline"
        if self.chunks > 1 and self.pipeline == 1:
            yield ("chunks",), "are of stages of a pipeline, of which there is one; say pipeline"
        if self.replicas % self.secondary:
            yield ("secondary",), _groups(self.replicas, self.secondary)
        if self.secondary > 1 and self.zero != 3:
            yield ("secondary",), f"is about weights that ranks of data share, with zero 3; zero is {self.zero}"
        if self.error_feedback and (self.replicas == 1 or self.zero > 1):
            ranks = "there is one rank of data" if self.replicas == 1 else f"zero is {self.zero}"
            yield (
                ("error_feedback",),
                f"is of gradients that ranks of data reduce once a step, with zero 0 or 1; {ranks}",
            )
        if self.zero and self.replicas == 1:
            yield ("zero",), "shares things among ranks of data, of which there is one; say data"


class Published(Section):
    """A figure that a paper states, to be shown beside ours."""

    quantity: Literal["arithmetic_reduction", "dram_reduction"] = Field(
        description="what is stated: how many times less than the baseline"
    )
    policy: Name = Field(description="the policy that it is stated of")
    stated: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(description="the figure, times less")
    source: str = Field(description="who states it, and where")
    note: str = Field(default="", description="why ours differs")


class WorkloadCase(Section):
    """Another choice: fields of the workload as `--set` takes them, rules after those of every policy, or both."""

    name: str = Field(description="a word or two for tables")
    set: Annotated[tuple[str, ...], Field(min_length=1)] = Field(default=(), description="texts FIELD=VALUE")
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)] = Field(
        default=(), description="as a policy has them; the baseline follows them too"
    )

    @check
    def _changes_nothing(self) -> Iterator[Clash]:
        if not self.set and not self.rules:
            yield (), "expected set or rules"


class WorkloadAssumption(Section):
    """A choice of the workload that its source leaves open, and what it could have been."""

    name: str = Field(description="a word or two for tables")
    here: str = Field(description="what the file assumes")
    grade: Grade = Field(default="ours", description="how well a source backs it")
    cases: Annotated[tuple[WorkloadCase, ...], Field(min_length=1), Hundred] = Field(
        description="what else could have been assumed"
    )


class Workload(Section):
    """A workload file. `model` and `batch` are checked by the model family that `model.family` names."""

    description: str = Field(description="one line, which `costsim list workloads` shows")
    model: dict[str, Any] = Field(description="sizes and choices; `family` says which fields there are")
    batch: dict[str, Any] = Field(description="one micro-batch: sequences and tokens of each")
    training: Training = Field(description="how long, and what is trained")
    optimizer: Optimizer = Field(description="what updates the weights")
    label_smoothing: Rate = Field(default=0.0, description="part of a label that is spread over all classes")
    parallel: Parallel = Field(
        default=Parallel(), description="over how many devices a step is split, and how; one unless said"
    )
    policies: Annotated[tuple[str, ...], Field(min_length=1), Hundred] = Field(
        description="names or files of what runs without --policy"
    )
    baseline: str = Field(description="the policy that ratios compare with")
    attention_pairs: AttentionPairs = Field(
        default="square",
        description="pairs of tokens that attention counts: all, or only those that the causal mask, the model's "
        "windows, or sentences packed one after another let meet",
    )
    law: Law = Field(default="product", description="what a MAC costs: `costsim run --help` and docs/conventions.md")
    traffic: Traffic = Field(
        default="fused", description="which ops share a kernel, and so what goes through DRAM: `costsim list traffic`"
    )
    buffer_bytes: Count | None = Field(default=None, description="on chip, for traffic tiled")
    scope: Scope = Field(
        default="step",
        description="which ops count: products of matrices, whole layers, or the step with embeddings, loss and update",
    )
    gemm_writes: Writes = Field(
        default="gemms",
        description="writes that scope gemm counts: those of GEMMs; none; operands or stashes that others write too; "
        "of stashes alone; gradients where GEMMs read them, in place of where GEMMs write them",
    )
    gemms_left_out: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="globs over names of matrix products that scope gemm leaves out"
    )
    hardware: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="profiles on which time and energy are given"
    )
    published: tuple[Published, ...] = Field(default=(), description="figures that a paper states, shown beside ours")
    assumptions: Annotated[tuple[WorkloadAssumption, ...], Hundred] = Field(
        default=(), description="moved one at a time by --by assumption"
    )


def _absent(section: type[Section], within: str = "") -> Iterator[str]:
    for name, field in section.section_fields.items():
        if isinstance(field.default, Section):
            yield within + name
            yield from _absent(type(field.default), f"{within}{name}.")


# Sections that a file need not have, but `--set` can give fields of.
ABSENT = tuple(_absent(Workload))
