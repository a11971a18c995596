"""What surely did not happen is told apart from what nobody knows."""

from __future__ import annotations

import socket

import pytest
from examples.compliance.delivery import deliver

from runhold import ToolFailed
from runhold.runtime.loading import load_agents
from runhold.testing.mailbox import Mailbox

MAIL = {
    "to": "ada@example.com",
    "subject": "Hello",
    "body": "Dear Ada,\nhello.\n",
    "message_id": "<1@example.com>",
}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_message_arrives_once_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async with Mailbox() as mailbox:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(mailbox.port))
        await asyncio.to_thread(deliver, **MAIL)
    [mail] = mailbox.mails
    assert (mail.recipients, mail.subject) == (["ada@example.com"], "Hello")
    assert mail.message["Message-ID"] == "<1@example.com>"


def test_without_a_server_nothing_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_HOST", raising=False)
    with pytest.raises(ToolFailed, match="SMTP_HOST"):
        deliver(**MAIL)
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SMTP_PORT", str(closed_port()))
    with pytest.raises(ToolFailed, match="can't be reached"):
        deliver(**MAIL)


@pytest.mark.parametrize("module", ["examples/compliance/agent.py", "examples.compliance.agent"])
def test_the_agent_loads_by_path_and_by_name(
    module: str, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pytestconfig.rootpath)
    [agent] = load_agents(module)
    assert agent.type == "compliance_document_generator"
    assert {tool.name for tool in agent.tools if tool.approval is True} == {
        "send_email",
        "submit_to_regulator",
    }
