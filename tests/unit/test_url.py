"""Database URLs: their parameters by libpq's names, and the sentences for invalid ones."""

import pytest

from streamer.postgres.url import normalize, read_url


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("postgresql://", {}),
        ("postgres://u:p@h:5433/d", {"user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "d"}),
        ("postgresql://a,b:5433/d", {"host": "a,b", "port": "5432,5433", "dbname": "d"}),
        ("postgresql://[::1]:1/d?sslmode=require", {"host": "::1", "port": "1", "dbname": "d", "sslmode": "require"}),
        ("postgresql://u%40v:p%2Fq@h/d%20e", {"user": "u@v", "password": "p/q", "host": "h", "dbname": "d e"}),
        ("postgresql:///?database=d&ssl=true", {"dbname": "d", "sslmode": "require"}),
    ],
)
def test_a_url_has_parameters(url: str, parameters: dict[str, str]) -> None:
    assert {name: text for name, text in read_url(url).items() if text} == parameters


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://h/d", "must be a URL such as"),
        ("postgresql://u:secret#1@h/d", "must have # written as %23"),
        ("postgresql://u:secret@1@h/d", "must be a URL such as"),
        ("postgresql://u:secret%@h/d", "must have % written as %25"),
        ("postgresql://u:secret%ff@h/d", "must be UTF-8"),
        ("postgresql://h:secret/d", "must have a port from 1 to 65535"),
        ("postgresql://[h]/d", "only an IPv6 address is in brackets"),
        ("postgresql://h/d?secret", "must have parameters such as"),
        ("postgresql://u@h/d?user=secret", "must not have user twice"),
    ],
)
def test_an_invalid_url_is_refused_without_its_text(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        read_url(url)
    assert "secret" not in str(refused.value)


def test_parameters_of_other_libraries_have_the_names_of_libpq() -> None:
    assert normalize("ssl", "true") == ("sslmode", "require")
    assert normalize("database", "d") == ("dbname", "d")
    assert normalize("sslmode", "disable") == ("sslmode", "disable")
