"""The whole book in one PDF: `make pdf` prints the built pages by a headless Chromium and joins them.

The pages are those of _build/html, in the order of _toc.yml. Solutions are printed open, as paper does not unfold;
--without-solutions leaves them out, and the lectures with the answers of their exams. Bookmarks follow the parts, the pages and their sections, and a link from one page
of the book to another leads to the place in the file.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from run_notebooks import ROOT

HTML = ROOT / "_build" / "html"
PDF = ROOT / "_build" / "klrp.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = """--headless=new --no-sandbox --disable-gpu --no-first-run --disable-sync --disable-background-networking
    --disable-component-update --hide-scrollbars --virtual-time-budget=30000""".split()
# What a reader unfolds by a click lies open on paper; what only a screen can use is left out.
OPEN = """<style>
html { font-size: 11.5px !important; }
.noprint, .toggle-button, .copybtn, .headerlink, .sbt-scroll-pixel-helper, #pst-skip-link, .bd-header, .bd-sidebar,
.bd-sidebar-secondary, .bd-footer, .bd-header-article, .prev-next-footer, #jb-print-docs-body, #jb-print-toc
{ display: none !important; }
.bd-main .bd-content, .bd-main .bd-content .bd-article-container, .bd-article, .bd-container__inner
{ max-width: 100% !important; padding: 0 !important; margin: 0 !important; }
#main-content, .bd-article-container, article { display: block !important; }
.admonition, .cell, .cell_input, .cell_output, .solution, .exercise, details { break-inside: auto !important; }
article h1 { display: block !important; }
details.hide > summary { display: none !important; }
pre { white-space: pre-wrap !important; }
pre, figure, img, tr, .admonition-title, div.math, mjx-container { break-inside: avoid; }
h1, h2, h3, h4, .admonition-title { break-after: avoid; }
.klrp-anchors a { font-size: 1px !important; line-height: 1px; color: #fff !important; text-decoration: none; }
HIDDEN
@page { size: A4; margin: 16mm 17mm 18mm; }
</style><script>
document.documentElement.dataset.theme = document.documentElement.dataset.mode = "light";
addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const box of document.querySelectorAll(".toggle-hidden")) box.classList.remove("toggle-hidden");
});
</script></body>"""


def chromium() -> str:
    """The command of a Chromium or Chrome on this machine."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        sys.exit(f"Printing needs Chromium or Chrome, and none of {', '.join(BROWSERS)} is on the PATH. Install one.")
    return found


def contents() -> list[tuple[str, list[str]]]:
    """The parts of the book with their pages, as _toc.yml has them."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    parts = [(part["caption"], [page["file"] for page in part["chapters"]]) for part in toc["parts"]]
    return [("", [toc["root"]]), *parts]


def places(html: Path) -> dict[str, set[str]]:
    """For each page the names of those places in it that other pages link to."""
    found: dict[str, set[str]] = {}
    for page in html.glob("book/**/*.html"):
        for address, place in re.findall(r'href="([^"#:]+\.html)#([^"]+)"', page.read_text("utf-8")):
            target = (page.parent / address).resolve().relative_to(html.resolve())
            found.setdefault(target.with_suffix("").as_posix(), set()).add(unquote(place))
    return found


def copied(html: Path, folder: Path, hidden: str) -> Path:
    """The built pages once more, unfolded. Only pages are written anew; all else is linked, or copied over."""

    def place(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)

    copy, known = folder / "html", places(html)
    shutil.copytree(html, copy, copy_function=place)
    for page in copy.glob("book/**/*.html"):
        name = page.relative_to(copy).with_suffix("").as_posix()
        # Chromium keeps a place in a PDF only where a link on the same page leads to it.
        links = "".join(f'<a href="#{p}">.</a>' for p in sorted(known.get(name, ())))
        text = page.read_text("utf-8").replace("</article>", f'<p class="klrp-anchors">{links}</p></article>')
        page.unlink()  # else the link would be written through
        page.write_text(text.replace("</body>", OPEN.replace("HIDDEN", hidden)), "utf-8")
    return copy


def printed(page: Path, folder: Path) -> Path:
    """One page as a PDF."""
    target = folder / f"{page.parent.name}_{page.stem}.pdf"
    command = [chromium(), *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--no-pdf-header-footer"]
    command += [f"--print-to-pdf={target}", page.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if not target.exists():
        sys.exit(f"Chromium printed nothing for {page.name}: {run.stderr[-500:]}")
    return target


CONTENTS = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Contents</title><style>
@page { size: A4; margin: 16mm 17mm 18mm; }
body { font: 11px/1.5 "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 24px; font-weight: 500; } h2 { font-size: 13px; margin: 1.1em 0 .2em; break-after: avoid; }
p { margin: 0; display: flex; gap: .5em; break-inside: avoid; } p span { flex: 1; border-bottom: 1px dotted #999; }
a { color: inherit; text-decoration: none; }
</style></head><body><article><h1>Contents</h1>ENTRIES</article></body></html>"""


def contents_page(parts, titles, counts: dict[str, int], offset: int) -> str:
    """The list of parts and pages with their numbers, as a page of the book. ``offset``: the pages that it takes."""
    lines, number = [], offset + 1
    for caption, names in parts:
        lines += [f"<h2>{escape(caption)}</h2>"] if caption else []
        for name in names:
            address = f"{name.removeprefix('book/')}.html"
            lines.append(f'<p><a href="{address}">{escape(titles[name][0][1])}</a><span></span>{number}</p>')
            number += counts[name]
    return CONTENTS.replace("ENTRIES", "\n".join(lines))


def with_contents(parts, pages: dict[str, Path], titles, copy: Path, folder: Path):
    """The parts with a first page that lists them. It is printed twice, as its own length moves all numbers."""
    from pypdf import PdfReader

    counts = {name: len(PdfReader(path).pages) for name, path in pages.items()}
    name, offset = "book/contents", 1
    for _ in range(2):
        (copy / f"{name}.html").write_text(contents_page(parts, titles, counts, offset), "utf-8")
        pages[name] = printed(copy / f"{name}.html", folder)
        offset = len(PdfReader(pages[name]).pages)
    titles[name] = [(1, "Contents", "")]
    return [("", [name]), *parts]


def number_pages(writer) -> None:
    """A number at the foot of each page. The page's own drawing is wrapped, so that it leaves no trace in ours."""
    from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject

    def stream(text: str):
        made = DecodedStreamObject()
        made.set_data(text.encode())
        return writer._add_object(made)

    kind = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = writer._add_object(DictionaryObject({NameObject(k): NameObject(v) for k, v in kind.items()}))
    for number, page in enumerate(writer.pages, start=1):
        fonts = page["/Resources"].get_object().setdefault(NameObject("/Font"), DictionaryObject()).get_object()
        fonts[NameObject("/KlrpFoot")] = font
        own = page.raw_get("/Contents") if "/Contents" in page else ArrayObject()
        own = own.get_object() if isinstance(own.get_object(), ArrayObject) else [own]
        x = float(page.mediabox.width) / 2 - 3 * len(str(number))
        foot = stream(f"Q BT /KlrpFoot 9 Tf 0.35 g {x:.1f} 26 Td ({number}) Tj ET")
        page[NameObject("/Contents")] = ArrayObject([stream("q"), *own, foot])


def headings_of(page: Path) -> list[tuple[int, str, str]]:
    """The titles on a page: level, text, and the name of the place."""
    from bs4 import BeautifulSoup

    article = BeautifulSoup(page.read_text("utf-8"), "html.parser").find("article")
    found = []
    for title in article.find_all(["h1", "h2", "h3"]):
        for sign in title.select(".headerlink"):
            sign.decompose()
        place = (title.find_parent("section") or title).get("id", "")
        found.append((int(title.name[1]), " ".join(title.get_text().split()), place))
    return found


def joined(parts, pages: dict[str, Path], titles: dict[str, list[tuple[int, str, str]]], target: Path) -> None:
    """Write all pages into one file, with bookmarks for parts, pages and sections."""
    from pypdf import PdfReader, PdfWriter

    writer, where = PdfWriter(), {}
    for caption, names in parts:
        above = {0: None}
        for name in names:
            begin, reader = len(writer.pages), PdfReader(pages[name])
            writer.append(reader, import_outline=False)
            spots = {str(spot).strip("/"): dest for spot, dest in reader.named_destinations.items()}
            where[name] = (begin, {s: (begin + reader.get_destination_page_number(d), d) for s, d in spots.items()})
            if caption and not above[0]:
                above[0] = writer.add_outline_item(title=caption, page_number=begin, bold=True, is_open=False)
            for level, text, spot in titles[name]:
                number = where[name][1].get(spot, (begin,))[0]
                upper = above.get(level - 1, above[max(above)])
                above[level] = writer.add_outline_item(title=text, page_number=number, parent=upper, is_open=False)
    link(writer, where)
    number_pages(writer)
    writer.add_metadata({"/Title": "Semiring LRP", "/Author": "the klrp contributors", "/Creator": "make pdf"})
    writer.page_mode = "/UseOutlines"
    writer.compress_identical_objects(remove_duplicates=True, remove_unreferenced=True)
    writer.write(target)


def link(writer, where: dict[str, tuple[int, dict]]) -> None:
    """Links inside the book lead to places of the PDF; links to other files go. ``where`` has begins and places."""
    from pypdf.generic import ArrayObject, NameObject, NullObject

    owners = [name for name, (begin, _) in where.items()]
    for number, page in enumerate(writer.pages):
        kept, own = ArrayObject(), next((n for n in reversed(owners) if where[n][0] <= number), "")
        for reference in page.get("/Annots", ()):
            note = reference.get_object()
            x0, y0, x1, y1 = (float(v) for v in note["/Rect"])
            address = str(note.get("/A", {}).get("/URI", ""))
            if x1 - x0 < 2 and y1 - y0 < 3:  # one of ours, made for its place
                continue
            if "/Dest" in note or address.startswith("file:"):
                name, spot = (own, str(note["/Dest"]).strip("/")) if "/Dest" in note else named(address, where)
                if name not in where:
                    continue
                begin, spots = where[name]
                at, dest = spots.get(spot, (begin, None))
                height = NullObject() if dest is None or dest.top is None else dest.top
                note.pop("/A", None)
                spot = [writer.pages[at].indirect_reference, NameObject("/XYZ"), NullObject(), height, NullObject()]
                note[NameObject("/Dest")] = ArrayObject(spot)
            kept.append(reference)
        page[NameObject("/Annots")] = kept


def named(address: str, where) -> tuple[str, str]:
    """The page of the book and the place that a file's address means."""
    parts = urlsplit(address)
    path = Path(unquote(parts.path)).with_suffix("").as_posix()
    return next((name for name in where if path.endswith(f"/{name}")), ""), unquote(parts.fragment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--without-solutions", action="store_true", help="leave out the solutions of exercises, and the lectures"
    )
    parser.add_argument("--pages", nargs="*", help="these pages only, such as book/01_first_relevance")
    parser.add_argument("--output", type=Path, default=PDF)
    args = parser.parse_args()
    chromium()
    if not (HTML / "index.html").exists():
        sys.exit(f"There is no built book in {HTML}. Build it first: make book")
    parts = [(caption, [n for n in names if not args.pages or n in args.pages]) for caption, names in contents()]
    hidden = ".solution { display: none !important; }" if args.without_solutions else ""
    if hidden:
        parts = [(c, kept) for c, names in parts if (kept := [n for n in names if not n.startswith("book/lectures/")])]
    with tempfile.TemporaryDirectory(dir=HTML.parent) as folder:
        copy = copied(HTML, Path(folder), hidden)
        names = [name for _, group in parts for name in group]
        if missing := [n for n in names if not (copy / f"{n}.html").exists()]:
            sys.exit(f"The built book is older than _toc.yml and lacks {', '.join(missing)}. Build it anew: make book")
        pages, titles = {}, {}
        for count, name in enumerate(names, start=1):
            print(f"\r{count} of {len(names)}: {name:<40}", end="", flush=True)
            titles[name] = headings_of(copy / f"{name}.html")
            pages[name] = printed(copy / f"{name}.html", Path(folder))
        parts = with_contents(parts, pages, titles, copy, Path(folder))
        joined(parts, pages, titles, args.output)
    print(f"\rThe book is printed. Open {args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
