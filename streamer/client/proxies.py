"""The proxy of the environment for a server: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case.

urllib reads them, and the settings of Windows and macOS if the environment has none. In addition, NO_PROXY may contain
networks (10.0.0.0/8), as for curl and Go, and loopback addresses never use a proxy, as in Go: on the proxy's machine
localhost is the proxy itself.
"""

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from streamer.client.errors import Refused


def proxy_for(url: str) -> str | None:
    """Returns the URL of the proxy for a server; None for a direct connection. Raises Refused for an unusable proxy."""
    parts = urlsplit(url)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or _excluded(parts.hostname or "", parts.port, proxies.get("no", "")):
        return None
    return _usable(found if "://" in found else f"http://{found}")


def _excluded(host: str, port: int | None, exclusions: str) -> bool:
    authority = host if port is None else f"{host}:{port}"
    return _is_loopback(host) or _is_in_network(host, exclusions) or proxy_bypass(authority)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3


def _is_in_network(host: str, exclusions: str) -> bool:
    for entry in exclusions.split(","):
        try:
            if ip_address(host) in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # one of the two is a name
            continue
    return False


def _usable(proxy: str) -> str:
    """Raises Refused, without the user and password of the proxy in the sentence."""
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # its text may quote a part of the password
        raise Refused("the proxy in the environment is not a URL such as http://HOST:PORT") from None
    if not usable:
        raise Refused(
            f"the proxy in the environment has a URL of {parts.scheme}://; only http:// and https:// are supported"
        )
    return proxy
