"""What the documentation shows is what there is."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from runhold import Agent

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", ["README.md", "docs/guides/first-agent.md", "docs/guides/reviews.md"])
def test_python_blocks_are_agents_and_tools_that_load(page: str, tmp_path: Path) -> None:
    found = blocks(ROOT / page, "python")
    assert found
    for number, block in enumerate(found):
        path = tmp_path / f"block_{number}.py"
        path.write_text(block, "utf-8")
        names = runpy.run_path(str(path))
        for value in names.values():
            if isinstance(value, Agent):
                assert value.definition()["agent_type"]


def test_readme_s_agent_has_about_twenty_lines() -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    code = [line for line in block.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 22
