"""A server that is stopped ends by itself before its container is killed, whatever its database does."""

import re
from pathlib import Path

from streamer.config import Settings
from streamer.jobs.jobs import STOP_TIMEOUT
from streamer.server.database import CLOSE_TIMEOUT
from streamer.server.http import HANDLER_TIMEOUT

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
POOLS = 3


def test_stop_takes_less_than_the_grace_period_of_the_container() -> None:
    found = re.search(r"stop_grace_period: \$\{STOP_GRACE_PERIOD:-([0-9]+)s\}", COMPOSE.read_text())
    assert found is not None
    default_of_docker = 10
    after_the_grace = STOP_TIMEOUT + 2 * HANDLER_TIMEOUT + POOLS * CLOSE_TIMEOUT
    assert Settings().shutdown_timeout + after_the_grace < int(found[1])
    assert after_the_grace < default_of_docker
