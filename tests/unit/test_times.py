"""The intervals and limits that no setting decides, against each other."""

from streamer.http.download.live import DownloadTimes
from streamer.jobs.times import JobTimes
from streamer.server.tuning import Tuning

TIMES = JobTimes()


def test_a_lease_outlives_two_renewals_that_fail() -> None:
    assert 3 * TIMES.renewal <= TIMES.lease


def test_a_statement_that_times_out_leaves_time_to_renew_the_lease() -> None:
    assert TIMES.renewal.total_seconds() + TIMES.statement_timeout < TIMES.lease.total_seconds()


def test_a_download_waits_longer_for_the_source_than_for_its_first_rows() -> None:
    times = DownloadTimes()
    assert times.first_rows < times.source


def test_a_server_without_its_own_has_the_usual_times() -> None:
    assert Tuning().jobs == TIMES
