"""The error of what does not fit a graph, with the field of a workload file that says it."""

from costsim.inputs.document import Where


class FieldError(ValueError):
    """Something that does not fit, and the field of a workload file that says it."""

    def __init__(self, at: Where, message: str) -> None:
        super().__init__(message)
        self.at = at
