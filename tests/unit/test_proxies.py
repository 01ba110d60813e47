"""The proxy of the environment for a server."""

from collections.abc import Mapping

import pytest

from streamer.client.errors import Refused
from streamer.client.proxies import proxy_for

PROXY = "http://proxy.example:3128"
BOTH = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": "http://secure.example:3128"}


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("place", "server", "found"),
    [
        ({}, "http://streamer.example", None),
        (BOTH, "http://streamer.example:8080", PROXY),
        (BOTH, "https://streamer.example", "http://secure.example:3128"),
        ({"http_proxy": PROXY}, "http://streamer.example", PROXY),
        ({"HTTP_PROXY": PROXY}, "https://streamer.example", None),
        ({"HTTP_PROXY": ""}, "http://streamer.example", None),
        ({"ALL_PROXY": PROXY}, "https://streamer.example", PROXY),
        ({"HTTP_PROXY": "proxy.example:3128"}, "http://streamer.example", PROXY),
        ({"HTTP_PROXY": "http://me:p%40ss@proxy.example"}, "http://streamer.example", "http://me:p%40ss@proxy.example"),
        (BOTH | {"NO_PROXY": "streamer.example"}, "http://streamer.example:8080", None),
        (BOTH | {"NO_PROXY": "a.example, .example"}, "https://streamer.example", None),
        (BOTH | {"NO_PROXY": "streamer.example:8080"}, "http://streamer.example:8080", None),
        (BOTH | {"NO_PROXY": "streamer.example:8080"}, "http://streamer.example:8081", PROXY),
        (BOTH | {"NO_PROXY": "other.example"}, "http://streamer.example", PROXY),
        (BOTH | {"NO_PROXY": "*"}, "http://streamer.example", None),
        (BOTH | {"no_proxy": "10.0.0.0/8"}, "http://10.1.2.3:8080", None),
        (BOTH | {"NO_PROXY": "10.0.0.0/8,fd00::/8"}, "http://[fd00::1]:8080", None),
        (BOTH | {"NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3:8080", PROXY),
        (BOTH, "http://127.0.0.1:8080", None),
        (BOTH, "http://127.1.2.3:8080", None),
        (BOTH, "http://[::1]:8080", None),
        (BOTH, "http://localhost:8080", None),
        (BOTH, "http://LOCALHOST:8080", None),
    ],
)
def test_the_proxy_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, place: Mapping[str, str], server: str, found: str | None
) -> None:
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(server) == found


@pytest.mark.parametrize(
    "proxy", ["socks5://me:secret@proxy.example:1080", "http://me:secret@proxy.example:port", "http://"]
)
def test_an_unusable_proxy_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(Refused, match="the proxy") as found:
        proxy_for("http://streamer.example")
    assert "secret" not in str(found.value)
