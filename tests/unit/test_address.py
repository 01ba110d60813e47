"""Ids and URLs, as users paste them, as addresses."""

from uuid import UUID

import pytest

from streamer.client.address import address_of, server_url
from streamer.client.errors import Refused
from streamer.coding import Coding

SERVER = "http://127.0.0.1:8080"
TEXT = "b42ef8e9-f053-4b3b-ac2a-212af6ebadc3"
ID = UUID(TEXT)


@pytest.mark.parametrize("target", [TEXT, TEXT.upper()])
def test_an_id_is_an_export_of_the_server(target: str) -> None:
    address = address_of(target, SERVER + "/")
    assert (address.server, address.export_id) == (SERVER, ID)
    assert address.status == f"{SERVER}/exports/{TEXT}/status"
    assert address.download == f"{SERVER}/exports/{TEXT}/download"


@pytest.mark.parametrize("end", ["", "/", "/download", "/status", "/events", "/download/"])
@pytest.mark.parametrize("prefix", ["http://a.example", "https://user:word@a.example:8443/some/where"])
def test_any_url_of_an_export_is_accepted(prefix: str, end: str) -> None:
    address = address_of(f"{prefix}/exports/{TEXT}{end}", SERVER)
    assert (address.server, address.export_id) == (prefix, ID)


def test_the_query_of_a_url_is_kept_for_the_download() -> None:
    address = address_of(f"{SERVER}/exports/{TEXT}/download?signature=x", "")
    assert address.download == f"{SERVER}/exports/{TEXT}/download?signature=x"
    assert address.status == f"{SERVER}/exports/{TEXT}/status"


@pytest.mark.parametrize(
    ("end", "coding"),
    [("download", Coding.IDENTITY), ("download.csv.gz", Coding.GZIP), ("download.csv.zst", Coding.ZSTD)],
)
def test_the_url_of_each_file_names_its_coding(end: str, coding: Coding) -> None:
    address = address_of(f"{SERVER}/exports/{TEXT}/{end}?signature=x", "")
    assert address.coding is coding
    assert address.file(coding) == f"{SERVER}/exports/{TEXT}/{end}?signature=x"
    assert address.download == f"{SERVER}/exports/{TEXT}/download?signature=x"


@pytest.mark.parametrize(
    "target",
    [
        "",
        "x",
        TEXT[:-1],
        TEXT.replace("-", ""),
        f"{{{TEXT}}}",
        f"urn:uuid:{TEXT}",
        SERVER,
        f"{SERVER}/exports/csv",
        f"{SERVER}/exports/{TEXT}/other",
        f"{SERVER}/exports/{TEXT}/download.csv",
        f"{SERVER}/exports/{TEXT}/download.csv.bz2",
        f"{SERVER}/exports/{TEXT}/status.csv.gz",
        f"{SERVER}/{TEXT}",
        f"ftp://a.example/exports/{TEXT}",
        f"/exports/{TEXT}",
        f"http:///exports/{TEXT}",
    ],
)
def test_any_other_text_is_refused(target: str) -> None:
    with pytest.raises(Refused, match="neither the id nor the URL of an export"):
        address_of(target, SERVER)


def test_an_id_without_a_server_is_refused() -> None:
    with pytest.raises(Refused, match=f"^{TEXT} is an id without a server; pass the URL of the export$"):
        address_of(TEXT, "")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "ftp://a",
            "http://",
            "http://a?b=c",
            "http://a#b",
            "a b",
            "http://[::1",
            "a:port",
            "a:0",
            "http://:80",
        )
    ],
)
def test_a_text_that_cannot_be_the_address_of_a_server_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="is not the address of a server"):
        server_url(text)


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "localhost", "db.example:80/some/where", "[::1]:8080"])
def test_a_server_without_a_scheme_speaks_http(text: str) -> None:
    assert server_url(text) == f"http://{text}"
    assert address_of(f"{text}/exports/{TEXT}/download", "").server == f"http://{text}"
