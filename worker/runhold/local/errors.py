"""What can go wrong with the local stack. Each error's text is one sentence for the person at the terminal.

StackError
├── StackAlreadyRunning   a stack holds this folder
├── StackNotRunning       no stack holds this folder
├── PortInUse             somebody else listens where the stack should
├── DataFolderUnusable    the database files are of another major version, or out of reach
├── NodeUnusable          Node.js is missing, too old, or its packages cannot be installed
├── MigrationFailed       an SQL file was refused
└── ChildEnded            PostgreSQL, Realtime or the API ended by itself
"""

from __future__ import annotations

from runhold.errors import RunholdError


class StackError(RunholdError):
    """The local stack cannot do what was asked."""


class StackAlreadyRunning(StackError):
    """A living stack holds the folder; it is left alone."""


class StackNotRunning(StackError):
    """There is nothing to stop or to ask."""


class PortInUse(StackError):
    """The port is taken by another program. The text names it and `--port 0`."""


class DataFolderUnusable(StackError):
    """The database files cannot be used by this PostgreSQL or by the user that runs it."""


class NodeUnusable(StackError):
    """REST and Auth need Node.js 20 or newer and a few packages from npm."""


class MigrationFailed(StackError):
    """An SQL file was refused; the text names the file, the line if known, and PostgreSQL's own message."""


class ChildEnded(StackError):
    """A part of the stack ended without being asked to. The text ends with the last lines of its log."""
