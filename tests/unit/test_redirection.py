"""Redirections as rows: request, response, and the next request or the error."""

import pytest
from yarl import URL

from streamer.client.errors import Refused
from streamer.client.redirection import redirect_target

HERE = "http://here.example/exports/csv"

FOLLOWED = [
    *(("GET", HERE, status, "/x", "http://here.example/x") for status in (301, 302, 303, 307, 308)),
    ("GET", HERE, 302, "x?y=1", "http://here.example/exports/x?y=1"),
    ("GET", HERE, 301, "https://here.example/x", "https://here.example/x"),
    ("GET", HERE, 307, "https://other.example/x?sig=a%2Bb", "https://other.example/x?sig=a%2Bb"),
    ("GET", HERE, 302, "//other.example/x", "http://other.example/x"),
    ("GET", "http://u:p@here.example/x", 302, "/y", "http://u:p@here.example/y"),
    ("GET", "http://u:p@here.example/x", 302, "http://here.example:80/y", "http://u:p@here.example:80/y"),
    ("GET", "http://u:p@here.example/x", 302, "http://other.example/y", "http://other.example/y"),
    *((method, HERE, status, "/x", "http://here.example/x") for method in ("POST", "DELETE") for status in (307, 308)),
    ("POST", HERE, 308, "http://here.example:80/x", "http://here.example:80/x"),
]


@pytest.mark.parametrize(("method", "url", "status", "location", "new"), FOLLOWED)
def test_a_redirection_that_keeps_the_request_is_followed(
    method: str, url: str, status: int, location: str, new: str
) -> None:
    assert redirect_target(method, URL(url), status, location) == URL(new)


NOT_SENT = "is not redirected, so use that address"
REFUSED = [
    *(
        (method, HERE, status, location, f"redirects to {new}; a {method} {NOT_SENT}")
        for method in ("POST", "DELETE")
        for status in (301, 302, 303)
        for location, new in (("/x", "http://here.example/x"), ("https://here.example/x", "https://here.example/x"))
    ),
    *(
        ("POST", HERE, status, location, f"redirects to {location}; a POST {NOT_SENT}")
        for status in (307, 308)
        for location in ("https://here.example/x", "http://other.example/x", "http://here.example:8080/x")
    ),
    ("GET", "https://here.example/x", 302, "http://here.example/x", "redirects to http://here.example/x, which is not"),
    ("DELETE", "https://here.example/x", 307, "http://here.example/x", "which is not encrypted"),
    ("GET", HERE, 302, None, "redirects to nothing, which is not a URL"),
    ("GET", HERE, 302, "", "redirects to nothing, which is not a URL"),
    *(
        ("GET", HERE, 302, location, "which is not a URL")
        for location in (
            "ftp://here.example/x",
            "file:///etc/passwd",
            "http://[::1/",
            "http://h:99999/",
            "javascript:1",
        )
    ),
]


@pytest.mark.parametrize(("method", "url", "status", "location", "sentence"), REFUSED)
def test_any_other_redirection_is_refused_and_its_url_named(
    method: str, url: str, status: int, location: str | None, sentence: str
) -> None:
    with pytest.raises(Refused) as refused:
        redirect_target(method, URL(url), status, location)
    assert sentence in str(refused.value)


def test_the_error_of_a_redirection_has_no_password() -> None:
    with pytest.raises(Refused) as refused:
        redirect_target("POST", URL("http://u:secret@here.example/x"), 302, "http://v:hidden@here.example/y")
    assert "secret" not in str(refused.value)
    assert "hidden" not in str(refused.value)
