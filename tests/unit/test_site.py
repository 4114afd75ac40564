"""The docs build as a site without a warning, and the guide's code is that of the examples."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "examples").iterdir() if path.is_file()
}
LONGEST = 80


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_site_builds_without_a_warning_and_has_what_the_docs_link_to(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for name in (
        "index.html",
        "consuming.html",
        "runbooks/replay-kafka.html",
        "deploy/roles.sql",
        "examples/kafka_copy.py",
    ):
        assert (tmp_path / "site" / name).is_file(), name
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="consuming.html"' in front
    assert 'href="CONTRIBUTING.html"' in front


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](events.md#nowhere)", "[a](../deploy/nowhere.sql)"])
def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, link: str) -> None:
    for name in ("docs", "tools", "deploy", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).symlink_to(ROOT / name) if name != "docs" else None
    (tmp_path / "docs").mkdir()
    for path in (ROOT / "docs").iterdir():
        (tmp_path / "docs" / path.name).symlink_to(path)
    page = tmp_path / "docs" / "subscribing.md"
    text = page.read_text(encoding="utf-8")
    page.unlink()
    page.write_text(f"{text}\n{link}\n", encoding="utf-8")

    done = build(tmp_path, tmp_path / "site")

    assert done.returncode != 0
    assert "nowhere" in done.stderr


def test_the_guide_s_code_is_that_of_the_examples() -> None:
    guide = (ROOT / "docs" / "consuming.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|java)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    for language, block in blocks:
        suffix = {"python": ".py", "java": ".java"}[language]
        assert any(block in text for name, text in EXAMPLES.items() if name.endswith(suffix)), block
    for name in EXAMPLES:
        assert f"(examples/{name})" in guide


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name: str) -> None:
    assert len(EXAMPLES[name].splitlines()) <= LONGEST


def test_links_of_pages_lead_somewhere_on_github_too() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
