"""Train the small translation model under several policies and record the losses: `python notebooks/training/train.py`.

Fetches the corpus (11 packages by name, about 70 MB) into --corpus unless it is there already. Takes about a minute a
hundred steps and policy on one core; each policy is a process of its own with --policy.
"""

from pathlib import Path

import click

from costsim.policy.load import find_policy, load_policies
from costsim.reference import corpus
from costsim.reference.task import load_task
from costsim.reference.training import Evaluation, train, write_evaluations

HERE = Path(__file__).parent
POLICIES = ("fp32", "fixed16", "static2-bfp", "stash-bfp", str(HERE / "dsq-plateau.yaml"))


@click.command()
@click.option("--corpus", "folder", type=click.Path(path_type=Path), default=HERE / "corpus", show_default=True)
@click.option("--policy", "policies", multiple=True, default=POLICIES, help="Policy to train under; repeatable.")
@click.option("--steps", type=click.IntRange(1), default=600, show_default=True)
@click.option("--every", type=click.IntRange(1), default=50, show_default=True, help="Steps between evaluations.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "losses", show_default=True)
def main(folder: Path, policies: tuple[str, ...], steps: int, every: int, seed: int, out: Path) -> None:
    """Train under each policy and write POLICY.csv: step, phase, training and validation loss in nats per word."""
    pairs_file = folder / "pairs.tsv"
    if not pairs_file.exists():
        corpus.fetch(folder / "packages")
        corpus.write_pairs(pairs_file, corpus.read_packages(folder / "packages"))
    task = load_task(corpus.read_pairs(pairs_file), sets=[f"training.steps={steps}"])
    sizes = [len(part["head.labels"]) for part in (task.training, task.validation)]
    click.echo(f"{sizes[0]} training and {sizes[1]} validation sentences, unigram entropy {task.unigram_entropy:.3f}")
    out.mkdir(parents=True, exist_ok=True)
    for name in policies:
        policy = load_policies(find_policy(name))

        def show(now: Evaluation) -> None:
            losses = f"training {now.training_loss:.3f}, validation {now.validation_loss:.3f}"
            click.echo(f"{now.policy} step {now.step}, phase {now.phase + 1}: {losses}")

        rows = train(task, policy, every=every, seed=seed, report=show)
        write_evaluations(out / f"{policy.name}.csv", rows, task.unigram_entropy)


if __name__ == "__main__":
    main()
