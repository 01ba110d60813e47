"""Which proxy the environment names for a server: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case.

urllib reads them, and the settings of Windows and macOS where the environment has none. Beyond that, NO_PROXY may have
networks (10.0.0.0/8), as curl and Go have it, and this machine is never asked for through a proxy, as in Go: what a
proxy calls localhost is the proxy's own machine.
"""

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from streamer.client.errors import Refused


def proxy_for(url: str) -> str | None:
    """The URL of the proxy for a server; None if it is asked directly. Raises Refused for one that cannot be used."""
    parts = urlsplit(url)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or _excluded(parts.hostname or "", parts.port, proxies.get("no", "")):
        return None
    return _usable(found if "://" in found else f"http://{found}")


def _excluded(host: str, port: int | None, without: str) -> bool:
    return (
        _is_loopback(host) or _in_a_network(host, without) or proxy_bypass(host if port is None else f"{host}:{port}")
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3


def _in_a_network(host: str, without: str) -> bool:
    for entry in without.split(","):
        try:
            if ip_address(host) in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a name on one of the two sides
            continue
    return False


def _usable(proxy: str) -> str:
    """Its user and password are not shown."""
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # which may quote a part of the password
        raise Refused("the proxy that the environment names is no URL, such as http://HOST:PORT") from None
    if not usable:
        raise Refused(
            f"the proxy of the environment is one of {parts.scheme}://, and only http:// and https:// can be used"
        )
    return proxy
