"""Importing functions and classes by name when they are used, so that tables of names import nothing."""

from __future__ import annotations

import importlib
from typing import Any


def load_named(name: str) -> Any:
    """The object that a name such as `"halovid.world.judge:InspectorJudge"` means; its module is imported now.

    Raises:
        ImportError: the module, or a package that it needs, is not installed.
        AttributeError: the module has no such name.
    """
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
