"""The site: README, docs, gallery and notebooks as HTML. `python docs/site/build.py OUT [EXECUTED]`.

OUT gets `source`, the pages as Sphinx reads them, and `html`. EXECUTED is a folder of executed notebooks; without it,
notebooks are shown without what they print. Needs costsim[docs]; any warning is an error.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
_BLOCK = re.compile(r"^```sh\n(.*?)^```\n", re.M | re.S)


def pages(root: Path) -> dict[str, Path]:
    """The pages of the site by their place in it; the README is the first."""
    found = {"index.md": root / "README.md"}
    found |= {name: root / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "hardware_profiles/README.md")}
    return found | {f"docs/{path.name}": path for path in sorted(root.glob("docs/*.md"))}


def as_source(text: str) -> str:
    """A page as Sphinx reads it: links to notebooks and README lead to pages, blocks have names that it knows."""
    text = re.sub(r"(\]\([^)\s:]*)\.ipynb", r"\1.md", text)
    text = re.sub(r"\]\((\.\./)README\.md", r"](\1index.md", text)
    return re.sub(r"^```yml$", "```yaml", text, flags=re.M)


def toctree(caption: str, names: list[str]) -> str:
    """A part of the list of pages."""
    lines = "\n".join(name.removesuffix(".md") for name in names)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def draw(page: Path) -> None:
    """Run the commands of the gallery, and put each figure under the block that makes it."""

    def shown(block: re.Match[str]) -> str:
        figures = []
        for line in block[1].splitlines():
            words = shlex.split(line)
            subprocess.run([sys.executable, "-m", *words], cwd=page.parent, check=True, stdout=subprocess.DEVNULL)
            figures.append(f"![{line}]({words[words.index('--out') + 1]})")
        return "\n\n".join([block[0].rstrip(), *figures]) + "\n"

    page.write_text(_BLOCK.sub(shown, page.read_text()))


def convert(notebook: Path, folder: Path) -> None:
    """An executed notebook as a page, with its figures beside it."""
    from nbconvert import MarkdownExporter

    resources = {"unique_key": notebook.stem, "output_files_dir": f"{notebook.stem}-figures"}
    body, made = MarkdownExporter().from_filename(str(notebook), resources=resources)
    page = folder / f"{notebook.stem}.md"
    page.write_text(as_source(re.sub(r"<style scoped>.*?</style>", "", body, flags=re.S)))
    for name, data in made["outputs"].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def copy_linked(source: Path, found: dict[str, Path]) -> None:
    """Files that pages link to and that are none themselves: workloads, policies, code."""
    for path in found.values():
        for name, _ in _LINK.findall(path.read_text()):
            target = (path.parent / name).resolve()
            if target.is_file() and target.is_relative_to(ROOT) and target.suffix not in (".md", ".ipynb"):
                place = source / target.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(target, place)


def assemble(source: Path, executed: Path) -> None:
    """Everything that Sphinx reads, laid out as in the repository, so that links hold."""
    found, notebooks = pages(ROOT), sorted(executed.glob("*.ipynb"))
    for name, path in found.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(as_source(path.read_text()))
    (source / "notebooks").mkdir()
    for notebook in notebooks:
        convert(notebook, source / "notebooks")
    copy_linked(source, found)
    draw(source / "docs" / "gallery.md")
    shutil.copyfile(Path(__file__).parent / "conf.py", source / "conf.py")
    others = [name for name in found if not name.startswith("docs/") and name != "index.md"]
    with (source / "index.md").open("a") as index:
        index.write(toctree("Pages", [name for name in found if name.startswith("docs/")]))
        index.write(toctree("Notebooks", [f"notebooks/{notebook.stem}" for notebook in notebooks]))
        index.write(toctree("The project", others))


def main(out: str, executed: str = "") -> None:
    """Make the site in a folder, which is emptied first."""
    source, html = Path(out) / "source", Path(out) / "html"
    for folder in (source, html):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    assemble(source, Path(executed) if executed else ROOT / "notebooks")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    subprocess.run([*sphinx, str(source), str(html)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
