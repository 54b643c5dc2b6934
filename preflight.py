"""Check an experiment before its first long run: a line for each check, in a minute; the experiment stays as it is.

python preflight.py --model_dir experiments/base_model

Ends with code 1 where a check failed. Writes preflight.json and learning_rate_range.png into the experiment's folder.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import toolkit.core  # noqa: F401  # isort: skip (before torch, for which it sets how threads wait)

import utils
from toolkit.core import processes
from toolkit.core.provenance import name_of_device
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, set_up
from toolkit.preflight.checks import CHECKS, run_checks
from toolkit.preflight.rehearsal import Rehearsal, plot_range_test
from utils import UserError

MARKS = {True: "✓", False: "✗", None: "–"}  # passed, failed, does not apply


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if processes.launched_by_torchrun():
        raise UserError("preflight.py is of one process; start it with python, not with torchrun")
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device)
    rehearsal, results, width = Rehearsal(task, params, data_dir), [], max(map(len, CHECKS))
    logging.info(
        "Checking %s with %s on the data in %s, on %s\n",
        args.model_dir,
        task.path_of(task.net),
        data_dir,
        name_of_device(params.device),
    )
    for result in run_checks(rehearsal):
        print(MARKS[result["ok"]], result["check"].ljust(width), result["message"], flush=True)
        results.append(result)
    if rehearsal.range_test:
        picture = plot_range_test(rehearsal.range_test, params.learning_rate)
        utils.write_whole(Path(args.model_dir) / "learning_rate_range.png", picture)
    utils.write_whole(Path(args.model_dir) / "preflight.json", json.dumps(results, indent=4) + "\n")
    failed = sum(result["ok"] is False for result in results)
    logging.info(
        "\n%s in %.0f seconds",
        f"{failed} failed" if failed else "All is well",
        sum(result["seconds"] for result in results),
    )
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
