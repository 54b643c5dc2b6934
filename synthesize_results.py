"""Tabulate the results of experiments, one row per experiment, best first, with the hyperparameters that vary.

python synthesize_results.py                                          # everything below experiments/
python synthesize_results.py --parent_dir experiments/learning_rate   # the trials of a sweep
python synthesize_results.py --no_fold                                # one row for each seed and fold
python synthesize_results.py --metric test_accuracy                   # sort by another metric
python synthesize_results.py --baseline base_model                    # which differences are larger than chance?
python synthesize_results.py --parent_dir experiments/learning_rate --html     # also write a page for the browser
python synthesize_results.py --parent_dir experiments/learning_rate --watch    # refresh during a sweep, until Ctrl-C

Writes results.md, results.csv, results.tex and the pictures in results.png to that folder; with --html also
results.html, a single file that opens in any browser and needs no network.
"""

import argparse
import contextlib
import logging
import math
import os
import sys
import time
from pathlib import Path

import utils
from toolkit.core.lock import remove_leftovers
from toolkit.core.script import add_quiet_argument, run_script
from toolkit.core.tools import find_classic_helper
from toolkit.results.comparison import choose_metric, compare, merge_replicates, rank
from toolkit.results.rows import read_results
from toolkit.results.tables import LONGEST_ON_TERMINAL, ResultsTable
from utils import UserError

SECONDS_BETWEEN_PICTURES = 60  # with --watch


def __getattr__(name):  # aggregate_metrics and metrics_to_table, for scripts written for CS230's template
    return find_classic_helper(__name__, name)


def make_table(parent_dir, metric=None, mode=None, baseline=None, no_fold=False):
    """Return the ResultsTable of the experiments below a folder; UserError if it, the metric or baseline is missing."""
    results = read_results(parent_dir)
    metric, mode, notes = choose_metric(results.rows, metric, mode)
    rows, more_notes = (results.rows, []) if no_fold else merge_replicates(results.rows)
    notes += more_notes
    if baseline is not None:
        notes += compare(rows, baseline, metric)
    ranked = rank(rows, metric, mode)
    return ResultsTable(ranked, results, metric, mode, notes, merged=not no_fold, compared=baseline is not None)


def show(table, parent_dir):
    """Print the table, only its best rows if it is long, and the lines below it."""
    if table.rows:
        print(table.as_pipe(LONGEST_ON_TERMINAL))
    if len(table.rows) > LONGEST_ON_TERMINAL:
        print(f"\n... and {len(table.rows) - LONGEST_ON_TERMINAL:,} more rows, in {Path(parent_dir, 'results.md')}")
    print("", *table.below(), sep="\n", flush=True)


def write(table, parent_dir, pictures, html):
    """Write the files and log their names."""
    folder = Path(parent_dir)
    remove_leftovers(folder)
    markdown = table.as_pipe() + "\n\n" + "\n".join(table.below(longest=1000)) + "\n"
    files = {"results.md": markdown, "results.csv": table.as_csv(), "results.tex": table.as_latex()}
    if pictures and table.metric is not None:
        from toolkit.results.pictures import plot_results

        files["results.png"] = plot_results(table)
    if html:
        from toolkit.results.page import make_page

        files["results.html"], left_out = make_page(table, parent_dir)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")  # odd file names
        utils.write_whole(folder / name, content)
    logging.info("\nWritten: %s", ", ".join(str(folder / name) for name in files))
    if html:
        missing = f"; left out because of its size: {'; '.join(left_out)}" if left_out else ""
        logging.info("results.html has %.1f MB%s", len(files["results.html"]) / 1e6, missing)


def watch(args, options):
    """Show the table again whenever it changes, and write the files, until Ctrl-C."""
    before, drawn_at = None, -math.inf
    while True:
        try:
            table = make_table(args.parent_dir, **options)
            content = table.as_csv() + "\n".join(table.below())
        except UserError as error:
            if not os.path.isdir(args.parent_dir):
                raise
            table, content = None, f"{error} (so far)"  # the metric or the baseline may still appear
        if content != before:
            before = content
            if sys.stdout.isatty():
                print("\033[H\033[J", end="")  # clear the terminal
            if table is None:
                print(content, flush=True)
            else:
                show(table, args.parent_dir)
            if table is not None and table.rows:
                running = any(row.status == "running" for row in table.results.rows)
                due = not running or time.monotonic() - drawn_at >= SECONDS_BETWEEN_PICTURES
                drawn_at = time.monotonic() if due else drawn_at
                write(table, args.parent_dir, due and not args.no_plots, due and args.html)
        time.sleep(args.watch)


def parse_arguments(argv):
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    add = parser.add_argument
    add("--parent_dir", default="experiments", help="folder that contains the experiments, at any depth")
    add("--metric", help="metric to sort by (default: the one that selected the best checkpoints)")
    add("--mode", choices=["max", "min"], help="direction in which --metric is better")
    add("--no_fold", action="store_true", help="do not merge replicates (seeds, folds) into means")
    add("--baseline", metavar="NAME", help="name of the row to compare all others with")
    add("--no_plots", action="store_true", help="do not draw results.png")
    add("--html", action="store_true", help="also write results.html, a page for the browser")
    add("--watch", type=float, nargs="?", const=5, metavar="SECONDS", help="refresh until Ctrl-C")
    add_quiet_argument(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    options = {"metric": args.metric, "mode": args.mode, "baseline": args.baseline, "no_fold": args.no_fold}
    if args.watch is not None:
        if not 0 < args.watch < 1e6:
            raise UserError(f"--watch {args.watch:g}: give a number of seconds above 0, such as 5")
        with contextlib.suppress(KeyboardInterrupt):
            watch(args, options)
        return
    table = make_table(args.parent_dir, **options)
    show(table, args.parent_dir)
    if not table.rows:
        raise UserError(f"{args.parent_dir}: no trained experiment; train one with python train.py --model_dir ...")
    write(table, args.parent_dir, not args.no_plots, args.html)


if __name__ == "__main__":
    run_script(main)
