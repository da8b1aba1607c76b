"""Things that a table names and nobody imports before they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def load_named(name: str) -> Any:
    """What stands behind a name such as `"halovid.world.judge:InspectorJudge"`; its module is imported only now.

    Raises:
        ImportError: the module, or a package that it needs, is not installed.
        AttributeError: the module has no such name.
    """
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
