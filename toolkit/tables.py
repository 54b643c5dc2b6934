"""A table of experiments: for the terminal and Markdown, LaTeX, and with every digit as csv."""

import csv
import io
import json
import math
from collections import Counter

from tabulate import tabulate

from toolkit.comparison import NO_COLUMNS, varying
from toolkit.results import STATUSES, one_line, printable

LONGEST_ON_TERMINAL = 50  # rows
LONGEST_LIST = 20  # lines of a kind under the table


class ResultsTable:
    """A table of rows, sorted already, with what stands under it.

    Args:
        rows: list of Row, best first.
        results: Results that they are from.
        metric: the one that they are sorted by, or None.
        notes: further lines under the table.
        folded: whether replicates were folded, so that seed and fold are no columns.
        baseline: whether the rows were compared with one.
    """

    def __init__(self, rows, results, metric, notes, folded, baseline):
        self.rows, self.results, self.metric, self.notes = rows, results, metric, notes
        self.hyperparameters = varying(rows, without=NO_COLUMNS if folded else ())
        metrics = dict.fromkeys(name for row in rows for name in row.metrics)
        self.all_metrics = sorted(metrics, key=lambda name: name.startswith("test_"))  # stable: else as written
        self.metrics = [name for name in self.all_metrics if "/" not in name or name == metric]  # `f1/person`: csv only
        self.intervals = {name for row in rows for name in row.half_widths}  # metrics that have some
        self.has_replicates, self.baseline = any(row.replicates for row in rows), baseline
        self.has_looks = any(looks_of(row) is not None for row in rows)
        finished = (
            row for row in rows if row.status == "finished" and math.isfinite(row.metrics.get(metric, math.nan))
        )
        self.best = next(finished, None)

    def headers(self, all_digits=False):
        """The names of the columns. With all digits, as in csv, each number of a cell has a column of its own."""
        taken = {"name", "best", "status", "epochs", "n", "replicates", "difference", "p", "p_value", "test_looks"}
        taken.update(self.all_metrics)
        hyperparameters = [f"params.{name}" if name in taken else name for name in self.hyperparameters]
        widths = self.intervals if all_digits else ()
        metrics = self.all_metrics if all_digits else self.metrics
        metrics = [n for name in metrics for n in ([name, f"{name}_ci95"] if name in widths else [name])]
        first = ["name", "best", "status", "epochs"] if all_digits else ["name", "status", "epochs"]
        count = (["n", "replicates"] if all_digits else ["n"]) if self.has_replicates else []
        last = ["test_looks"] * self.has_looks
        last += ["difference", "p_value" if all_digits else "p"] if self.baseline else []
        return [printable(name) for name in first + count + hyperparameters + metrics + last]

    def cells(self, row):
        """The texts of a row."""
        cells = [row.name + (" *" if row is self.best else ""), row.status, as_text(row.epochs)]
        if self.has_replicates:
            finished, count = finished_of(row)
            cells.append(str(count) if finished == count else f"{finished}/{count}")
        cells += [as_text(row.params.get(name)) for name in self.hyperparameters]
        for name in self.metrics:
            value, half_width = row.metrics.get(name), row.half_widths.get(name)
            cells.append("-" if value is None else f"{value:.4f}")
            if half_width is not None:
                cells[-1] += f" ± {half_width:.4f}"
        cells += [as_text(looks_of(row))] * self.has_looks
        if self.baseline:
            cells.append("-" if row.difference is None else f"{row.difference:+.4f}")
            small = row.p_value is not None and row.p_value < 0.0001
            cells.append("-" if row.p_value is None else "<0.0001" if small else f"{row.p_value:.4f}")
        return [printable(cell) for cell in cells]

    def as_pipe(self, longest=None):
        """CS230's pipe table of the first `longest` rows (None: of all)."""
        rows = [self.headers(), *(self.cells(row) for row in self.rows[:longest])]
        headers, *rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
        return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=self._alignment())

    def as_latex(self):
        """A tabular for a document that has the package booktabs."""
        rows = [self.cells(row) for row in self.rows]
        table = tabulate(rows, self.headers(), tablefmt="latex_booktabs", disable_numparse=True,
                         colalign=self._alignment())  # fmt: skip
        return table.replace("±", r"$\pm$") + "\n"

    def as_csv(self):
        """All rows with every digit, as the text of a csv file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.headers(all_digits=True))
        for row in self.rows:
            cells = [row.name, "*" if row is self.best else "", row.status, row.epochs]
            cells += finished_of(row) if self.has_replicates else ()
            cells += [plain(row.params.get(name)) for name in self.hyperparameters]
            for name in self.all_metrics:
                cells.append(row.metrics.get(name))
                cells += [row.half_widths.get(name)] if name in self.intervals else []
            cells += [looks_of(row)] * self.has_looks
            cells += [row.difference, row.p_value] if self.baseline else []
            writer.writerow(cells)
        return text.getvalue()

    def _alignment(self):
        numeric = {name for name in self.hyperparameters
                   if all(isinstance(row.params.get(name, 0), int | float) for row in self.rows)}  # fmt: skip
        metrics = 2 * self.baseline + self.has_looks + len(self.metrics)
        first = ["left", "left", "right"] + ["right"] * self.has_replicates
        return first + ["right" if n in numeric else "left" for n in self.hyperparameters] + ["right"] * metrics

    def below(self, longest=LONGEST_LIST):
        """What stands under the table, a list of lines, with at most `longest` of a kind."""
        rows = [one for row in self.rows for one in row.replicates or [row]]
        counts = Counter(row.status for row in rows)
        statuses = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
        best = f"; sorted by {self.metric}, * is the best that is finished" if self.best else ""
        lines = [f"{len(rows):,} experiment{'s' * (len(rows) != 1)}: {statuses or 'none is trained'}{best}"]
        if self.has_replicates:
            lines.append("±: 95% confidence interval of the mean over n finished replicates, by Student's t "
                         "(folds of a cross-validation: corrected for the overlap of their training sets)")  # fmt: skip
        lines += ["test_looks: how often evaluate.py has looked at the test split"] * self.has_looks
        lines += capped(self.notes, longest)
        for kind in ("failed", "pruned"):
            of_kind = [f"{row.name}: {row.why or 'it does not say why'}" for row in rows if row.status == kind]
            lines += listed(kind.capitalize(), of_kind, longest)
        lines += listed("Left out", self.results.left_out, longest)
        return lines + listed("Not as it should be", self.results.notes, longest)


def pipe_table(rows):
    """A pipe table of rows, dicts of texts, numbers and None: texts stay as they are, though they look like numbers."""

    def as_cell(value):
        return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else printable(str(value))

    cells = [{name: as_cell(value).replace("|", "\\|") for name, value in row.items()} for row in rows]
    sides = ["left" if isinstance(value, str) else "right" for value in rows[0].values()]
    return tabulate(cells, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=sides)


def finished_of(row):
    """(how many of the replicates of a row are finished, how many there are)."""
    replicates = row.replicates or [row]
    return sum(one.status == "finished" for one in replicates), len(replicates)


def looks_of(row):
    """How often the test split of a row, or of its replicates together, was looked at; None where it never was."""
    looks = [one.looks for one in row.replicates or [row] if one.looks is not None]
    return sum(looks) if looks else None


def listed(title, lines, longest):
    """Lines under a title, none where there are none."""
    return [f"{title}:", *(f"- {line}" for line in capped(lines, longest))] if lines else []


def capped(lines, longest):
    """The first lines, and how many more there are, each a single line."""
    more = [f"... and {len(lines) - longest:,} more"] if len(lines) > longest else []
    return [one_line(line, 300) for line in lines[:longest]] + more


def as_text(value):
    """A value of a hyperparameter, short: "-" where it is missing."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(plain(value))


def plain(value):
    """A value of a hyperparameter with all that is in it, for csv."""
    return value if value is None or type(value) in (int, float, str) else json.dumps(value)
