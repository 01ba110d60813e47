"""A clock that tests move."""

import asyncio
import math

import pytest


class Clock:
    """The loop's time. It stands still until it is moved."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = float(math.ceil(loop.time()))  # so that seconds are added without rounding
        monkeypatch.setattr(loop, "time", lambda: self.now)

    async def advance(self, seconds: float) -> None:
        """Moves on, and lets every timer that is due run."""
        self.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)
