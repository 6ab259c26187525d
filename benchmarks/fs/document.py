"""Results for people: Markdown tables, and plots where matplotlib is installed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.fs import contenders as c
from benchmarks.fs.goals import Verdict
from benchmarks.fs.sampling import Samples

_MET: Final = {True: "met", False: "**not met**", None: ""}
_FEW: Final = 40  # samples of a cell that are shown one by one nowhere, and judged by percentile


def goals_table(verdicts: Iterable[Verdict]) -> str:
    """The table of goals."""
    lines = ["| row | what | goal | measured | |", "|---|---|---|---|---|"]
    lines += [f"| {v.row} | {v.what} | {v.goal} | {v.figure} | {_MET[v.met]} |" for v in verdicts]
    return "\n".join(lines) + "\n"


def samples_table(samples: Samples) -> str:
    """Medians of one row with their spread: a line for each operation and condition, a column for each contender."""
    cells = {cell: found for cell, found in samples.cells().items() if len(found[1]) < _FEW}
    contenders = list(dict.fromkeys(contender for _, contender, _ in cells))
    lines = [f"| | {' | '.join(contenders)} |", "|---|" + "---:|" * len(contenders)]
    for what, condition in dict.fromkeys((what, condition) for what, _, condition in cells):
        shown = []
        unit = ""
        for contender in contenders:
            found = cells.get((what, contender, condition))
            if found is None:
                shown.append("")
                continue
            unit, values = found
            spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
            shown.append(f"{statistics.median(values):.4g}{spread}")
        lines.append(f"| {what}, {condition}, {unit} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def write(directory: Path, rows: Mapping[str, tuple[str, Samples, list[Verdict]]]) -> None:
    """`fs.md` and the plots of all ROWS: by name, what it measures, its samples, what they say."""
    text = ["# File system benchmarks", goals_table(v for _, _, verdicts in rows.values() for v in verdicts)]
    for name, (about, samples, _) in rows.items():
        text.append(f"## {name}\n\n{about}\n\n{samples_table(samples)}")
    (directory / "fs.md").write_text("\n".join(text))
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is missing, `scripts/setup bench` installs it")
        return
    matplotlib.use("Agg")
    for name, (about, samples, _) in rows.items():
        _plot(directory / f"fs-{name}.png", name, about, samples)


def _plot(path: Path, name: str, about: str, samples: Samples) -> None:
    """One group of bars for each operation and condition; distances as lines where there are several."""
    from matplotlib import pyplot

    cells = {cell: found for cell, found in samples.cells().items() if len(found[1]) < _FEW}
    groups: dict[str, list[tuple[str, str]]] = {}  # by unit: what is measured in one figure can be compared
    for (what, _, condition), (unit, _) in cells.items():
        if (what, condition) not in groups.setdefault(unit, []):
            groups[unit].append((what, condition))
    if not groups:
        return
    contenders = list(dict.fromkeys(contender for _, contender, _ in cells))
    height = sum(1.0 + 0.22 * len(group) * len(contenders) for group in groups.values())
    figure, all_axes = pyplot.subplots(
        len(groups),
        figsize=(10, max(3.0, height)),
        height_ratios=[max(2, len(group)) for group in groups.values()],
        squeeze=False,
    )
    for (unit, group), axes in zip(groups.items(), all_axes[:, 0], strict=True):
        for number, contender in enumerate(contenders):
            where, values, errors = [], [], ([], [])  # type: ignore[var-annotated]
            for position, (what, condition) in enumerate(group):
                found = cells.get((what, contender, condition))
                if found is None or found[0] != unit:
                    continue
                middle = statistics.median(found[1])
                where.append(position + 0.8 * (number + 0.5) / len(contenders))
                values.append(middle)
                errors[0].append(middle - min(found[1]))
                errors[1].append(max(found[1]) - middle)
            if where:
                bar = 0.75 / len(contenders)
                axes.barh(where, values, bar, xerr=errors, label=contender, color=_COLOURS.get(contender), capsize=2)
        axes.set_yticks([position + 0.4 for position in range(len(group))], [f"{w}\n{k}" for w, k in group], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.grid(axis="x", alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"{name}: {about}", fontsize=9, wrap=True)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


_COLOURS: Final = {
    c.VOYFS: "tab:blue",
    c.WARM: "tab:cyan",
    c.SSHFS: "tab:orange",
    c.RCLONE: "tab:green",
    c.RSYNC: "tab:red",
    c.RAW: "tab:purple",
    c.C: "tab:brown",
    c.C_BARE: "tab:olive",
    c.NATIVE: "tab:gray",
}
