"""What the pages are given when they are built: the help of commands, and formulas.

Formulas become MathML, which browsers draw themselves: no script, and nothing is fetched.
"""

import html
import os
import re
import subprocess
import sys
from typing import Any

from latex2mathml.converter import convert

HELP = re.compile(r"<!-- help ?([a-z -]*) -->")
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAYED = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page, with the help of a command for each `<!-- help COMMAND -->`."""
    return HELP.sub(lambda found: f"```text\n{_help(found[1])}```", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """The HTML of a page, with MathML for what arithmatex marked as TeX."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1])), content)
    return DISPLAYED.sub(
        lambda found: convert(html.unescape(found[1].strip()), display="block"), content
    )


def _help(command: str) -> str:
    words = command.split()
    asked = [sys.executable, "-m", "jaxstepper", *words]
    asked += [] if "--help-all" in words else ["--help"]
    wide = os.environ | {"COLUMNS": "88"}
    return subprocess.run(asked, check=True, capture_output=True, text=True, env=wide).stdout
