"""What mkdocs does besides rendering: the README is checked with the pages, and links that leave
docs/ become the paths they lead to, since the site holds no sources."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

README_PAGE = "readme-of-the-repository.md"
LEAVES = re.compile(r"(?<!!)\[([^][]+)\]\(\.\./([^)\s]+)\)")
"""A link out of docs/: its text, and the path in the repository."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The README as a page outside the navigation, so that its links are checked as well."""
    text = (Path(config.docs_dir).parent / "README.md").read_text()
    text = re.sub(r"\]\((?!https?:|#)(?!docs/)", "](../", text).replace("](docs/", "](")
    files.append(
        File.generated(config, README_PAGE, content=f"---\nsearch:\n  exclude: true\n---\n{text}")
    )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """PluginError, which ends the build, for a link out of docs/ that leads nowhere."""
    root = Path(config.docs_dir).parent

    def name_path(link: re.Match[str]) -> str:
        text, path = link[1], link[2]
        if path == "README.md":
            return f"[{text}]({README_PAGE})"
        if not (root / path).exists():
            raise PluginError(f"{page.file.src_uri} links to ../{path}, which does not exist")
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return LEAVES.sub(name_path, markdown)
