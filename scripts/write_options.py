"""Write docs/options.md, every option of every action from the options themselves, and the schema of layout files.

python -m scripts.write_options
"""

from __future__ import annotations

import json
from pathlib import Path

from guided_diffusion.config.load import ACTIONS
from guided_diffusion.data.boxes.layout_file import layout_file_schema
from guided_diffusion.runtime.option_help import KeyHelp, describe_options
from guided_diffusion.runtime.options import ActionConfig

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
LAYOUTS = Path(__file__).parents[1] / "configs" / "schema" / "layouts.json"
HEAD = """# Options

Every key of every action, with its default; those that most people set are bold. A config is one flat JSON object of
these keys, and `--set key=value` overrides one of them. Written by `python -m scripts.write_options`.
"""


def page() -> str:
    """Return the page: a section for each action, a table for each group of keys."""
    parts = [HEAD]
    for action, kind in ACTIONS.items():
        parts.append(f"## {action}\n\n{kind.summary[0].upper()}{kind.summary[1:]}.\n")
        for title, rows in describe_options(kind).items():
            parts.append(f"### {action}: {title or 'the action itself'}\n\n{_table(kind, rows)}\n")
    return "\n".join(parts)


def _table(kind: type[ActionConfig], rows: list[KeyHelp]) -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, default, meaning in rows:
        shown = f"**`{key}`**" if key in kind.common else f"`{key}`"
        lines.append(f"| {shown} | {default} | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    LAYOUTS.write_text(json.dumps(layout_file_schema(), indent=2) + "\n", encoding="utf-8", newline="\n")
    for path in (PAGE, LAYOUTS):
        print(path)
