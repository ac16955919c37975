"""costsim in Python: load a workload, run it, and get tables and figures. For notebooks and scripts.

    import costsim

    workload = costsim.load("iwslt17-dsq.yaml")
    dsq = costsim.load_policy("dsq")
    result = workload.run(policies=["fixed16", dsq, dsq.with_(copy="stash", format="bfp8")], hardware=["h100-sxm"])
    result.compare()

Each function is a few lines around `run`, `results`, `tables` and `plots`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from costsim import names
from costsim.arguments import Convention, Looks, speaking, speaks
from costsim.devices.profile import Hardware
from costsim.errors import InputError
from costsim.findings import Reconciliation, Search, Survey, columns
from costsim.formats.format import Format
from costsim.graph.graph import Graph
from costsim.loading import load_format, load_hardware, load_policy, make_policy
from costsim.models.build import build
from costsim.notebook import card
from costsim.policy.policy import Policy
from costsim.results import frame, frame_files
from costsim.results.records import records
from costsim.run import simulate, spread, sweep
from costsim.run.job import Request, prepare, read_workload
from costsim.tables import styles
from costsim.tables.run import document

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Convention",
    "Format",
    "Hardware",
    "InputError",
    "Plots",
    "Policy",
    "Reconciliation",
    "Results",
    "Search",
    "Survey",
    "Workload",
    "load",
    "load_format",
    "load_hardware",
    "load_policy",
    "make_policy",
    "read",
]


@speaking
def load(workload: str | Path, fields: Mapping[str, object] | None = None) -> Workload:
    """A workload by path or shipped name, with some of its fields changed: {"model.encoder_layers": 12}.

    Raises InputError for anything wrong in it.
    """
    return Workload(str(workload)).with_(fields or {})


@speaking
def read(path: str | Path) -> Results:
    """Results that were saved: the table, without the runs that plots and exports take. Raises InputError."""
    return Results(frame_files.read(Path(path)))


def _assignments(fields: Mapping[str, object]) -> tuple[str, ...]:
    """Fields as `field=value` texts."""
    return tuple(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items())


@speaks
@dataclass(frozen=True, slots=True, repr=False)
class Workload:
    """A workload file, and what is changed in it."""

    path: str
    assignments: tuple[str, ...] = ()

    def with_(self, fields: Mapping[str, object]) -> Workload:
        """The workload with more of its fields changed. Raises InputError if they do not fit."""
        changed = replace(self, assignments=(*self.assignments, *_assignments(fields)))
        _ = changed.graph  # which reads and checks the file
        return changed

    @property
    def graph(self) -> Graph:
        """The training step: tensors, ops, sizes."""
        _, document, file = read_workload(self.path, self.assignments)
        return build(file, document)

    def __repr__(self) -> str:
        changed = f", {dict(text.split('=', 1) for text in self.assignments)}" if self.assignments else ""
        return f"Workload({self.path!r}{changed})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the file's main fields."""
        _, _, file = read_workload(self.path, self.assignments)

        def said(fields: Mapping[str, Any]) -> list[str]:
            plain = {name: value for name, value in fields.items() if not isinstance(value, (dict, tuple, list))}
            return [f"{name} {value}" for name, value in plain.items()]

        rows = {
            "description": file.description,
            "changed": self.assignments,
            "model": said(file.model),
            "batch": said(file.batch),
            "optimizer": file.optimizer.kind,
            "steps": file.training.steps,
            "policies": file.policies,
            "baseline": file.baseline,
            "counted": f"law {file.law}, traffic {file.traffic}, scope {file.scope}",
            "hardware": file.hardware,
        }
        return card("workload", Path(self.path).stem, rows)

    def run(
        self,
        policies: str | Policy | Sequence[str | Policy] = (),
        hardware: str | Hardware | Sequence[str | Hardware] = (),
        **convention: Unpack[Convention],
    ) -> Results:
        """Count policies (the file's, if none is given) side by side, with time and energy on devices.

        `convention`: the options of `Convention`. Raises InputError.
        """
        result = simulate.run(
            self.path, _listed(policies), assignments=self.assignments, hardware=_listed(hardware), **convention
        )
        return Results(frame.of_result(result), (result,))

    def search(
        self,
        formats: str | Sequence[str],
        sensitivity: str | Path | pd.DataFrame | None = None,
        budgets: str | Sequence[str] = (),
        policy: str | None = None,
        groups: str | Sequence[str] = ("role", "gemm", "operand"),
        vary: str | Sequence[str] = ("operand",),
        **options: Any,
    ) -> Search:
        """The best policies that give groups of tensors these formats: a front, or with budgets the one that is best.

        `sensitivity`: a CSV file, a table with the columns group, format and loss, or "reference". Budgets are texts,
        "dram_reduction >= 2", "loss <= 0.1". Options: `against`, `minimise`, `points` and `phases` of `costsim search`,
        and `baseline`, `law`, `traffic`, `scope` and `hardware`. Raises InputError.
        """
        from costsim.search import found  # few sessions search
        from costsim.search.sensitivity import of_rows

        chosen = {name: options.pop(name) for name in ("against", "minimise", "points", "phases") if name in options}
        devices = _listed(options.pop("hardware", ()))
        job = prepare(Request(self.path, assignments=self.assignments, hardware=devices, **options))
        named = ",".join(map(str, _listed(groups))), _listed(vary), ",".join(map(str, _listed(formats)))
        given = isinstance(sensitivity, pd.DataFrame)
        asked = found.Asked(
            policy,
            *named,
            sensitivity=None if sensitivity is None or given else str(sensitivity),
            at_most=[text.replace("<=", "=") for text in _listed(budgets) if ">=" not in text],
            at_least=[text.replace(">=", "=") for text in _listed(budgets) if ">=" in text],
            **chosen,
            hardware=[device.name for device in job.hardware] if devices else (),
        )
        table = found.losses_of(job, asked)
        if isinstance(sensitivity, pd.DataFrame):
            table = of_rows(sensitivity[["group", "format", "loss"]].itertuples(index=False, name=None))
        return Search(found.search(job, asked, table), table)

    def reconcile(
        self,
        within: float | Fraction = Fraction(1, 100),
        assumptions: str | Sequence[str] = (),
        top: int = 10,
        policies: str | Policy | Sequence[str | Policy] = (),
        **convention: Unpack[Convention],
    ) -> Reconciliation:
        """Which combinations of assumptions give the workload's published figures, within a part of them.

        `assumptions`: vary these alone; `top` hits are listed. Raises InputError.
        """
        from costsim.search import reconcile  # few sessions do

        if not 0 < within < 1:
            raise InputError(f"within: expected a part above 0 and below 1, such as 0.01, got {within}")
        job = prepare(Request(self.path, _listed(policies), assignments=self.assignments, **convention))
        part = within if isinstance(within, Fraction) else Fraction(str(within))
        return Reconciliation(reconcile.reconcile(job, part, _listed(assumptions), top))

    def recipes(
        self,
        policies: str | Policy | Sequence[str | Policy] = (),
        hardware: str | Hardware | Sequence[str | Hardware] = (),
        noise: bool = True,
        seed: int = 0,
        **convention: Unpack[Convention],
    ) -> Survey:
        """Recipes side by side, all that are shipped if none is named: costs, and the noise that they make.

        `noise`: run them in NumPy, on a shrunken copy, for the signal to noise of the gradients. `convention` as `run`
        has it, without bits and buffer. Raises InputError.
        """
        from costsim.results import survey  # NumPy

        request = Request(
            self.path, _listed(policies), assignments=self.assignments, hardware=_listed(hardware), **convention
        )
        return Survey(survey.survey(survey.prepared(request), noise, seed))

    def sweep(
        self,
        fields: Mapping[str, Iterable[object]],
        totals: bool = False,
        executor: str | Executor | None = None,
        **options: Any,
    ) -> Results:
        """Run at every combination of values of some fields, into one table that has them as columns.

        `workload.sweep({"batch.sequences": [1, 2, 4]}, policies=["dsq"])`. `totals`: the table has a row per policy,
        training phase and device, not one per op, which takes megabytes a point. `levels.q0` and `numbers.box` are
        levels and numbers of the policies; with `totals` they take milliseconds a point. `executor`: "local" works on
        all cores, "dask:ADDRESS" on the machines of a Dask scheduler, any other is one of concurrent.futures. Options
        are those of `run`. Raises InputError.
        """
        where: list[dict[str, str]] = []
        listed_fields = sweep.in_order({name: _listed(values) for name, values in fields.items()})
        sweep.check_number(listed_fields)
        for values in itertools.product(*listed_fields.values()):
            point = dict(zip(map(sweep.field, listed_fields), values, strict=True))
            texts = dict(assignment.split("=", 1) for assignment in _assignments(point))
            where.append(texts)
        if not where:
            raise InputError("sweep: expected at least one value of each field")
        listed = {name: _listed(options.pop(name, ())) for name in ("policies", "hardware")}
        swept = sweep.prepared(where, workload=self.path, assignments=self.assignments, **listed, **options)
        with spread.workers(executor) as workers:
            table = frame.of_parts(where, frame.swept_columns(swept, totals, workers))
        return Results(table, sweep.without_points(sweep.results(swept)))


def _listed(names: Any) -> Any:
    """Names as a tuple, also if one was given by itself."""
    return (names,) if isinstance(names, (str, Policy, Hardware, int, float)) else tuple(names or ())


@speaks
@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """The results of runs. `table` is tidy: a row per op, policy, phase and device; `results.frame.COLUMNS` names all.

    `runs` are what the table, figures and exports are made of; none if the table was read from a file. Those of a sweep
    are counted again when they are asked for, but for the first few: a run takes megabytes.
    """

    table: pd.DataFrame
    runs: Sequence[simulate.Result] = ()

    def by(self, what: str = "policy") -> pd.DataFrame:
        """Totals of the run, exact, a row per policy and group (and device): policy, phase, kind, layer, op, pair, ...

        `role` and `tensor` (of what moves), `assumption` and `reduction` need the run itself. Raises InputError.
        """
        if what in frame.GROUPS:
            return frame.total(self.table, what)
        if what in names.BY:
            return pd.DataFrame([columns(record) for record in records(self._run(), what)])
        return frame.total(self.table, what)  # which knows what there is

    def compare(self, baseline: str | None = None) -> pd.DataFrame:
        """How many times less than a baseline (by default the file's) each policy takes. Raises InputError."""
        return frame.compare(self.table, baseline)

    def memory(self) -> pd.DataFrame:
        """The memory at the peak of a step, in bytes: a row per policy and component."""
        from costsim.cost.memory import of_policy

        run = self._run()
        rows = []
        for counted in run.policies:
            phase, memory = of_policy(run.job.graph, counted.policy, run.job.convention.traffic)
            for component, size in memory.components.items():
                rows.append((counted.policy.name, phase, component, size))
        return pd.DataFrame(rows, columns=["policy", "training_phase", "component", "peak_memory_bytes"])

    @property
    def plot(self) -> Plots:
        """Figures, by name: `results.plot.roofline()`."""
        return Plots(self._run())

    def to_text(self, by: str = "policy") -> str:
        """What `costsim run` prints."""
        return styles.render(document(self._run(), by), "table")

    def to_latex(self, by: str = "policy") -> str:
        """A table for a paper, ready to \\input."""
        return styles.render(document(self._run(), by), "latex")

    def to_markdown(self, by: str = "policy") -> str:
        """A table for a README."""
        return styles.render(document(self._run(), by), "markdown")

    def save(self, path: str | Path) -> Path:
        """Write the table: .json, .csv or .parquet; `costsim.read` reads it back unchanged. Raises InputError.

        Of a run also .xlsx, a workbook of what `costsim run` prints, with the exact data beside it.
        """
        if styles.style_of(str(path)) in names.WORKBOOK:
            return styles.save(document(self._run()), str(path))[0]
        return frame_files.save(self.table, Path(path))

    def _run(self) -> simulate.Result:
        """The run, if there is one."""
        if len(self.runs) == 1:
            return self.runs[0]
        origin = f"a sweep of {len(self.runs)} runs; take one of its .runs" if self.runs else "read from a file"
        raise InputError(f"this needs one run, and these results are {origin}: costsim.load(...).run(...) makes one")

    def __repr__(self) -> str:
        """The comparison, not the table of thousands of rows."""
        return str(self.compare().to_string(index=False, float_format="{:.2f}".format, na_rep="n/a"))

    def _repr_html_(self) -> str:
        """What a notebook shows: the comparison."""
        return str(self.compare().to_html(index=False, float_format="{:.2f}".format, na_rep="n/a"))


@speaks
@dataclass(frozen=True, slots=True)
class Plots:
    """The figures of a run, as matplotlib Figures; `costsim plot` draws the same."""

    run: simulate.Result

    def draw(self, kind: str, **options: Any) -> Figure:
        """One of the kinds of `costsim plot`; every kind takes the options of `Looks`. Raises InputError."""
        from costsim import plots

        look, others = plots.look_apart(options)
        return plots.draw(self.run, kind, look, **others)

    def breakdown(self, by: str = "phase", **look: Unpack[Looks]) -> Figure:
        """Arithmetic, DRAM and memory of each policy, by role, layer, phase or kind."""
        return self.draw("breakdown", by=by, **look)

    def comparison(self, **look: Unpack[Looks]) -> Figure:
        """How many times less than the baseline each policy takes."""
        return self.draw("comparison", **look)

    def roofline(self, **look: Unpack[Looks]) -> Figure:
        """The kernels under the ceilings of each device."""
        return self.draw("roofline", **look)

    def memory(self, batches: Sequence[int | None] = (None,), **look: Unpack[Looks]) -> Figure:
        """Peak memory by component, over batches."""
        return self.draw("memory", batches=list(batches), **look)

    def timeline(self, **look: Unpack[Looks]) -> Figure:
        """What lies in memory over a step."""
        return self.draw("timeline", **look)

    def schedule(self, **look: Unpack[Looks]) -> Figure:
        """Levels and cost over training."""
        return self.draw("schedule", **look)

    def sensitivity(self, **look: Unpack[Looks]) -> Figure:
        """Where each assumption takes the ratios."""
        return self.draw("sensitivity", **look)
