"""A job with another batch, and the largest that fits."""

from costsim.cost.memory import of_policy
from costsim.errors import InputError
from costsim.policy.policy import Policy
from costsim.run.job import Job, with_fields


def with_batch(job: Job, sequences: int | None, accumulation: int | None = None) -> Job:
    """The job with another batch: so many sequences, in `accumulation` micro-batches if that is given.

    Raises InputError if the batch is a histogram of lengths, or does not divide.
    """
    if sequences is not None and "lengths" in job.file.batch:
        raise InputError("--batch: the workload's batch is a histogram of lengths; set batch.lengths instead")
    sets = []
    if accumulation is not None:
        sets.append(f"training.micro_batches={accumulation}")
        whole = job.file.batch.get("sequences", job.graph.sizes.get("batch", 1)) if sequences is None else sequences
        if whole % accumulation:
            raise InputError(f"--accumulation {accumulation}: a batch of {whole} sequences does not divide into it")
        sequences = whole // accumulation
    if sequences is not None:
        sets.append(f"batch.sequences={sequences}")
    return with_fields(job, sets) if sets else job


MOST_SEQUENCES = 2**20  # where looking for the largest batch ends


def largest_batch(job: Job, policy: Policy, capacity_bytes: int, accumulation: int = 1) -> int:
    """The most sequences (a multiple of `accumulation`) of which a step fits into so many bytes; 0 if none does."""

    def fits(times: int) -> bool:
        larger = with_batch(job, times * accumulation, accumulation if accumulation > 1 else None)
        return of_policy(larger.graph, policy, larger.convention.traffic)[1].peak_bytes <= capacity_bytes

    low, high = 0, 1
    while high < MOST_SEQUENCES and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * accumulation
