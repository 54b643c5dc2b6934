"""Prove that an experiment resumes exactly, or that its record reproduces its results.

python verify.py --model_dir experiments/base_model        # a killed and resumed run equals an uninterrupted one
python verify.py --reproduce experiments/base_model        # train again as recorded in run.json, and compare
torchrun --nproc_per_node=2 verify.py --reproduce experiments/on_two_gpus    # for a run of two processes

Neither changes the results of the experiment. A failed proof ends with exit code 2 and names the likely cause.
"""

import argparse

import utils
from toolkit.core import processes
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments
from toolkit.verify.reproduce import reproduce
from toolkit.verify.verify_resume import verify_resume
from train import train_experiment
from utils import UserError


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--reproduce", metavar="EXPERIMENT", help="train this experiment again as recorded and compare")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if args.reproduce:
        reproduce(args.reproduce, args.data_dir, args.device, train_experiment)
    elif processes.launched_by_torchrun():
        raise UserError("verify.py proves resuming with a single process; use torchrun only with --reproduce")
    else:
        verify_resume(args.model_dir, args.data_dir, args.device)


if __name__ == "__main__":
    run_script(main)
