"""Whether somebody who follows docs/operating.md types anything that was never tried."""

import re
from collections.abc import Iterable

from image import PROJECT

PAGE = "docs/operating.md"
# These need Nix, which is not in the machines.
ELSEWHERE = ("nixos-rebuild ", "nix ")
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A command stands after the prompt, up to its remark.
COMMAND = re.compile(r"^# (.+?)(?: {2,}# .*)?$", re.MULTILINE)

# Whoever types it puts something of his own in its place.
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b")


def unproved(executed: Iterable[str]) -> list[str]:
    """The page's commands that are no part of one that was executed."""
    text = (PROJECT / PAGE).read_text()
    commands = [command for block in BLOCK.findall(text) for command in COMMAND.findall(block)]
    everything = "\n".join(executed)
    return [
        command
        for command in commands
        if not command.startswith(ELSEWHERE) and not re.search(PLACEHOLDER.sub(r"\\S+", re.escape(command)), everything)
    ]
