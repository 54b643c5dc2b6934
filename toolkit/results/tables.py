"""A table of experiments: for the terminal and Markdown, LaTeX, and with every digit as csv."""

import csv
import io
import json
import math
from collections import Counter

from tabulate import tabulate

from toolkit.core.text import four_digits, one_line, printable
from toolkit.results.comparison import REPLICATED, varying
from toolkit.results.rows import STATUSES

LONGEST_ON_TERMINAL = 50  # rows
LONGEST_LIST = 20  # lines of a kind under the table
OF_THE_TABLE = {"name", "best", "status", "epochs", "n", "replicates", "test_looks", "difference", "p", "p_value"}


class Column:
    """A column of the table: functions of a Row that give what stands in it.

    Args:
        name: what stands above it.
        kind: "name", "status", "number", "hyperparameter", "metric", or "detail", a metric for the csv file alone.
        value: as it is.
        text: for people; None: the value, short.
        exact: what the csv file has in its place, a dict from name to function; None: the value, with every digit.
    """

    def __init__(self, name, kind, value, text=None, exact=None):
        self.name, self.kind, self.value = name, kind, value
        self.text = text or (lambda row: as_text(value(row)))
        self.exact = exact or {name: lambda row: plain(value(row))}


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
        self.hyperparameters = varying(rows, without=REPLICATED if folded else ())
        metrics = dict.fromkeys(name for row in rows for name in row.metrics)
        self.all_metrics = sorted(metrics, key=lambda name: name.startswith("test_"))  # stable: else as written
        self.has_replicates = any(row.replicates for row in rows)
        self.has_looks = any(row.looks is not None for row in rows)
        having = (row for row in rows if row.status == "finished" and math.isfinite(row.metrics.get(metric, math.nan)))
        self.best = next(having, None)
        self.columns = [
            Column(
                "name",
                "name",
                lambda row: row.name,
                lambda row: row.name + " *" * (row is self.best),
                {"name": lambda row: row.name, "best": lambda row: "*" * (row is self.best)},
            ),
            Column("status", "status", lambda row: row.status),
            Column("epochs", "number", lambda row: row.epochs),
        ]
        if self.has_replicates:
            counts = {"n": lambda row: row.counts[0], "replicates": lambda row: row.counts[1]}
            self.columns.append(Column("n", "number", how_many, exact=counts))
        self.columns += map(self._hyperparameter, self.hyperparameters)
        self.columns += map(self._metric, self.all_metrics)
        if self.has_looks:
            self.columns.append(Column("test_looks", "number", lambda row: row.looks))
        if baseline:
            self.columns += [
                Column(
                    "difference", "number", lambda row: row.difference, lambda row: four_digits(row.difference, "+")
                ),
                Column("p", "number", lambda row: row.p_value, p_value, {"p_value": lambda row: row.p_value}),
            ]

    def _hyperparameter(self, name):
        taken = name in OF_THE_TABLE or name in self.all_metrics
        return Column(f"params.{name}" if taken else name, "hyperparameter", lambda row: row.params.get(name))

    def _metric(self, name):
        def text(row):
            width = row.half_widths.get(name)
            return four_digits(row.metrics.get(name)) + ("" if width is None else f" ± {width:.4f}")

        exact = {name: lambda row: row.metrics.get(name)}
        if any(name in row.half_widths for row in self.rows):
            exact[f"{name}_ci95"] = lambda row: row.half_widths.get(name)
        is_detail = "/" in name and name != self.metric  # `f1/person`
        return Column(name, "detail" if is_detail else "metric", lambda row: row.metrics.get(name), text, exact)

    def as_pipe(self, longest=None):
        """CS230's pipe table of the first `longest` rows (None: of all)."""
        return self._as_table("pipe", longest, lambda text: text.replace("|", "\\|"))

    def as_latex(self):
        """A tabular for a document that has the package booktabs."""
        return self._as_table("latex_booktabs").replace("±", r"$\pm$") + "\n"

    def _as_table(self, style, longest=None, escape=str):
        columns = [column for column in self.columns if column.kind != "detail"]
        headers = [escape(printable(column.name)) for column in columns]
        rows = [[escape(printable(column.text(row))) for column in columns] for row in self.rows[:longest]]
        sides = ["right" if self._is_numeric(column) else "left" for column in columns]
        return tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=sides)

    def _is_numeric(self, column):
        if column.kind == "hyperparameter":
            return all(isinstance(column.value(row), int | float | None) for row in self.rows)
        return column.kind not in ("name", "status")

    def as_csv(self):
        """All rows with every digit, as the text of a csv file."""
        columns = [column for part in self.columns for column in part.exact.items()]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([printable(name) for name, _ in columns])
        writer.writerows([value(row) for _, value in columns] for row in self.rows)
        return text.getvalue()

    def below(self, longest=LONGEST_LIST):
        """What stands under the table, a list of lines, with at most `longest` of a kind."""
        rows = [one for row in self.rows for one in row.replicates or [row]]
        counts = Counter(row.status for row in rows)
        statuses = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
        best = f"; sorted by {self.metric}, * is the best that is finished" if self.best else ""
        lines = [f"{len(rows):,} experiment{'s' * (len(rows) != 1)}: {statuses or 'none is trained'}{best}"]
        if self.has_replicates:
            lines.append(
                "±: 95% confidence interval of the mean over n finished replicates, by Student's t "
                "(folds of a cross-validation: corrected for the overlap of their training sets)"
            )
        lines += ["test_looks: how often evaluate.py has looked at the test split"] * self.has_looks
        lines += capped(self.notes, longest)
        for kind in ("failed", "pruned"):
            of_kind = [f"{row.name}: {row.why or 'it does not say why'}" for row in rows if row.status == kind]
            lines += listed(kind.capitalize(), of_kind, longest)
        lines += listed("Left out", self.results.left_out, longest)
        return lines + listed("Not as it should be", self.results.notes, longest)


def listed(title, lines, longest):
    """Lines under a title, none where there are none."""
    return [f"{title}:", *(f"- {line}" for line in capped(lines, longest))] if lines else []


def capped(lines, longest):
    """The first lines, and how many more there are, each a single line."""
    more = [f"... and {len(lines) - longest:,} more"] if len(lines) > longest else []
    return [one_line(line, 300) for line in lines[:longest]] + more


def how_many(row):
    """How many replicates a row has; `2/3` where some of them are not finished."""
    finished, count = row.counts
    return count if finished == count else f"{finished}/{count}"


def p_value(row):
    """The p-value of a row with four digits."""
    return "<0.0001" if row.p_value is not None and row.p_value < 0.0001 else four_digits(row.p_value)


def as_text(value):
    """A value of a hyperparameter, short: "-" where it is missing."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(plain(value))


def plain(value):
    """A value of a hyperparameter with all that is in it, for csv."""
    return value if value is None or type(value) in (int, float, str) else json.dumps(value)
