"""Flags, environment and file → `core.config`, or a ConfigError.

arguments ─┐
environ   ─┼─► load ─► Loaded ─┐
file      ─┘                   ├─► resolve ─► NodeConfig
            sense.host ─► Host ┘
"""

from havip.settings.errors import ConfigError, ConfigWarning, Problem
from havip.settings.load import Loaded, load
from havip.settings.model import RouterSettings, Settings
from havip.settings.resolve import resolve
from havip.settings.sources import add_arguments

__all__ = [
    "ConfigError",
    "ConfigWarning",
    "Loaded",
    "Problem",
    "RouterSettings",
    "Settings",
    "add_arguments",
    "load",
    "resolve",
]
