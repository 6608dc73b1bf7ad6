"""A YAML file of settings, or of anything else that people write as keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from config import bounded
from config.errors import UsageError


def read_mapping(path: Path) -> dict[Any, Any]:
    """The keys and values of a YAML file; none of an empty one. Raises UsageError naming file and line."""
    data = read_document(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: settings as 'key: value' lines are needed", exit_code=2)
    return data


def read_document(path: Path, most: int = bounded.SETTINGS_BYTES) -> Any:
    """What stands in a YAML file of at most so many bytes; None in an empty one. Raises UsageError naming file and
    line."""
    text = bounded.read_given(path, most)
    try:
        return yaml.load(text, Loader=bounded.BoundedLoader)
    except bounded.Unfit as error:
        raise UsageError(f"{path}: {error}", exit_code=2) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: {error.problem or error.context}", exit_code=2) from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # Not only its own errors: a date that is none is a ValueError, a list as a key a TypeError.
        raise UsageError(f"{path}: no YAML that can be read: {' '.join(str(error).split())}", exit_code=2) from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply", exit_code=2) from None
