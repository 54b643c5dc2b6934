"""Search hyperparameters: train many experiments, as many at a time as there are devices, and find the best.

python search_hyperparams.py                                                     # experiments/learning_rate
python search_hyperparams.py --parent_dir experiments/my_sweep --trials 50 --pruner asha
python search_hyperparams.py --parent_dir experiments/my_sweep --seeds 3         # each configuration with three seeds
python search_hyperparams.py --parent_dir experiments/my_sweep --folds 5         # or cross-validated

The sweep's folder has a params.json, what all trials share, and a search_space.json, what they differ in:
{"learning_rate": {"low": 1e-4, "high": 1e-1, "log": true}, "num_channels": [16, 32, 64]}

The same command again goes on where it was stopped, on the same machine or with others at the same time.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

import utils
from toolkit.core.script import add_quiet_argument, run_script
from toolkit.core.tools import find_classic_helper
from toolkit.sweep.pool import start_importing
from utils import UserError

DEFAULT_TRIALS = 20  # of a space that is not a grid


def __getattr__(name):  # launch_training_job, for scripts written for CS230's template
    return find_classic_helper(__name__, name)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parent_dir", default="experiments/learning_rate", help="the sweep's folder")
    parser.add_argument("--data_dir", help="the dataset's folder; by default data/ and the params' `dataset`")
    parser.add_argument(
        "--method",
        choices=["grid", "random", "tpe"],
        help="how configurations are chosen (default: grid where all are lists, else tpe)",
    )
    parser.add_argument(
        "--trials",
        type=number(1),
        metavar="N",
        help=f"number of configurations (default: all of a grid's, else {DEFAULT_TRIALS})",
    )
    parser.add_argument("--seeds", type=number(1), default=1, metavar="K", help="train each with K seeds")
    parser.add_argument("--folds", type=int, default=0, metavar="K", help="cross-validate each with K folds")
    parser.add_argument(
        "--pruner",
        choices=["asha", "median", "none"],
        default="none",
        help="stop trials that are far behind the others (default: none)",
    )
    parser.add_argument("--jobs", type=number(1), metavar="N", help="trials at a time (default: one a device)")
    parser.add_argument(
        "--gpus_per_trial",
        type=number(1),
        default=1,
        metavar="N",
        help="train each trial on so many devices (default: 1)",
    )
    parser.add_argument("--devices", help="0,1,2,3 or cpu (default: every GPU, else the cores of the CPU)")
    parser.add_argument(
        "--retries",
        type=number(0),
        default=2,
        metavar="N",
        help="how often a trial whose process died is gone on with (default: 2)",
    )
    parser.add_argument(
        "--storage", metavar="URL", help="a database for several machines: postgresql://... (default: a file there)"
    )
    add_quiet_argument(parser)
    return parser.parse_args(argv)


def number(least):
    """What reads a number of things, `least` or more, from the command line."""

    def read(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"is {text}, should be {least} or more")
        return int(text)

    return read


def choose_devices(names, jobs, per_trial=1):
    """Where trials run.

    Args:
        names: the devices, as "0,1,2,3" or "cpu"; None: every GPU, else the CPU.
        jobs: how many trials at a time; None: as many as there are GPUs, or cores of the CPU, for.
        per_trial: how many devices each takes.

    Returns:
        (devices, threads): a list of the names of its devices for each worker, and how many CPU threads each has.

    Raises:
        UserError: there is no such device, or there are too few.
    """
    import torch

    from toolkit.core.setup import choose_device

    gpus = torch.cuda.device_count()  # not asked for by using them, which takes memory
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if names is None:
        names = ",".join(map(str, range(gpus))) if gpus else choose_device().type
    devices = [f"cuda:{name}" if name.isdecimal() else name for name in names.split(",")]
    for device in devices:
        if device not in [f"cuda:{number}" for number in range(gpus)]:
            choose_device(device)
    devices = devices * per_trial if devices == ["cpu"] else devices
    groups = [devices[first : first + per_trial] for first in range(0, len(devices) - per_trial + 1, per_trial)]
    if not groups:
        raise UserError(f"--gpus_per_trial {per_trial}: there are {len(devices)}: {', '.join(devices)}")
    workers = jobs or (max(1, cores // per_trial) if devices[0] == "cpu" else len(groups))
    threads = min(torch.get_num_threads(), max(1, cores // (workers * per_trial)))  # the former may be OMP_NUM_THREADS
    return [groups[number % len(groups)] for number in range(workers)], threads


def check(args, params, task, space):
    """Refuse what cannot be searched.

    Raises:
        UserError: that.
    """
    if args.seeds > 1 and "seed" in space.dimensions:
        raise UserError(f"--seeds {args.seeds}: {space.source} searches seed already; leave one of the two off")
    if args.folds < 0 or args.folds == 1:
        raise UserError(f"--folds is {args.folds}, should be 2 or more")
    if args.folds and not {"num_folds", "fold"} <= task.hyperparameters.model_fields.keys():
        raise UserError(
            f"--folds: {task.path_of(task.data_loader)} does not declare num_folds and fold; the template's does, "
            f"and cuts the data with toolkit/core/folds.py"
        )


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    parent = Path(args.parent_dir)
    if not (parent / "params.json").is_file():
        raise UserError(f"{parent / 'params.json'}: no such file; it holds what all trials of a sweep share")
    start_importing()  # what workers need, in the background
    from toolkit.core.monitor import monitored
    from toolkit.core.setup import refuse_misspelled, set_up
    from toolkit.core.smoke_test import smoke_test
    from toolkit.sweep.space import read_space
    from toolkit.sweep.storage import reaching
    from toolkit.sweep.study import Study
    from toolkit.sweep.sweep import Sweep

    devices, threads = choose_devices(args.devices, args.jobs, args.gpus_per_trial)
    task, params, data_dir = set_up(parent, args.data_dir, "cpu")
    space = read_space(parent, params, task)
    check(args, params, task, space)
    results = ["loss", *task.metrics]
    unknown = params.unread.keys() - params.defaults.keys() - space.dimensions.keys()
    if unknown or (params.monitor or "accuracy") not in results:  # a part of the loss, or of a metric, perhaps
        dataloaders, model = task.fetch_dataloader(["val"], data_dir, params), task.make_model(params)
        task.make_optimizer(model, params)  # which may read keys of its own
        results = smoke_test(model, task.loss_fn(params), dataloaders, task.metrics, params)
        refuse_misspelled(params, known=space.dimensions)
    metric, mode = monitored(params, results)
    method = args.method or ("grid" if space.is_grid else "tpe")
    trials = args.trials or (None if space.is_grid and method != "tpe" else DEFAULT_TRIALS)
    study = Study(
        parent,
        space,
        params,
        metric,
        mode,
        method=method,
        trials=trials,
        seeds=args.seeds,
        folds=args.folds,
        pruner=args.pruner,
        storage=args.storage,
    )
    replicates = f" × {study.replicates} of each" if study.replicates > 1 else ""
    logging.info(
        "%s: %d configurations%s, by %s; %d at a time, on %s",
        parent,
        study.configurations,
        replicates,
        method,
        len(devices),
        ", ".join(dict.fromkeys("+".join(group) for group in devices)),
    )

    with reaching(args.storage):
        counts, best = Sweep(study, task, args.data_dir, devices, threads, args.retries).run()
    logging.info("%s", ", ".join(f"{number} {state}" for state, number in counts.items() if number))
    if best is not None:
        value, name = best
        mean = f"mean {metric}" if study.replicates > 1 else metric
        logging.info("Best %s on val: %.4f, %s", mean, value, parent / name)
    logging.info("Next: %s", shlex.join(["python", "synthesize_results.py", "--parent_dir", args.parent_dir]))
    if counts["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
