"""Sphinx: Markdown by MyST, the furo theme, the command line by sphinx-click, and pages that are made from the code."""

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

from privbench import __version__, core
from privbench.api.catalogue import Entry, components

project = "privbench"
release = version = __version__
copyright = "the privbench authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"privbench {release}"
html_theme_options = {"navigation_with_keys": True}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
for _name in core.__all__:
    getattr(core, _name)  # autodoc sees a name that is imported when it is used only once it was used
GENERATED = ("attacks", "defenses", "results")
"""Folders that are written anew at every build."""


def parameters(entry: Entry) -> str:
    """A table of an entry's hyper-parameters."""
    if not entry.parameters:
        return "No parameters.\n"
    rows = "".join(
        f"| `{one.name}` | {cell(one.type)} | {cell(f'`{one.default}`') if one.default is not None else ''} "
        f"| {cell(one.description)} |\n"
        for one in entry.parameters
    )
    return "| parameter | type | default | meaning |\n|---|---|---|---|\n" + rows


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def write_cards(room: str, title: str, intro: str) -> None:
    """One page for each component, its card and its parameters, and an index of all."""
    folder = HERE / room
    folder.mkdir(exist_ok=True)
    index = [f"# {title}\n\n{intro}\n\n| name | in one line |\n|---|---|"]
    names = []
    for entry in components(room):
        card = ROOT / room / "cards" / f"{entry.name}.md"
        if not card.exists():  # a plug-in that is installed here
            continue
        names.append(entry.name)
        index.append(f"| [{entry.name}]({entry.name}.md) | {cell(entry.summary)} |")
        presets = ", ".join(f"`{name}`" for name in entry.presets)
        text = card.read_text(encoding="utf-8").replace("](../../docs/", "](../")
        text += (f"\n**Preset names.** {presets}.\n" if presets else "") + "\n## Parameters\n\n" + parameters(entry)
        (folder / f"{entry.name}.md").write_text(text, encoding="utf-8")
    tree = "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    (folder / "index.md").write_text("\n".join(index) + "\n" + tree, encoding="utf-8")


def generate(app: Sphinx) -> None:
    """Writes the cards and copies the results' pages with their pictures."""
    write_cards("attacks", "Attacks", "One file and one card each. Parameters are read from the code.")
    write_cards("defenses", "Defenses", "One file and one card each. Defenses compose with `+` in the order written.")
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    for source in [*(ROOT / "results").glob("*.md"), *(ROOT / "results").glob("*.png")]:
        shutil.copy(source, folder / ("index.md" if source.name == "README.md" else source.name))
    (folder / "pictures").mkdir(exist_ok=True)
    for picture in (ROOT / "results" / "pictures").iterdir():
        shutil.copy(picture, folder / "pictures")
    for page in folder.glob("*.md"):
        page.write_text(page.read_text(encoding="utf-8").replace("](README.md", "](index.md"), encoding="utf-8")
    index = folder / "index.md"
    others = sorted(path.stem for path in folder.glob("*.md") if path.stem != "index")
    tree = "\n```{toctree}\n:hidden:\n\n" + "\n".join(others) + "\n```\n"
    index.write_text(index.read_text(encoding="utf-8") + tree, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Pages are generated before Sphinx looks for them."""
    app.connect("builder-inited", generate)
