"""The manual: every output that a page shows is what knetc prints, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pages.blocks import DOCS, ROOT, Page, folder, pages

NAMES = [str(p.relative_to(ROOT)) for p in pages()]
WRITTEN = sorted(
    {*pages(), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")}
)


@pytest.mark.parametrize("name", NAMES)
def test_the_blocks_of_a_page(name: str, tmp_path: Path) -> None:
    page = Page(ROOT / name)
    with folder(tmp_path):
        page.run()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in links if link and "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_the_index_lists_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/-]+)$", index, re.MULTILINE))
    found = {str(p.relative_to(DOCS).with_suffix("")) for p in pages()[1:]}
    lessons = set(re.findall(r"^([\w-]+)$", (DOCS / "lessons" / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert found - {"index"} == listed | {f"lessons/{name}" for name in lessons}
