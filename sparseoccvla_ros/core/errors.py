"""The errors the core raises at its borders."""


class InvalidInput(ValueError):
    """Input that a stage refuses; `field` names what is wrong and `reason` says how.

    Nodes turn it into a diagnostic and drop the input; it never ends a process.
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")
