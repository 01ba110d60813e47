"""The documentation: its pages are there, the generated ones are those of the code, and every link leads somewhere."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from streamer.budget import DOCUMENTATION
from streamer.docs import NAMES, UnknownPage, pages, read_page
from streamer.http.pages.markdown import anchor, to_html
from streamer.schema import ExportProgress, ExportStatus
from tests.docs.blocks import without_blocks
from tests.docs.generated import CHUNKS, COMMAND, FOLDER, path_of

ROOT = Path(__file__).parents[2]
MAX_LINE = 80  # columns of a terminal
TEXTS = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(FOLDER.glob("*.md"))]}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LINKS = [(path, link) for path, text in TEXTS.items() for link in LINK.findall(without_blocks(text))]


@pytest.mark.parametrize("name", CHUNKS)
def test_generated_page_is_that_of_the_code(name: str) -> None:
    assert path_of(name).read_text(encoding="utf-8") == CHUNKS[name](), f"run `{COMMAND}` to renew the page"


def test_the_order_has_every_file_and_the_package_has_every_page() -> None:
    assert {f"{name}.md" for name in NAMES} == {path.name for path in FOLDER.glob("*.md")}
    assert all(files("streamer.docs").joinpath(f"{name}.md").is_file() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_page_begins_with_a_title_and_a_summary_that_fits_on_a_terminal(name: str) -> None:
    page = read_page(name)
    assert re.fullmatch(r"[A-Z].+", page.title)
    assert re.fullmatch(r"[A-Z].+\.", page.summary)
    assert len(page.summary) + max(map(len, NAMES)) + 2 <= MAX_LINE


def test_pages_come_in_the_order_of_their_names() -> None:
    assert [page.name for page in pages()] == list(NAMES)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("seting", "'settings'"), ("Settings", "'settings'"), ("oprations", "'operations'"), ("../errors", "'errors'")],
)
def test_unknown_name_is_refused_with_the_nearest_one(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownPage, match=suggestion):
        read_page(name)


@pytest.mark.parametrize("name", ["", "zzz", "../../etc/passwd", "x" * 100_000])
def test_unknown_name_like_no_other_is_refused_with_all_names(name: str) -> None:
    with pytest.raises(UnknownPage, match="the pages are downloads, datasets"):
        read_page(name)


def test_every_link_between_pages_leads_to_a_heading_that_exists() -> None:
    assert len(LINKS) > 10
    for path, link in LINKS:
        if link.startswith(("http://", "https://")):
            continue
        name, _, wanted = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), f"{path.name}: {link}"
        if wanted:
            assert wanted in anchors(target.read_text(encoding="utf-8")), f"{path.name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_page_links_to_other_pages_only(name: str) -> None:
    """The server has no other files to link to."""
    found = [link for link in LINK.findall(without_blocks(read_page(name).text)) if not link.startswith("http")]
    assert all(re.fullmatch(r"[a-z-]+\.md(#.*)?|#.*", link) for link in found)


@pytest.mark.parametrize("name", NAMES)
def test_anchors_of_the_html_are_those_of_the_headings(name: str) -> None:
    text = read_page(name).text
    assert set(re.findall(r'<h[1-6] id="([^"]*)"', to_html(text))) == anchors(text)


def anchors(text: str) -> set[str]:
    found = re.findall(r"^#+ (.*)$", without_blocks(text), re.MULTILINE)
    return {anchor(heading.replace("`", "")) for heading in found}


def test_html_in_markdown_is_shown_and_not_interpreted() -> None:
    html = to_html('# <script>\n\n<img src=x onerror="f()"> [x](javascript:f()) `<b>`\n\n| <i> |\n|---|\n| <u> |\n')
    assert not re.search(r"<(script|img|b|i|u)\b", html)
    assert "href" not in html


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("settings.md", "settings"),
        ("how-it-works.md#parts-of-the-code", "how-it-works#parts-of-the-code"),
        ("docs/settings.md", "docs/settings"),
        ("#rules", "#rules"),
        ("https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_link_to_the_file_of_a_page_becomes_one_to_its_url(link: str, url: str) -> None:
    assert f'href="{url}"' in to_html(f"[x]({link})")


def test_every_file_of_the_code_that_a_page_names_exists() -> None:
    """`jobs/store.py` is below `streamer/`, `tests/acceptance/test_nginx.py` below the root of the repository."""
    named = {name for text in TEXTS.values() for name in re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py|/))`", text)}
    assert "jobs/runner.py" in named
    assert {name for name in named if not any((root / name).exists() for root in (ROOT / "streamer", ROOT))} == set()


def test_every_member_of_a_status_is_explained() -> None:
    explained = read_page("api").text.partition("| member | meaning |")[2].partition("\n\n")[0]
    members = {*ExportStatus.__struct_encode_fields__, *ExportProgress.__struct_encode_fields__}
    assert {name for name in members if f"`{name}`" not in explained} == set()


def test_server_starts_without_the_library_that_renders() -> None:
    script = "import sys, streamer.cli, streamer.server; sys.exit('markdown_it' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


def test_rendering_every_page_stays_within_its_share_of_the_budget() -> None:
    """In a process of its own, as in the server: private memory before and after."""
    ended = subprocess.run([sys.executable, "-c", RENDERING], capture_output=True, text=True, timeout=60, check=True)
    assert 0 < int(ended.stdout) < DOCUMENTATION


RENDERING = """
import asyncio, gc
import streamer.server
from streamer.docs import pages
from streamer.http.pages.markdown import to_html
from streamer.process.allocator import keep_the_heap_small

def private():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_Dirty:"))

async def render():
    return [await asyncio.to_thread(to_html, page.text) for page in pages()]

keep_the_heap_small()
gc.collect()
before = private()
kept = asyncio.run(render())
print(private() - before)
"""
