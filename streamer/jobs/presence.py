"""The session of this server: its lock, its signs of life, and the announcements that it hears.

The session is asked something every second, because a connection that is cut off looks like one on which nothing is
announced. Before it is used, an announcement that is sent by another connection must come back: behind a pooler that
lends sessions for one transaction it does not, and the lock would be that of the pooler.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID, uuid4

import asyncpg

from streamer.errors import Unavailable
from streamer.jobs.servers import CHANNEL, Servers
from streamer.jobs.times import JobTimes
from streamer.postgres.driver import Connection
from streamer.postgres.failures import with_causes

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.25  # seconds before the session is opened again; doubles with each failure in a row
MAX_PAUSE = 5.0  # seconds
POOLER_PAUSE = 60.0  # seconds, if no announcement came back

Connect = Callable[[], Awaitable[Connection]]
Hear = Callable[[str], None]
Bury = Callable[[Sequence[UUID]], Awaitable[None]]


class _NoSessionError(Exception):
    """No announcement came back."""


class Presence:
    """`connect` opens a connection, `hear` gets each announcement, and `bury` settles the exports of dead servers."""

    def __init__(self, servers: Servers, connect: Connect, *, hear: Hear, bury: Bury, times: JobTimes) -> None:
        self._servers = servers
        self._connect = connect
        self._hear = hear
        self._bury = bury
        self._times = times
        self._probe: tuple[str, asyncio.Event] | None = None  # an announcement that must come back
        self._failures = 0
        self._warned = False

    async def run(self) -> None:
        """Keeps a session open, until it is cancelled."""
        while True:
            pause = MAX_PAUSE
            try:
                await self._keep_session()
            except _NoSessionError:
                self._warn()
                pause = POOLER_PAUSE
            except (Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.debug("the session of this server is lost: %s", with_causes(error))
                pause = min(FIRST_PAUSE * 2**self._failures, MAX_PAUSE)
                self._failures = min(self._failures + 1, 10)
            except Exception:
                log.exception("the session of this server is lost")
            await asyncio.sleep(pause)

    def _warn(self) -> None:
        """Logs once what is slower now."""
        if not self._warned:
            self._warned = True
            log.warning(
                "DATABASE_URL: announcements do not come back, as behind a pooler in transaction mode: the queue is"
                " polled, and the exports of servers that died wait for the end of their leases"
            )

    async def _keep_session(self) -> None:
        session = await self._connect()
        try:
            await session.add_listener(CHANNEL, self._received)
            await self._check_announcements()
            await self._servers.lock(session)
            self._failures = 0
            try:
                await self._live(session)
            finally:
                with suppress(Unavailable):
                    await self._servers.unlock()
        finally:
            session.terminate()

    async def _live(self, session: Connection) -> None:
        """Gives a sign of life every second, and judges other servers, until the session is lost."""
        clock = asyncio.get_running_loop().time
        opened_at = clock()
        while True:
            await self._servers.beat_locked(session)
            if clock() - opened_at >= self._times.judging_age and (dead := await self._servers.dead(session)):
                await self._bury(dead)
            await asyncio.sleep(self._times.beat_interval)

    async def _check_announcements(self) -> None:
        """Raises _NoSessionError if an announcement does not come back."""
        text, back = f"probe {uuid4()}", asyncio.Event()
        self._probe = (text, back)
        await self._servers.announce(text)
        try:
            async with asyncio.timeout(self._times.session_timeout):
                await back.wait()
        except TimeoutError as error:
            raise _NoSessionError from error

    def _received(self, _connection: object, _process: int, _channel: str, text: object) -> None:
        if self._probe is not None and text == self._probe[0]:
            self._probe[1].set()
        else:
            self._hear(str(text))
