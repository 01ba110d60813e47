"""The hosts and ports of a database, in the grammar of libpq's PGHOST and PGPORT.

A host is a name, an IPv4 or IPv6 address, or the folder of a Unix socket, which begins with a slash. Several hosts are
separated by commas and tried in order. There is one port for all hosts, or one for each. Everything else is refused: a
driver that guesses may send the password to a host that the setting does not name.

An error is a predicate: the caller puts the name of the setting before it.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_PORT = 5432
SOCKET_FOLDERS = ("/var/run/postgresql", "/tmp")  # noqa: S108 - the folders in which libpq looks for a socket
MAX_SOCKET_PATH = 107  # bytes, Linux: unix(7)
NAME = re.compile(r"[\w.-]+")
WITH_PORT = re.compile(r"(?:\[.*\]|[^:]*):[0-9]*")

EXPECTED_HOST = "must be a host name, an IP address or the folder of a socket; several are separated by commas"


class Address(NamedTuple):
    host: str
    port: int

    @property
    def is_socket(self) -> bool:
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_socket:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_hosts(text: str) -> tuple[str, ...]:
    """Parses a list of hosts.

    Raises ValueError with a sentence that does not repeat the text: it may contain a misplaced password.
    """
    return tuple(check_host(host) for host in text.split(","))


def read_ports(text: str) -> tuple[int, ...]:
    """Parses a list of ports. Raises ValueError with a sentence."""
    return tuple(read_port(port) for port in text.split(","))


def read_port(text: str) -> int:
    """Parses a port. Raises ValueError with a sentence."""
    if not re.fullmatch(r"0*[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise ValueError("must be a number from 1 to 65535")
    return int(text)


def addresses(hosts: Sequence[str], ports: Sequence[int]) -> tuple[Address, ...]:
    """Pairs each host with its port. Raises ValueError with a sentence."""
    if len(ports) not in {1, len(hosts)}:
        raise ValueError(f"must be one port, or as many as there are hosts: {len(hosts)}")
    each = ports if len(ports) == len(hosts) else [ports[0]] * len(hosts)
    return tuple(map(Address, hosts, each))


def check_host(host: str) -> str:
    """Returns the host if it is valid. Raises ValueError with a sentence."""
    if host.startswith("/"):
        return _check_folder(host)
    if host.startswith("@"):
        raise ValueError("must be the folder of a socket; an abstract socket is not supported")
    if ":" in host or host.startswith("["):
        return _check_ipv6(host)
    if not NAME.fullmatch(host) or not _can_be_looked_up(host):
        raise ValueError(EXPECTED_HOST)
    return host


def _check_folder(folder: str) -> str:
    if "," in folder:  # an escaped comma of a URL: the list of hosts would have one more
        raise ValueError("must be a folder without a comma in its path")
    if len(os.fsencode(str(Address(folder, 65535)))) > MAX_SOCKET_PATH:
        raise ValueError(f"must be a folder whose socket has a path of at most {MAX_SOCKET_PATH} bytes")
    return folder


def _check_ipv6(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        if WITH_PORT.fullmatch(host):
            raise ValueError("must be a host without its port, which is set by DB_PORT or port=") from error
        raise ValueError(EXPECTED_HOST + "; an IPv6 address has no brackets") from error
    return host


def _can_be_looked_up(name: str) -> bool:
    """Whether Python's resolver can encode the name: a label may be too long or empty."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True
