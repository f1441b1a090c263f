"""Write book/zoo.md, the page of the networks that klrp explains, from what benchmarks/zoo.py has stored."""

import json
import re
import textwrap
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "book" / "assets" / "zoo.json", ROOT / "book" / "zoo.md"
SEMIRINGS = {"real": "real", "boolean": "Bool.", "counting": "count.", "viterbi": "Vit."}
LARGE_ERROR = 1e-5
PAGE_TEXT = """# Networks that klrp explains

<!-- Made by scripts/zoo_page.py from book/assets/zoo.json. -->

klrp was run on published networks as their packages make them: on the {torchvision} classifiers of torchvision, and on
{timm} networks of timm, from {modules} of its modules. {explained} are explained in all four semirings. The
{count_refused} others are named [at the end](refused-networks), each with its reason.

## How to read the tables

A *step* is one operation that klrp found while the network ran: a layer, a product, an addition, a change of shape.
The other numbers are times. Each says how many times as long one explanation takes as gradient × input of the same
pictures, for the semirings real, Boolean, counting and Viterbi with their usual rule and Θ. The median network costs
{medians}.

At {size} pixels a network of many small steps has little to compute in each, and the multiples are high; with larger
pictures they fall. {{doc}}`Chapter 12 <12_speed>` says how cost grows, and what larger batches change.

{account}

## How they were measured

The weights are random: neither the steps nor, for the most part, the times depend on them. Each network explains
{batch} random pictures of {size} × {size} in single precision, {rounds}. The classifiers of less than 20 million
parameters run once before, which compiles what is compiled on first use. Networks that take no such pictures get the nearest size they take, or their own: {sizes}. The
machine has an {cpu} processor, of which {cores}; times are seconds of the processor, which other work changes little
({packages}; {date}). The commands are:

{commands}

## The classifiers of torchvision

{torchvision_table}

## Networks of timm

Each is a small one of its module; where a module has several kinds of networks, each kind has one.

{timm_table}

(refused-networks)=
## Refused networks

{refused}
"""


def broken(name: str) -> str:
    """A name that may be broken behind its underscores, so that a table fits on a phone."""
    return name.replace("_", "_<wbr>")


def number(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def table(rows: list[dict]) -> str:
    """Network, steps, and a multiple for each semiring."""
    lines = [" | ".join(["network", "steps", *SEMIRINGS.values()]), "|".join([":---", *["---:"] * 5])]
    for row in rows:
        cells = [broken(row["network"]), str(row["steps"]), *(number(row[s]) for s in SEMIRINGS)]
        lines.append(" | ".join(cells))
    body = "\n".join(f"| {line} |" for line in lines)
    return f":::{{table}}\n:class: zoo\n\n{body}\n:::"


def is_explained(row: dict) -> bool:
    return all(s in row for s in SEMIRINGS)


def reason(row: dict) -> str:
    """Why a network is refused: the first sentence of the error, and where in its package."""
    text = re.sub(r"^(model|inputs): ", "", row["refused"])
    place = re.search(r",? at ([\w./]+:\d+)", text)
    text = re.split(r"\. (?=[A-Z])", text.replace(place[0], "") if place else text)[0].rstrip(".")
    return f"`{row['network']}`: {text}" + (f" ({place[1]})." if place else ".")


def account(rows: list[dict]) -> str:
    """What the account of the reals says, and for which networks it says less."""
    errors = {row["network"]: row["error"] for row in rows if "error" in row}
    large = sorted(name for name, error in errors.items() if not error <= LARGE_ERROR)
    largest = max((error for name, error in errors.items() if name not in large), default=0.0)
    text = (
        f"For {len(errors)} classifiers of torchvision the account of the reals was made too, in double precision: what each step received "
        f"is what it passed on, kept or lost. The largest error of a step is {largest:.0e} of what it received"
    )
    if large:
        each = ", ".join(f"`{name}` ({errors[name]:.0e})" for name in large)
        text += f", but for {each}: with random weights large amounts cancel there, and leave what rounding made"
    return text + "."


def sizes(rows: list[dict], usual: int) -> str:
    """Which networks had other sizes, by size."""
    found: dict[int, int] = {}
    for row in rows:
        if row["size"] != usual:
            found[row["size"]] = found.get(row["size"], 0) + 1
    return ", ".join(f"{size} × {size} for {count}" for size, count in sorted(found.items())) or "none here"


def wrapped(block: str) -> str:
    """A paragraph, in lines of one length; anything else as it is."""
    prose = block[:1].isalnum() and "\n:" not in block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False) if prose else block


def page(records: list[dict]) -> str:
    """The page, from the last records of torchvision and of timm, and accounts from records without times."""
    timed = {bool(r["arguments"]["timm"]): r for r in records if r["arguments"]["semirings"]}
    torchvision, timm = timed[False], timed[True]
    rows = torchvision["rows"] + timm["rows"]
    explained, refused = [r for r in rows if is_explained(r)], [r for r in rows if not is_explained(r)]
    where, versions, chosen = torchvision["machine"], torchvision["versions"], torchvision["arguments"]
    medians = ", ".join(f"{number(median(r[s] for r in explained))} ({s})" for s in SEMIRINGS)
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm", "numba"))
    text = PAGE_TEXT.format(
        torchvision=len(torchvision["rows"]),
        timm=len(timm["rows"]),
        modules=len({r["module"] for r in timm["rows"] if "module" in r}),
        explained=len(explained),
        count_refused=len(refused),
        medians=medians,
        size=chosen["size"],
        account=account([row for record in records for row in record["rows"]]),
        batch=chosen["batch"],
        rounds="once" if chosen["rounds"] == 1 else f"{chosen['rounds']} times (the median)",
        sizes=sizes(explained, chosen["size"]),
        cpu=where["cpu"],
        cores="one core was used" if where["threads"] == 1 else f"{where['threads']} cores were used",
        packages=packages,
        date=torchvision["date"],
        commands="\n".join(f"    {r['command']}" for r in records),
        torchvision_table=table([r for r in torchvision["rows"] if is_explained(r)]),
        timm_table=table([r for r in timm["rows"] if is_explained(r)]),
        refused="\n".join(f"- {reason(r)}" for r in refused) or "There are none.",
    )
    return "\n\n".join(map(wrapped, text.split("\n\n")))


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(RECORDS.read_text("utf-8"))), "utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written.")
