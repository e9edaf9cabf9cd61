"""What a test fails with."""


class MachineError(Exception):
    """A machine did not do what was expected of it; says what, and what it answered instead."""
