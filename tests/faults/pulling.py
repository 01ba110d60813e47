"""Pulls of one export behind a relay with faults, run after run, until the file is complete; and the violations.

The export is live or sealed, over one connection or several, as CSV or compressed, and decoded or not. A run may be
cancelled as by Ctrl-C or give up, and is then followed by another one; the last one has no faults. After every run
there is either the complete file and no other file, or no file and a part that is a beginning of what is transferred.
"""

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from streamer.client import Client, GaveUp, RetryPolicy
from streamer.client.decoding import decoder_of
from streamer.client.saving import SavePolicy
from streamer.coding import Coding
from tests.acceptance.relay import FaultyRelay, relaying
from tests.gates import Steps

DATASET = "slow"
ROWS = 12_000
BATCH = 600  # rows between two pauses
PAUSE = 0.01  # seconds
COMPRESSION = 4  # times smaller than the CSV, or a little more
RUNS = 4  # behind the relay
FORMS = ((Coding.IDENTITY, False), (Coding.GZIP, False), (Coding.GZIP, True), (Coding.ZSTD, False), (Coding.ZSTD, True))
"""What is transferred, and whether it is decoded."""

SMALL = SavePolicy(min_piece=50_000, sync_interval=50_000)
"""An export of this size has many pieces and syncs."""

NO_FAULTS = RetryPolicy(attempts=5, max_backoff=0.1, read_timeout=5.0)
SLOW = f"""
    SELECT CASE WHEN n % {BATCH} = 0 THEN slowly(n) ELSE n END AS id, repeat(md5(n::text), 3) AS text
    FROM (SELECT generate_series(1::bigint, {ROWS}) AS n) AS numbers
"""
SLOWLY = f"""
    CREATE FUNCTION slowly(row_number bigint) RETURNS bigint LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep({PAUSE});
        RETURN row_number;
    END $$
"""


def content() -> bytes:
    return Steps(DATASET, ROWS, gates=()).whole


@dataclass
class Schedule:
    """One export with its random runs and faults, which a seed determines."""

    url: str  # of the server itself
    folder: Path
    seed: int
    runs: int = 0
    faults: int = 0  # that happened
    resumed: int = 0  # runs that began with a part
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._target = self.folder / f"{self.seed}.csv"
        self._part = self._target.with_name(f"{self._target.name}.part")
        self._coding, self._decode = self._chance.choice(FORMS)
        self._parts: list[tuple[bytes, list[tuple[int, int]]]] = []  # what runs have left, and which bytes of it count

    async def play(self) -> list[str]:
        """Returns the violations."""
        sealed = self._chance.random() < 0.5
        connections = self._chance.choice((1, 1, 3)) if sealed else 1
        async with Client(self.url) as client:
            export = await client.export(dataset=DATASET)
            if sealed:
                async for _ in export.stream():
                    pass
        faults = self._chance.choice((1, 4, 10, 40))
        relay = FaultyRelay(self.url, self._chance, faults, len(content()) // (1 if self._is_csv else COMPRESSION))
        async with relaying(relay) as relayed:
            for _ in range(RUNS):
                if self._target.exists():
                    break
                await self._run(relayed, str(export.id), connections)
        self.faults = relay.happened
        if not self._target.exists():
            async with Client(self.url, retry_policy=NO_FAULTS) as client:
                await self._save(client, str(export.id), connections)
        self._check()
        async with Client(self.url) as client:
            export = client.get(str(export.id))
            self._check_parts(b"".join([chunk async for chunk in export.stream(coding=self._coding)]))
            await export.delete()
        self._target.unlink()
        return [f"seed {self.seed}: {violation}" for violation in self.violations]

    async def _run(self, url: str, export_id: str, connections: int) -> None:
        """Runs one pull, which may be cancelled."""
        self.runs += 1
        self.resumed += self._part.exists()
        retry_policy = RetryPolicy(attempts=self._chance.choice((1, 2, 4, 8)), max_backoff=0.05, read_timeout=0.15)
        interrupted = self._chance.random() < 0.35
        limit = self._chance.random() * 0.3 if interrupted else None
        with suppress(GaveUp, TimeoutError):
            async with asyncio.timeout(limit), Client(url, retry_policy=retry_policy) as client:
                await self._save(client, export_id, connections)
        self._check()

    async def _save(self, client: Client, export_id: str, connections: int) -> None:
        await client.get(export_id).save(
            self._target, coding=self._coding, decode=self._decode, connections=connections, policy=SMALL
        )

    @property
    def _is_csv(self) -> bool:
        return self._coding is Coding.IDENTITY

    def _check(self) -> None:
        if self._target.exists():
            if self._csv() != content():
                self.violations.append("a file that is not the export")
            if leftovers := [path.name for path in self.folder.glob(f"{self._target.name}.*")]:
                self.violations.append(f"other files beside the file: {leftovers}")
        elif self._part.exists():
            self._keep_part()

    def _csv(self) -> bytes:
        """The content of the file, decoded."""
        found = self._target.read_bytes()
        return found if self._decode or self._is_csv else b"".join(decoder_of(self._coding).decode(found))

    def _keep_part(self) -> None:
        """What is transferred may not be known yet."""
        found = self._part.read_bytes()
        metadata = json.loads(self._part.with_name(f"{self._part.name}.json").read_bytes())
        self._parts.append((found, [(0, len(found))] if metadata["pieces"] is None else metadata["pieces"]))

    def _check_parts(self, transferred: bytes) -> None:
        for part, pieces in self._parts:
            for start, stop in pieces:
                if part[start:stop] != transferred[start:stop]:
                    self.violations.append(f"a part whose bytes from {start} to {stop} are not those of the export")
