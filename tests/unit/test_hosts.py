"""Hosts and ports as PGHOST and PGPORT have them, and everything else refused without repeating it."""

import pytest

from streamer.postgres.hosts import Address, addresses, read_hosts, read_ports


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("db", ("db",)),
        ("db.internal.", ("db.internal.",)),
        ("my_db-1", ("my_db-1",)),
        ("bücher.example", ("bücher.example",)),
        ("10.0.0.1", ("10.0.0.1",)),
        ("::1", ("::1",)),
        ("fe80::1%eth0", ("fe80::1%eth0",)),
        ("/var/run/postgresql", ("/var/run/postgresql",)),
        ("/cloudsql/project:region:name", ("/cloudsql/project:region:name",)),
        ("/a folder/ü?host=x#y%41@z", ("/a folder/ü?host=x#y%41@z",)),
        ("h1,h2", ("h1", "h2")),
        ("::1,127.0.0.1,/tmp", ("::1", "127.0.0.1", "/tmp")),
    ],
)
def test_hosts_of_libpq_are_read(text: str, hosts: tuple[str, ...]) -> None:
    assert read_hosts(text) == hosts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a host name"),
        (" ", "must be a host name"),
        (" db", "must be a host name"),
        ("db ", "must be a host name"),
        ("db\n", "must be a host name"),
        ("h1, h2", "must be a host name"),
        ("h1,", "must be a host name"),
        (",h1", "must be a host name"),
        ("h1,,h2", "must be a host name"),
        ("secret@db", "must be a host name"),
        ("db/secret", "must be a host name"),
        ("./folder", "must be a host name"),
        ("db?host=other", "must be a host name"),
        ("db#x", "must be a host name"),
        ("%2Ftmp", "must be a host name"),
        ("a..b", "must be a host name"),
        ("a" * 64, "must be a host name"),
        ("db:5432", "without its port"),
        ("db:", "without its port"),
        ("[::1]:5432", "without its port"),
        ("h1:1,h2:2", "without its port"),
        ("[::1]", "no brackets"),
        ("postgresql://db", "no brackets"),
        ("1::2::3", "no brackets"),
        ("@name", "abstract socket"),
        ("/" + "a" * 100, "at most 107 bytes"),
        ("/" + "ü" * 50, "at most 107 bytes"),
    ],
)
def test_an_invalid_host_is_refused_and_not_repeated(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        read_hosts(text)
    assert str(refused.value).isprintable()
    assert "secret" not in str(refused.value)


def test_a_socket_path_of_107_bytes_is_the_longest() -> None:
    longest = "/" + "a" * (107 - len("//.s.PGSQL.65535"))
    assert read_hosts(longest) == (longest,)
    with pytest.raises(ValueError, match="at most 107 bytes"):
        read_hosts(longest + "a")


@pytest.mark.parametrize(("text", "ports"), [("1", (1,)), ("65535", (65535,)), ("05432", (5432,)), ("1,2", (1, 2))])
def test_ports_are_read(text: str, ports: tuple[int, ...]) -> None:
    assert read_ports(text) == ports


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "1,", "5432 ", "db", "\uff15", "1" * 400, "5432\n"])
def test_an_invalid_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number from 1 to 65535"):
        read_ports(text)


def test_one_port_is_for_all_hosts_and_several_are_for_one_each() -> None:
    assert addresses(["h1", "h2"], [1]) == (Address("h1", 1), Address("h2", 1))
    assert addresses(["h1", "h2"], [1, 2]) == (Address("h1", 1), Address("h2", 2))


@pytest.mark.parametrize(("hosts", "ports"), [(["h1"], [1, 2]), (["h1", "h2", "h3"], [1, 2])])
def test_a_wrong_number_of_ports_is_refused(hosts: list[str], ports: list[int]) -> None:
    with pytest.raises(ValueError, match=f"as many as there are hosts: {len(hosts)}"):
        addresses(hosts, ports)
