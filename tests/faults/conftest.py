"""A seed for every sweep: drawn, or that of SWEEP_SEED to see again what was seen."""

import os
import random
from collections.abc import Callable

import pytest


@pytest.fixture
def seed(record_property: Callable[[str, object], None]) -> int:
    drawn = int(os.environ.get("SWEEP_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {drawn}")
    record_property("seed", drawn)
    return drawn
