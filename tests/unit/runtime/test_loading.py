"""``runhold worker MODULE``: which agents are found, and what is said when none can be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runhold.errors import AgentDefinitionError, ConfigError
from runhold.runtime.loading import load_agents, source_folder

HEAD = "from runhold import Agent\n"
ONE = HEAD + "agent = Agent(type='one', model='m', instructions='x')\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _write(path: str, text: str) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_file_and_a_module_are_found_with_their_neighbours() -> None:
    _write("lib_a/agents_a.py", "from helper_a import name\n" + ONE.replace("'one'", "name"))
    _write("lib_a/helper_a.py", "name = 'from_helper'\n")
    assert [agent.type for agent in load_agents("lib_a/agents_a.py")] == ["from_helper"]
    _write("pack_b/__init__.py", "")
    _write("pack_b/inner.py", ONE)
    assert [agent.type for agent in load_agents("pack_b.inner")] == ["one"]


def test_agents_in_lists_and_under_two_names_count_once() -> None:
    _write(
        "many_c.py",
        ONE
        + "same = agent\nmore = [agent, Agent(type='two', model='m', instructions='x')]\nby = {'a': agent}\n",
    )
    assert [agent.type for agent in load_agents("many_c.py")] == ["one", "two"]


def test_types_defined_in_the_file_can_be_resolved() -> None:
    _write(
        "typed_d.py",
        "from __future__ import annotations\n"
        + "from pydantic import BaseModel\nfrom runhold import Agent, tool\n"
        + "class Order(BaseModel):\n    n: int\n"
        + "@tool(effect='read')\ndef look(order: Order) -> Order:\n    '''Look.'''\n    return order\n"
        + "agent = Agent(type='one', model='m', instructions='x', tools=[look], input_type=Order)\n",
    )
    assert load_agents("typed_d.py")[0].tools[0].name == "look"


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("none_e.py", None, "no file none_e.py"),
        ("none_e", None, "no module 'none_e'"),
        ("none_e.inner", None, "no module 'none_e.inner'"),
        ("empty_f.py", HEAD, "holds no agent"),
        ("twice_g.py", ONE + ONE.replace("agent =", "other ="), "two agents of type 'one'"),
        ("syntax_h.py", "def (:\n", "SyntaxError"),
        ("raises_i.py", "x = 1\nraise ValueError('odd')\n", r"ValueError: odd \(line 2 of raises_i.py\)"),
        ("needs_j.py", "import not_there_at_all\n", "imports 'not_there_at_all', which is not installed"),
        ("exits_k.py", "raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_each_mistake_has_its_sentence(path: str, text: str | None, said: str) -> None:
    if text is not None:
        _write(path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_agents(path)
    assert "\n" not in str(caught.value)


def test_an_import_error_keeps_its_traceback() -> None:
    _write("raises_l.py", "raise ValueError('odd')\n")
    with pytest.raises(ConfigError) as caught:
        load_agents("raises_l.py")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_broken_agent_says_what_is_wrong_by_itself() -> None:
    _write("broken_m.py", HEAD + "agent = Agent(type='No Name', model='m', instructions='x')\n")
    with pytest.raises(AgentDefinitionError, match="No Name"):
        load_agents("broken_m.py")


def test_the_folder_of_a_module_is_found_without_an_import(tmp_path: Path) -> None:
    for path in ("apart/one.py", "apart/package/__init__.py", "apart/package/inner/__init__.py"):
        _write(path, "raise ValueError('imported')\n")
    assert source_folder("apart/one.py") == tmp_path / "apart"
    assert source_folder("apart/package/inner/agent.py") == tmp_path / "apart/package"
    assert source_folder("not_there_at_all.agents") == tmp_path
    sys.path.append(str(tmp_path / "apart"))
    assert source_folder("package.inner.agent") == tmp_path / "apart/package"
    assert source_folder("one") == tmp_path / "apart"
