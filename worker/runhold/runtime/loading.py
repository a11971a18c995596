"""Find the agents of a module: ``runhold worker MODULE``."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from runhold.agents import Agent
from runhold.errors import AgentDefinitionError, ConfigError


def load_agents(module: str) -> list[Agent]:
    """All agents that ``module`` (a dotted name, or a path to a ``.py`` file) holds at its top level, also in
    lists, tuples and dicts.

    The working directory is importable, as with ``python -m``; for a path, the file's directory is, too, or the
    one that holds its package.

    :raises ConfigError: it can't be imported (the error is the cause), or holds no agent, or two of one type.
    """
    imported = _import(module)
    agents: dict[int, Agent] = {}
    for value in vars(imported).values():
        agents.update((id(agent), agent) for agent in _agents_in(value))
    if not agents:
        raise ConfigError(
            f"{module} holds no agent: assign one to a name at its top level, as in `agent = Agent(…)`."
        )
    by_type: dict[str, Agent] = {}
    for agent in agents.values():
        if agent.type in by_type:
            raise ConfigError(
                f"{module} holds two agents of type {agent.type!r}: give each a type of its own."
            )
        by_type[agent.type] = agent
    return list(by_type.values())


def _agents_in(value: object) -> Iterator[Agent]:
    if isinstance(value, Agent):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        items: object = value.values() if isinstance(value, dict) else value  # pyright: ignore
        for item in items:  # pyright: ignore
            if isinstance(item, Agent):
                yield item


def _import(module: str) -> ModuleType:
    _make_importable(os.getcwd())
    try:
        return _import_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except (AgentDefinitionError, ConfigError):
        raise  # says what is wrong by itself
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"There is no module {module!r} here: give a dotted name or a path that ends in .py."
            ) from error
        raise ConfigError(f"{module} imports {error.name!r}, which is not installed.") from error
    except (Exception, SystemExit) as error:
        where = _where(error, module)
        raise ConfigError(f"{module} can't be imported: {type(error).__name__}: {error}{where}.") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            f"There is no file {path}: give the path of a Python file, or a dotted module name."
        )
    folder, name = _package_of(path)
    _make_importable(str(folder))
    if "." in name:
        return _import_member(path, name)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file.")
    imported = importlib.util.module_from_spec(spec)
    sys.modules[name] = imported  # what is defined in it can be found by its name: pydantic needs that
    try:
        spec.loader.exec_module(imported)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return imported


def source_folder(module: str) -> Path:
    """The folder with the code that ``module`` belongs to: its file's, or its outermost package's. Imports nothing.

    A dotted name that can't be found is taken for one of the working directory.
    """
    if module.endswith(".py"):
        folder, name = _package_of(Path(module))
        return folder / name.partition(".")[0] if "." in name else folder
    here = os.getcwd()
    spec = importlib.machinery.PathFinder.find_spec(module.partition(".")[0], [here, *sys.path])
    if spec is None:
        return Path(here)
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or here).resolve().parent


def _package_of(path: Path) -> tuple[Path, str]:
    """The folder from which a file can be imported, and under which name: a module of a package may import its
    siblings by `from .x import y`.
    """
    folder, name = path.parent.resolve(), path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    return folder, name


def _import_member(path: Path, name: str) -> ModuleType:
    """Import a file as the member of a package that it is."""
    imported = importlib.import_module(name)
    if getattr(imported, "__file__", None) != str(path.resolve()):
        raise ConfigError(
            f"{path} is {name}, and another package of that name is in the way: {imported.__file__}. Rename one."
        )
    return imported


def _make_importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _where(error: BaseException, module: str) -> str:
    """The line of the user's code that was running, if it was the user's."""
    trace, line = error.__traceback__, None
    file = Path(module).name if module.endswith(".py") else None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if (file and Path(name).name == file) or trace.tb_frame.f_globals.get("__name__") == module:
            line = f" (line {trace.tb_lineno} of {Path(name).name})"
        trace = trace.tb_next
    return line or ""
