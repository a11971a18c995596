"""Install the API's Node packages before the first start needs them: ``python -m runhold.local.api``."""

from __future__ import annotations

import asyncio
import sys

from runhold.local.api import SOURCE
from runhold.local.errors import NodeUnusable
from runhold.local.node import find_node, install_packages


async def _install() -> None:
    await find_node()
    await install_packages(SOURCE)


try:
    asyncio.run(_install())
except NodeUnusable as error:
    sys.exit(str(error))
