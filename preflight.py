"""Check an experiment before its first long run, in about a minute. The experiment itself is not changed.

python preflight.py --model_dir experiments/base_model

Prints one line per check. Exit code 1 means that a check failed. Writes preflight.json and learning_rate_range.png into
the experiment's folder.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.provenance import name_of_device
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, set_up
from toolkit.preflight.checks import CHECKS, run_checks
from toolkit.preflight.experiment import Experiment
from toolkit.preflight.learning_rate_range import plot_range_test
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
        raise UserError("preflight.py uses a single process; start it with python, not with torchrun")
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device)
    experiment, results, width = Experiment(task, params, data_dir), [], max(map(len, CHECKS))
    place, device = task.path_of(task.net), name_of_device(params.device)
    logging.info("Checking %s with %s on the data in %s, on %s\n", args.model_dir, place, data_dir, device)
    for result in run_checks(experiment):
        print(MARKS[result["ok"]], result["check"].ljust(width), result["message"], flush=True)
        results.append(result)
    if experiment.range_test:
        picture = plot_range_test(experiment.range_test, params.learning_rate)
        utils.write_whole(Path(args.model_dir) / "learning_rate_range.png", picture)
    utils.write_whole(Path(args.model_dir) / "preflight.json", json.dumps(results, indent=4) + "\n")
    failed = sum(result["ok"] is False for result in results)
    summary = f"{failed} checks failed" if failed else "No check failed"
    logging.info("\n%s; %.0f seconds", summary, sum(result["seconds"] for result in results))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
