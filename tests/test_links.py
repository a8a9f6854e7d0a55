"""Links: every relative link of every page leads to an existing file and heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPED = {"build", "dist", "shared", "demo-out", "runs"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Every Markdown file of the tree; no hidden folder, and none of SKIPPED."""
    found = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.md")))
    return [path for path in found if not any(part in SKIPPED or part.startswith(".") for part in path.parts)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", LINK.sub(lambda link: link[0], heading)) for heading in headings)
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


def broken(page: Path) -> list[str]:
    """The links of the page that lead nowhere."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_resolve(page: Path) -> None:
    """Links lead to existing files and headings."""
    assert broken(ROOT / page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A file that is missing, a heading that is missing; code is not read."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One two: three\n[a](page.md#one-two-three) [b](gone.md) [c](#four) [d](https://x.org/y)\n```\n[e](f)\n```\n"
    )
    assert broken(page) == ["gone.md", "#four"]


def test_the_readme_leads_to_every_page() -> None:
    """Each page directly under docs/ has a link in the README."""
    text = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    assert [str(page) for page in pages() if page.parent == Path("docs") and f"({page})" not in text] == []
