"""Search hyperparameters: train many experiments, one at a time on each device, and find the best.

python search_hyperparams.py                                                     # experiments/learning_rate
python search_hyperparams.py --parent_dir experiments/my_sweep --trials 50 --pruner asha
python search_hyperparams.py --parent_dir experiments/my_sweep --seeds 3         # each configuration with three seeds
python search_hyperparams.py --parent_dir experiments/my_sweep --folds 5         # or with 5-fold cross-validation

The sweep's folder has a params.json, which all trials share, and a search_space.json with the values to try:
{"learning_rate": {"low": 1e-4, "high": 1e-1, "log": true}, "num_channels": [16, 32, 64]}

Run the same command again to resume, or on several machines to share the work.
"""

import argparse
import importlib.util
import logging
import os
import shlex
import sys
from pathlib import Path

import utils
from toolkit.core.script import add_quiet_argument, run_script
from toolkit.core.tools import find_classic_helper
from toolkit.sweep.trial_process import start_fork_server
from utils import UserError

DEFAULT_TRIALS = 20  # unless the space is a grid
OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # environment variables


def __getattr__(name):  # launch_training_job, for scripts written for CS230's template
    return find_classic_helper(__name__, name)


def parse_arguments(argv):
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    add = parser.add_argument
    add("--parent_dir", default="experiments/learning_rate", help="the sweep's folder")
    add("--data_dir", help="the dataset's folder; default: data/ and the `dataset` of params.json")
    add("--method", choices=["grid", "random", "tpe"], help="default: grid if all are lists of values, else tpe")
    add("--trials", type=int, metavar="N", help=f"number of configurations; default: the grid, or {DEFAULT_TRIALS}")
    add("--seeds", type=int, default=1, metavar="K", help="train each configuration with K seeds")
    add("--folds", type=int, default=0, metavar="K", help="cross-validate each configuration with K folds")
    add("--pruner", choices=["asha", "median", "none"], default="none", help="stop trials that are far behind")
    add("--jobs", type=int, metavar="N", help="trials at a time; default: one per device")
    add("--devices", help="0,1,2,3 or cpu; default: all GPUs, else all CPU cores")
    add("--retries", type=int, default=2, metavar="N", help="times a crashed trial is resumed; default: 2")
    add("--storage", metavar="URL", help="database for several machines, postgresql://...; default: a file")
    add("--accept_code_changes", action="store_true", help="resume trials although model/ has changed since")
    add_quiet_argument(parser)
    args = parser.parse_args(argv)
    for option, smallest in {"trials": 1, "seeds": 1, "jobs": 1, "retries": 0, "folds": 2}.items():
        value = getattr(args, option)
        if value is not None and value < smallest and (option, value) != ("folds", 0):  # 0: no cross-validation
            raise UserError(f"--{option} is {value}; give {smallest} or more")
    return args


def choose_devices(names, jobs):
    """Return (devices, threads): the device names, one for each trial at a time, and the CPU threads of a trial.

    `names` are devices, such as "0,1,2,3" or "cpu"; None: all GPUs, or the CPU if there are none. `jobs` is the number
    of trials at a time; None: one per GPU or CPU core. If there is no such device, a UserError is raised.
    """
    import torch

    from toolkit.core.setup import choose_device

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]  # counted without using their memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if names is None:
        devices = gpus or [choose_device().type]
    else:
        devices = [f"cuda:{name}" if name.isdecimal() else name for name in names.split(",")]
    for device in devices:
        if device not in gpus:
            choose_device(device)
    jobs = jobs or (cores if devices == ["cpu"] else len(devices))
    threads = min(torch.get_num_threads(), max(1, cores // jobs))  # get_num_threads() is OMP_NUM_THREADS if that is set
    return [devices[number % len(devices)] for number in range(jobs)], threads


def main(argv=None):
    args = parse_arguments(argv)
    for name in OF_TORCHRUN:  # left over by another job: a trial is always one process
        os.environ.pop(name, None)
    utils.set_logger(quiet=args.quiet)
    parent = Path(args.parent_dir)
    if parent.is_dir() and not (parent / "params.json").is_file():
        raise UserError(f"{parent / 'params.json'}: no such file; it holds what all trials of the sweep share")
    if importlib.util.find_spec("optuna") is None:
        raise UserError("sweeps need Optuna, which is not installed: pip install optuna")
    start_fork_server()
    from toolkit.core.monitor import monitored
    from toolkit.core.setup import refuse_misspelled, set_up
    from toolkit.core.smoke_test import smoke_test
    from toolkit.sweep.scheduler import Scheduler
    from toolkit.sweep.search_space import SearchSpace
    from toolkit.sweep.storage import storage_errors
    from toolkit.sweep.study import Study

    devices, threads = choose_devices(args.devices, args.jobs)
    task, params, data_dir = set_up(parent, args.data_dir, "cpu")
    space = SearchSpace(parent, params, task.hyperparameters)
    if args.seeds > 1 and "seed" in space.dimensions:
        raise UserError(f"--seeds {args.seeds}: {space.source} already searches seed; remove one of the two")
    if args.folds and not {"num_folds", "fold"} <= task.hyperparameters.model_fields.keys():
        raise UserError(
            f"--folds: {task.path_of(task.data_loader)} does not declare num_folds and fold; the template's does, "
            f"and divides the data with toolkit/core/folds.py"
        )
    results = ["loss", *task.metrics]
    unknown = params.unread.keys() - params.defaults.keys() - space.dimensions.keys()
    if unknown or (params.monitor or "accuracy") not in results:  # it may be one of several results of a loss or metric
        dataloaders, model = task.fetch_dataloader(["val"], data_dir, params), task.make_model(params)
        task.make_optimizer(model, params)  # which may read keys of its own
        results = smoke_test(model, task.loss_fn(params), dataloaders, task.metrics, params)
        refuse_misspelled(params, known=space.dimensions)
    metric, mode = monitored(params, results)
    args.method = args.method or ("grid" if space.is_grid else "tpe")
    if args.trials is None and not (space.is_grid and args.method != "tpe"):
        args.trials = DEFAULT_TRIALS
    study = Study(parent, space, params, metric, mode, args)
    replicates = f" × {study.replicates} of each" if study.replicates > 1 else ""
    logging.info("%s: %d configurations%s, by %s", parent, study.configurations, replicates, args.method)
    logging.info("%d at a time, on %s", len(devices), ", ".join(dict.fromkeys(devices)))
    with storage_errors(args.storage):
        counts, best = Scheduler(study, task, args.data_dir, devices, threads, args.retries).run()
    logging.info("%s", ", ".join(f"{number} {state}" for state, number in counts.items() if number))
    if best is not None:
        value, name = best
        mean = "mean " if study.replicates > 1 else ""
        logging.info("Best %s%s on val: %.4f, %s", mean, metric, value, parent / name)
    logging.info("Next: %s", shlex.join(["python", "synthesize_results.py", "--parent_dir", args.parent_dir]))
    if counts["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
