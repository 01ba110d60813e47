"""Links and references to the server's resources, with and without its public URL."""

from urllib.parse import urljoin
from uuid import UUID

import pytest

from streamer.http.links import Links, download_path, status_path

ID = UUID("0f2ab9b4-0000-4000-8000-000000000000")
PUBLIC = "https://example.com/csv"


def test_links_are_absolute_with_a_public_url_and_paths_without() -> None:
    for links, root in ((Links(PUBLIC), PUBLIC), (Links(), "")):
        found = links.of(ID)
        assert (found.self_, found.download) == (f"{root}/exports/{ID}/status", f"{root}/exports/{ID}/download")


@pytest.mark.parametrize("request_path", ["/exports", "/exports/csv", f"/exports/{ID}/download"])
@pytest.mark.parametrize("prefix", ["", "/csv", "/a/b"])
def test_reference_keeps_a_prefix_that_a_proxy_strips(prefix: str, request_path: str) -> None:
    for path in (status_path(ID), download_path(ID)):
        reference = Links().reference(path, request_path=request_path)
        assert urljoin(f"https://example.com{prefix}{request_path}", reference) == f"https://example.com{prefix}{path}"


def test_reference_is_absolute_with_a_public_url() -> None:
    path = download_path(ID)
    assert Links(PUBLIC).reference(path, request_path="/exports/csv") == PUBLIC + path
