"""The vocabulary of the command line and of files, each word in one place. Imports nothing of costsim.

The command line offers these names, schemas check them, and what implements a name enters it in a table by that name;
tests/test_layout.py compares the tables.
"""

from collections.abc import Mapping
from typing import Literal, get_args

Law = Literal["product", "magnitude", "bops", "msfp", "hbfp", "fast", "energy"]  # costsim/cost/laws.py
Traffic = Literal["unfused", "fused", "tiled", "eager"]  # costsim/graph/fusion.py
Scope = Literal["gemm", "layer", "step"]  # from the narrowest on; costsim/cost/row.py
# Which pairs of tokens attention counts; costsim/models/meeting.py.
AttentionPairs = Literal["square", "causal", "window", "packed", "packed-causal", "packed-window"]
# That scope gemm counts; costsim/cost/writes.py.
Writes = Literal["gemms", "none", "operands", "stashes", "stashes-alone", "gradients"]
LAWS: tuple[Law, ...] = get_args(Law)
TRAFFIC_MODELS: tuple[Traffic, ...] = get_args(Traffic)
SCOPES: tuple[Scope, ...] = get_args(Scope)
# What ranks send each other, along which axis of the mesh (from the innermost on), how; costsim/cost/collectives.py.
Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send"]
Axis = Literal["tensor", "context", "expert", "data", "secondary", "expert_data", "pipeline", "tied"]
CollectiveAlgorithm = Literal["ring", "tree", "recursive", "bruck", "direct"]
LinkOverlap = Literal["none", "data", "full"]  # which messages hide behind the rest of a step; costsim/devices/links.py
LINK_OVERLAPS: tuple[LinkOverlap, ...] = get_args(LinkOverlap)
PipelineSchedule = Literal["gpipe", "1f1b", "interleaved", "zb-h1"]  # costsim/parallel/schedules.py
PIPELINE_SCHEDULES: tuple[PipelineSchedule, ...] = get_args(PipelineSchedule)
COLLECTIVES: tuple[Collective, ...] = get_args(Collective)
AXES: tuple[Axis, ...] = get_args(Axis)
COLLECTIVE_ALGORITHMS: tuple[CollectiveAlgorithm, ...] = get_args(CollectiveAlgorithm)
# Those of each collective, the first of which runs unless another is said.
GatherAlgorithm = Literal["ring", "recursive", "bruck", "direct"]
ScatterAlgorithm = Literal["ring", "recursive", "direct"]
ReduceAlgorithm = Literal["ring", "recursive", "tree"]
ExchangeAlgorithm = Literal["direct", "ring", "bruck"]
Values = Literal["float", "index", "mask"]  # what a tensor holds, and a format can; costsim/formats/format.py
# Of a layer y = x w, or a product of the update (Muon, GaLore); costsim/graph/graph.py.
Gemm = Literal["forward", "dgrad", "wgrad", "update"]
Operand = Literal["x", "w", "dy"]  # of its GEMMs
# What a search varies: copies that GEMMs multiply, that are kept for the backward, tensors, messages to other ranks;
# costsim/policy/groups.py
Varied = Literal["operand", "stash", "stored", "sent"]
VARIED: tuple[Varied, ...] = get_args(Varied)
MOST_STRETCHES = 50  # of training, in a search: a policy has at most 200 phases, of which some may be its own
# What a search can minimise and bound, as records name it; costsim/search.
COSTS = ("arithmetic_cost", "dram_bits", "quantize_ops")
PEAK = "peak_memory_bytes"
ON_DEVICES = ("time_s", "energy_j")
OBJECTIVES = (*COSTS, PEAK, *ON_DEVICES)

# What a figure of a recipe is of: costsim/run/figures.py.
Quantity = Literal[
    "arithmetic_reduction",
    "dram_reduction",
    "memory_reduction",
    "kept_reduction",
    "weight_reduction",
    "state_reduction",
    "bytes_per_parameter",
    "state_bytes_per_parameter",
    "weights_and_states_gib",
    "bits_per_element",
    "scale_bits_per_element",
    "share_of_linear_macs",
    "update_overhead",
]

# What a row of a table is. Groupings divide the counts among the ops of a step: costsim/cost/totals.py.
GROUPINGS = ("phase", "kind", "layer", "role", "tensor", "op", "pair", "gemm")
BY = ("policy", *GROUPINGS, "assumption", "reduction")
BREAKDOWNS = ("phase", "role", "layer", "kind")  # of plot breakdown: costsim/plots/breakdown.py

# Output styles, with the ending of their files; their writers are in costsim/tables/styles.py.
STYLES: Mapping[str, str] = {"table": "txt", "json": "json", "csv": "csv", "markdown": "md", "latex": "tex"}
WORKBOOK = {"excel": "xlsx"}  # a style of files alone, with the extra `excel`: costsim/tables/workbook.py
FIGURE_ENDINGS = (".svg", ".pdf", ".png")  # of figures' files: costsim/plots/__init__.py
FIGURE_STYLES = ("paper", "slide")  # of figures: costsim/plots/look.py
TEXT_STYLES = ("table", "json")  # of explain and validate, whose documents are text

FIGURES = ("breakdown", "comparison", "sensitivity", "schedule", "roofline", "memory", "timeline")  # costsim/plots
PLOTS = (*FIGURES, "sweep", "trace")

CATALOGUES = ("workloads", "policies", "hardware", "formats", "ops", "traffic")  # costsim/cli/catalogue.py
FILES = ("workload", "policy", "hardware")  # that have a schema: costsim/inputs
ENGINES = ("numpy", "torch")  # that have benches: costsim/reference
RUNNERS = (*ENGINES, "torch.compile")  # of whole steps
PROCESSORS = ("cpu", "cuda")
