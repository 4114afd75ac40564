"""MkDocs' hook: what the docs link to outside of docs/ is part of the site, and README.md is its first page.

The Markdown files stay as GitHub shows them: links are those of the checkout, and are rewritten only here.
"""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
_OUTSIDE = re.compile(r"\]\((?:\.\./)+((?!docs/)[^)#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """All runbooks have their place in the navigation."""
    pages = sorted(path.name for path in pathlib.Path(config.docs_dir, "runbooks").glob("*.md"))
    listed = next(entry["Runbooks"] for part in config.nav for entry in _entries(part) if "Runbooks" in entry)
    listed.extend(f"runbooks/{name}" for name in pages)
    return config


def _entries(part: object) -> list[dict[str, list[str]]]:
    """Of a section of the navigation, those that are sections themselves."""
    inner = [each for found in part.values() for each in found] if isinstance(part, dict) else []
    return [each for each in inner if isinstance(each, dict)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the checkout's own pages, and the files that any page links to, at their paths in the checkout."""
    for name, place in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](", text).replace("](README.md", "](index.md")
        files.append(File.generated(config, place, content=text))
    for page in list(files.documentation_pages()):
        for target in _OUTSIDE.findall(page.content_string):
            if target not in PAGES and target not in files.src_uris and (ROOT / target).is_file():
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Links out of docs/ become links within the site. One that leads nowhere is MkDocs' to complain about."""
    up = "../" * page.file.src_uri.count("/")
    return _OUTSIDE.sub(lambda match: f"]({up}{PAGES.get(match[1], match[1])}", markdown)
