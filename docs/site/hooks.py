"""What the site shows beside docs/: README.md first, the other pages of the root, and every code of the catalogue.

Nothing is written twice and nothing generated is kept: the pages are made while the site is, without torch.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from alignment.rules import RULES  # noqa: E402 - the packages of this checkout
from alignment.rules.page import page as page_of_rule  # noqa: E402

#: What lies outside docs/, and is a page all the same.
OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
#: What the examples of the catalogue begin with.
SETTING = ROOT / "fixtures" / "examples.py"
#: At the foot of every code.
BEGUN = "`model`, `batch` and the like are those that [every example begins with](../examples.md)."
#: The part of the navigation that holds the codes.
CODES = "What does LA102 mean?"


def on_config(config: Any) -> Any:
    """Every code in the navigation."""
    (section,) = (entry[CODES] for entry in config.nav if CODES in entry)
    section += [{f"{code} {rule.name}": f"codes/{code}.md"} for code, rule in RULES.items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages that are made."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in OUTSIDE.items()}
    made |= {f"codes/{code}.md": f"{page_of_rule(rule)}\n\n{BEGUN}\n" for code, rule in RULES.items()}
    made["examples.md"] = _setting()
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as the site has them: pages from outside docs/ by their new name, what is no page as a name alone."""
    if page.file.src_uri in OUTSIDE.values():
        markdown = markdown.replace("](docs/", "](")
        for name, made in OUTSIDE.items():
            markdown = markdown.replace(f"]({name}", f"]({made}")
    if page.file.src_uri == "findings.md":
        markdown = re.sub(r"^\| (LA\d{3}) \|", r"| [\1](codes/\1.md) |", markdown, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]+)\]\((?:\.\./fixtures[^)]*|reports)\)", r"\1", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Verdicts as reports show them."""
    return re.sub(r"<strong>(PASS|FAIL|INCOMPLETE)</strong>", r'<strong class="verdict \1">\1</strong>', html)


def on_post_build(config: Any) -> None:
    """What is searched, as a script: a page that is opened from a folder may read no other file."""
    index = Path(config.site_dir, "search", "search_index.json")
    index.with_name("index.js").write_text(f"const FOUND_IN = {index.read_text(encoding='utf-8')};\n", encoding="utf-8")
    index.unlink()


def _setting() -> str:
    """The page that shows what every example begins with."""
    said, code = re.fullmatch(r'"""(.*?)"""\n(.*)', SETTING.read_text(encoding="utf-8"), re.DOTALL).groups()
    code = re.sub(r"  # noqa.*", "", code)
    title, _, rest = said.partition("\n\n")
    return f"# {title.rstrip('.')}\n\n{rest.strip()}\n\n```python\n{code.strip()}\n```\n"
