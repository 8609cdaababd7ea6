"""For mkdocs: links to files outside docs/ lead to the repository, or without a repo_url become text.

The pages are written to be read in the repository, where such links resolve;
tests/house/test_repository.py checks them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrites one page's links that leave the documentation's folder."""
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_uri).parent

    def rewrite(match: re.Match[str]) -> str:
        image, text, target, _ = match.groups()
        file = (here / target).resolve()
        if file.is_relative_to(docs):
            return match[0]
        if image:
            return text
        if config.get("repo_url"):
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{file.relative_to(docs.parent)})"
        return text

    return _LINK.sub(rewrite, markdown)
