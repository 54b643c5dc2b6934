"""Write the table of experiments as Markdown (also for the terminal), as LaTeX, and as csv with every digit."""

import contextlib
import json
from collections import Counter
from dataclasses import dataclass

from tabulate import tabulate

from toolkit.core.text import as_csv, as_rows, four_digits, one_line, printable
from toolkit.results.comparison import REPLICATED, varying
from toolkit.results.rows import STATUSES

LONGEST_ON_TERMINAL = 50  # rows
LONGEST_LIST = 20  # lines per list below the table
RESERVED = {"name", "best", "status", "epochs", "n", "replicates", "test_looks", "difference", "p", "p_value"}
ABOUT_INTERVALS = (
    "±: 95% confidence interval of the mean over n finished replicates, by Student's t "
    "(for folds of a cross-validation, corrected for their overlapping training sets)"
)
ABOUT_LOOKS = "test_looks: number of times that evaluate.py has evaluated the test split"


@dataclass
class Column:
    """A column of the table."""

    name: str
    kind: str  # "name", "status", "number", "hyperparameter", "metric", or "detail" (a metric that only the csv has)
    values: list  # one per row
    texts: list | None = None  # cells of the printed table; default: the values, shortened
    exact: dict | None = None  # {heading: values} of the csv file; default: the values with every digit

    def __post_init__(self):
        self.texts = self.texts or [as_text(value) for value in self.values]
        self.exact = self.exact or {self.name: [plain(value) for value in self.values]}
        self.is_numeric = self.kind not in ("name", "status")
        if self.kind == "hyperparameter":
            self.is_numeric = all(isinstance(value, int | float | None) for value in self.values)


class ResultsTable:
    """A table of the experiments in `rows`, which are from `results` and sorted by a metric (or None), best first.

    `notes` are lines to print below it; if replicates were `merged`, seed and fold are not shown; `compared` is True if
    there is a baseline. `best` is the best finished Row or None, `hyperparameters` are those that differ.
    """

    def __init__(self, rows, results, metric, mode, notes, merged, compared):
        self.rows, self.results, self.metric, self.mode, self.notes = rows, results, metric, mode, notes
        self.best = next((row for row in rows if row.status == "finished" and row.has(metric)), None)
        metrics = dict.fromkeys(name for row in rows for name in row.metrics)
        metrics = sorted(metrics, key=lambda name: name.startswith("test_"))  # a stable sort keeps the order of files
        self.hyperparameters = varying(rows, without=REPLICATED if merged else ())
        names, stars = [row.name for row in rows], ["*" if row is self.best else "" for row in rows]
        with_stars = [f"{row.name} *" if row is self.best else row.name for row in rows]
        self.columns = [
            Column("name", "name", names, with_stars, {"name": names, "best": stars}),
            Column("status", "status", [row.status for row in rows]),
            Column("epochs", "number", [row.epochs for row in rows]),
        ]
        if any(row.replicates for row in rows):
            finished, members = [len(row.finished) for row in rows], [len(row.members) for row in rows]
            texts = [str(n) if f == n else f"{f}/{n}" for f, n in zip(finished, members, strict=True)]
            self.columns.append(Column("n", "number", members, texts, {"n": finished, "replicates": members}))
        for name in self.hyperparameters:
            heading = f"params.{name}" if name in RESERVED or name in metrics else name
            self.columns.append(Column(heading, "hyperparameter", [row.params.get(name) for row in rows]))
        self.columns += map(self._metric_column, metrics)
        if any(row.looks is not None for row in rows):
            self.columns.append(Column("test_looks", "number", [row.looks for row in rows]))
        if compared:
            differences, p_values = [row.difference for row in rows], [row.p_value for row in rows]
            texts = [four_digits(value, "+") for value in differences]
            self.columns.append(Column("difference", "number", differences, texts))
            texts = ["<0.0001" if p is not None and p < 0.0001 else four_digits(p) for p in p_values]
            self.columns.append(Column("p", "number", p_values, texts, {"p_value": p_values}))

    def _metric_column(self, name):
        values, widths = [row.metrics.get(name) for row in self.rows], [row.half_widths.get(name) for row in self.rows]
        texts = [four_digits(v) + ("" if w is None else f" ± {w:.4f}") for v, w in zip(values, widths, strict=True)]
        exact = {f"metrics.{name}" if name in RESERVED else name: values}
        exact |= {f"{name}_ci95": widths} if any(width is not None for width in widths) else {}
        is_detail = "/" in name and name != self.metric  # such as f1/person
        return Column(name, "detail" if is_detail else "metric", values, texts, exact)

    def as_pipe(self, longest=None):
        """Return CS230's pipe table of the first `longest` rows, or of all."""
        return self._tabulate("pipe", longest, lambda text: text.replace("|", "\\|"))

    def as_latex(self):
        """Return a LaTeX tabular; the document needs the package booktabs."""
        return self._tabulate("latex_booktabs").replace("±", r"$\pm$") + "\n"

    def _tabulate(self, style, longest=None, escape=str):
        columns = [column for column in self.columns if column.kind != "detail"]
        headers = [escape(printable(column.name)) for column in columns]
        texts = [[escape(printable(text)) for text in column.texts[:longest]] for column in columns]
        sides = ["right" if column.is_numeric else "left" for column in columns]
        rows = list(zip(*texts, strict=True))
        return tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=sides)

    def as_csv(self):
        """Return all rows with every digit, as the text of a csv file."""
        return as_csv(as_rows({printable(n): values for column in self.columns for n, values in column.exact.items()}))

    def below(self, longest=LONGEST_LIST):
        """Return the lines below the table, with at most `longest` lines in each list."""
        rows = [member for row in self.rows for member in row.members]
        numbers = Counter(row.status for row in rows)
        statuses = ", ".join(f"{numbers[status]:,} {status}" for status in STATUSES if numbers[status])
        best = f"; sorted by {self.metric}, * marks the best finished row" if self.best else ""
        lines = [f"{len(rows):,} experiment{'' if len(rows) == 1 else 's'}: {statuses or 'none is trained'}{best}"]
        columns = {column.name for column in self.columns}
        lines += [ABOUT_INTERVALS] if "n" in columns else []
        lines += [ABOUT_LOOKS] if "test_looks" in columns else []
        lines += capped(self.notes, longest)
        lists = {"failed": [], "pruned": [], "left out": self.results.left_out, "problems": self.results.problems}
        for row in rows:
            if row.status in ("failed", "pruned"):
                lists[row.status].append(f"{row.name}: {row.why or 'no reason was recorded'}")
        for title, items in lists.items():
            lines += [f"{title.capitalize()}:", *(f"- {line}" for line in capped(items, longest))] if items else []
        return lines


def capped(lines, longest):
    """Return the first `longest` lines, and the number of the others if there are more."""
    more = [f"... and {len(lines) - longest:,} more"] if len(lines) > longest else []
    return [one_line(line, 300) for line in lines[:longest]] + more


def as_text(value):
    """Return a short text for a value of a hyperparameter, "-" if it is missing."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(plain(value))


def plain(value):
    """Return a value of a hyperparameter unchanged if it is None, a number or a text that is no JSON, else as JSON."""
    if type(value) is str:  # "1" and "true" are written with their quotes, as they differ from 1 and true
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(value)
            return json.dumps(value)
    return value if value is None or type(value) in (int, float, str) else json.dumps(value)
