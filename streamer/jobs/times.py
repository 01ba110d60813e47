"""The intervals and time limits of jobs/."""

from dataclasses import dataclass
from datetime import timedelta

LEASE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimes:
    """Those that are no timedelta are in seconds."""

    lease: timedelta = LEASE  # of an unfinished export: after it, other servers settle the row
    renewal: timedelta = LEASE / 3  # between two renewals of the leases
    statement_timeout: float = 10.0  # for a connection to the table, and for the answer to a statement
    note_timeout: float = 1.0  # that a download waits for the table to note its use
    retry_delay: timedelta = timedelta(seconds=1)  # before the second attempt; doubles with each attempt
    report_interval: float = 0.5  # between two writes of the progress
    sweep_interval: float = 60.0  # between two removals of what has expired or is not needed
    cache_lifetime: float = 1.0  # of a row in memory: how long a file may be served that another server has removed
    poll_interval: float = 1.0  # between two looks at the queue, if nothing announces a change
    beat_interval: float = 1.0  # between two signs of life
    session_timeout: float = 5.0  # for the answer to a sign of life, and to the first announcement
    dead_after: timedelta = timedelta(seconds=3)  # without a sign of life and without its lock
    judging_age: float = 10.0  # of the session of a server that judges others
    server_lifetime: timedelta = timedelta(hours=1)  # of the row of a server that has died
    stop_timeout: float = 2.0  # for the database to answer when the server stops
