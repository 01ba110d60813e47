"""The addresses on which a server listens: one, several, or all of this machine."""

import socket
from urllib.parse import urlsplit

import pytest

from streamer.config import Hosts
from streamer.errors import StartError
from streamer.server import serving
from tests.conftest import Configure, Serve


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 on this machine")
BOTH = {"127.0.0.1", "::1"}


def answering(port: int | None) -> set[str]:
    """Returns the addresses of this machine that accept connections on the port."""
    found = set()
    for host in BOTH if has_ipv6() else {"127.0.0.1"}:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
            if client.connect_ex((host, port)) == 0:
                found.add(host)
    return found


@pytest.mark.parametrize(
    ("hosts", "url", "found"),
    [
        (("127.0.0.1",), "127.0.0.1", {"127.0.0.1"}),
        (("0.0.0.0",), "127.0.0.1", {"127.0.0.1"}),
        pytest.param(("::",), "127.0.0.1", BOTH, marks=needs_ipv6),
        pytest.param(("::1",), "[::1]", {"::1"}, marks=needs_ipv6),
        pytest.param(("::1", "127.0.0.1"), "[::1]", BOTH, marks=needs_ipv6),
        pytest.param(("::", "0.0.0.0", "::"), "127.0.0.1", BOTH, marks=needs_ipv6),
    ],
    ids=lambda value: ",".join(sorted(value)) if isinstance(value, set) else str(value),
)
async def test_server_listens_on_its_hosts_and_announces_a_url_that_works(
    serve: Serve, hosts: tuple[str, ...], url: str, found: set[str]
) -> None:
    server = await serve(api_host=Hosts(hosts))
    parts = urlsplit(server.url)
    assert parts.netloc == f"{url}:{parts.port}"
    assert answering(parts.port) == found


async def test_host_whose_port_is_taken_ends_the_start_with_its_name(configure: Configure) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"^port {port} on 127.0.0.2 is in use; choose another with --port "):
            async with serving(configure(api_host=Hosts(("127.0.0.1", "127.0.0.2")), api_port=port)):
                pass
        assert answering(port) == set()


async def test_host_of_another_machine_ends_the_start_with_its_name(configure: Configure) -> None:
    with pytest.raises(StartError, match=r"^192\.0\.2\.1 is no address of this machine; choose another with --host "):
        async with serving(configure(api_host=Hosts(("192.0.2.1",)))):  # of documentation only: RFC 5737
            pass


async def test_host_that_does_not_exist_ends_the_start_with_its_name(configure: Configure) -> None:
    with pytest.raises(
        StartError, match=r"^no address is known for the host no-host\.invalid; choose another with --host "
    ):
        async with serving(configure(api_host=Hosts(("127.0.0.1", "no-host.invalid")))):
            pass
