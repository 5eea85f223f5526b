"""A target with known faults, by which the fuzzers themselves are tested."""


def one_input(data: bytes) -> None:
    """Raise for inputs that begin with an exclamation mark; never end for ``the hang``."""
    while data == b"the hang":
        pass
    if data.startswith(b"!"):
        raise ValueError("the canary was found")
