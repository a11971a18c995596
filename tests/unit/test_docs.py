"""What the documentation shows is what there is."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from runhold import Agent
from runhold.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/guides/first-agent.md", "docs/guides/reviews.md", "docs/guides/changing-agents.md"],
)
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


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """How the shell blocks and the inline code of a page call a program: the words after its name."""
    text = page.read_text("utf-8")
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    inline = re.findall(
        rf"`((?:\.venv/bin/)?{program} [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )
    for line in [*shell.splitlines(), *inline]:
        code = re.sub(r"(^|\s)#.*", "", line)
        for call in re.findall(rf"(?:^|[\s/(\"]){program} ([^&|;)]+)", code):
            yield call.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page, "runhold"):
        command = typer.main.get_command(app)
        for word in words:
            if isinstance(inside := getattr(command, "commands", None), dict) and not word.startswith("-"):
                if word == "COMMAND":  # any of them
                    break
                name = word.rstrip("`,.")
                assert name in inside, f"{page.name} calls runhold {' '.join(words)}"
                command = inside[name]
            elif word.startswith("-") and word not in ("--help", "--verbose", "--version"):
                option = word.strip("[],.`").partition("=")[0]
                known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
                assert option in known, f"{page.name} gives {option} to runhold {command.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for words in commands(page, "make"):
        assert words[0] in targets or "=" in words[0], f"{page.name} calls make {' '.join(words)}"


def test_two_pages_draw_the_same_states() -> None:
    pages = [ROOT / "docs" / "guides" / "reliability.md", ROOT / "docs" / "reference" / "states.md"]
    (first,), (second,) = (blocks(page, "mermaid") for page in pages)
    assert first == second
