"""How long the state machines run: a few seconds, the same every time.

``FUZZ_EXAMPLES=10000 python -m pytest tests/fuzz`` runs that many of each, and new ones every time.
"""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def machine_settings(examples: int, steps: int) -> settings:
    """Return settings for a machine that usually runs ``examples`` times, ``steps`` steps each."""
    return settings(
        max_examples=int(EXAMPLES or examples),
        stateful_step_count=steps,
        derandomize=EXAMPLES is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
