"""Programs of the operator that are run at the turns of a migration (ports.Hooks).

DIRECTORY/STAGE is run if it is there and executable, with the facts as JSON on its stdin; docs/OPERATIONS.md tells
which facts. It must not know of the order of a migration.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrator.core import limits
from migrator.core.errors import HookFailed
from migrator.core.hook import Stage
from migrator.tools import first_line


class ProgramHooks:
    """See ports.Hooks."""

    def __init__(self, directory: Path | None) -> None:
        """None: there are no hooks."""
        self._directory = directory

    def run(self, stage: Stage, facts: Mapping[str, Any]) -> None:
        """See ports.Hooks."""
        if self._directory is None or not os.access(program := self._directory / stage, os.X_OK):
            return
        try:
            done = subprocess.run(
                [program],
                input=json.dumps({"stage": stage, **facts}),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limits.HOOK_SECONDS,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise HookFailed(
                f"the hook {program} did not end within {limits.HOOK_SECONDS:g} s", remedy="see what it waits for"
            ) from None
        except OSError as error:
            raise HookFailed(f"cannot run the hook {program}: {error.strerror}") from error
        if done.returncode != 0:
            why = first_line(done.stderr, last=True) or "nothing on stderr"
            raise HookFailed(f"the hook {program} failed with status {done.returncode}: {why}")
