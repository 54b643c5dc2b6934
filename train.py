"""Train a model. An experiment is a folder with a params.json in it; all its results are written there.

python train.py                                                  # the same as --model_dir experiments/base_model
python train.py --model_dir experiments/wide --from experiments/base_model num_channels=64 learning_rate=3e-4
python train.py --list_params                                    # the keys that params.json can have
torchrun --nproc_per_node=4 train.py --model_dir experiments/wide # on four GPUs
The same command again resumes a run that was interrupted; --restart starts over.
"""

import argparse
import logging
import shlex
from pathlib import Path

import utils
from evaluate import evaluate
from toolkit.core import processes
from toolkit.core.experiment_folder import starts_new_run
from toolkit.core.forward_pass import autocast, forward_pass
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.monitor import warn_if_no_better_than_most_frequent_class
from toolkit.core.params_schema import params_table
from toolkit.core.run import Run
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, parse_overrides, refuse_misspelled, set_up
from toolkit.core.smoke_test import smoke_test
from toolkit.core.task import find_task
from toolkit.core.totals import Totals
from utils import UserError


def train(model, optimizer, loss_fn, dataloader, metrics, params, *, run=None):
    """Train for one epoch.

    Args:
        model: the network, an nn.Module.
        optimizer: a torch.optim.Optimizer of its parameters.
        loss_fn: function of (outputs, labels) of a batch that returns a scalar tensor.
        dataloader: the training data, batches of (inputs, labels).
        metrics: dict from name to a function of all outputs and labels of the epoch.
        params: hyperparameters.
        run: the Run that this epoch belongs to, which may resume in the middle of it. Without one, nothing is saved.

    Returns:
        dict from name to float: "loss" and the metrics over all samples, each with the weights that its step had.
    """
    model.train()
    run = run or Run(model, optimizer, params)
    updates, ddp_model = run.updates, run.updates.ddp_model  # the DDP wrapper, with several processes
    precision, totals = autocast(params, model), Totals("training", metrics, len(dataloader), params, optimizer)

    for step in run.steps(dataloader, totals):  # those that are still to be done, if the run was interrupted
        optimizer.zero_grad()
        for inputs, labels, num_samples in step.batches():  # a single batch, unless accumulation_steps is set
            step.seed()  # dropout is a function of (seed, epoch, batch)
            outputs, loss = forward_pass(ddp_model, loss_fn, inputs, labels, precision)
            step.backward(loss, num_samples)
            totals.update(outputs, labels, loss, num_samples)
        step.average_gradients()
        step.clip_gradients()
        step.set_learning_rate()
        updates.scaler.step(optimizer)  # optimizer.step(), unless gradients of fp16 are infinite
        updates.scaler.update()
        updates.average.update(step.number + 1)  # the moving average of the weights, if ema_decay is set
        run.count(step)
        run.checkpoint_if_due()
        run.stop_if_requested()  # by Ctrl-C, a job scheduler or max_steps
    return totals.compute()


def train_and_evaluate(
    model,
    train_dataloader,
    val_dataloader,
    optimizer,
    loss_fn,
    metrics,
    params,
    model_dir,
    restore_file=None,
    **options,
):
    """Train for `params.num_epochs` epochs and evaluate after each. A run that was interrupted is resumed.

    Args:
        model, train_dataloader, val_dataloader, optimizer, loss_fn, metrics, params: as for `train`.
        model_dir: the experiment's folder, for all results.
        restore_file: a checkpoint whose weights a new run starts with: a path, or a name in the folder ("best").
        options: further options of `Run`, such as restart, max_steps, and stateful for a schedule of your own.

    Raises:
        UserError: the loss became NaN, or the run in the folder has another model, other data or hyperparameters.
    """
    with (
        Run(model, optimizer, params, model_dir, restore_file=restore_file, **options) as run,
        memory_errors_in_a_line(params),
    ):
        for epoch in run.epochs():
            train_metrics = train(model, optimizer, loss_fn, train_dataloader, metrics, params, run=run)
            with run.evaluation():
                val_metrics = evaluate(model, loss_fn, val_dataloader, metrics, params)
            run.record(epoch, train_metrics, val_metrics)
        warn_if_no_better_than_most_frequent_class(run.state.best, val_dataloader, params)


def train_experiment(task, params, data_dir, model_dir, restore_file=None, *, terminal=True, **options):
    """Train the experiment in a folder, from its data to its results.

    Args:
        task, params, data_dir: as `set_up` returns them.
        model_dir, restore_file, options: as for `train_and_evaluate`.
        terminal: bool, log to the terminal, too, besides train.log.
    """
    utils.set_seed(params.seed)
    dataloaders = processes.local_rank_zero_first(lambda: task.fetch_dataloader(["train", "val"], data_dir, params))
    utils.set_seed(params.seed)  # again, so that the weights do not depend on what the loaders drew
    model = task.make_model(params)
    if starts_new_run(model_dir, restore_file, **options):
        processes.local_rank_zero_first(lambda: task.load_pretrained(model, params))  # if net.py has this function
    model = processes.prepare_model(model, params)
    optimizer = task.make_optimizer(model, params)
    loss_fn = task.loss_fn(params)
    smoke_test(model, loss_fn, dataloaders, task.metrics, params)  # nothing is written before this has passed
    refuse_misspelled(params)

    utils.set_logger(Path(model_dir) / "train.log", terminal)
    loaders, options = (dataloaders["train"], dataloaders["val"]), {"stateful": loss_fn.stateful, **options}
    train_and_evaluate(model, *loaders, optimizer, loss_fn, task.metrics, params, model_dir, restore_file, **options)


def parse_arguments(argv):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    add_common_arguments(parser)
    parser.add_argument("--restore_file", help="checkpoint whose weights a new run starts with: best, last, or a path")
    parser.add_argument("--partial", action="store_true", help="load only the weights of --restore_file that fit")
    parser.add_argument("--restart", action="store_true", help="start over; earlier results are moved aside")
    parser.add_argument("--accept_code_changes", action="store_true", help="resume although model/ has changed since")
    parser.add_argument("--max_steps", type=int, metavar="N", help="stop, as Ctrl-C does, after N steps in all")
    parser.add_argument("--from", dest="params_from", metavar="EXPERIMENT", help="copy the params.json of EXPERIMENT")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --from: values that differ from it")
    parser.add_argument("--list_params", action="store_true", help="print the hyperparameters, and exit")
    args = parser.parse_intermixed_args(argv)
    if args.overrides and not args.params_from:
        raise UserError(f"values on the command line need --from: --model_dir NEW --from {args.model_dir} key=value")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    if args.list_params:
        print(params_table(find_task(args.model_dir).hyperparameters))
        return
    utils.set_logger(quiet=args.quiet)
    overrides = parse_overrides(args.overrides)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device, args.params_from, overrides)
    restart = args.restart and not processes.restarted_by_torchrun()  # which starts it again with the same arguments
    options = {name: getattr(args, name) for name in ("partial", "accept_code_changes", "max_steps")}
    with memory_errors_in_a_line(params):
        train_experiment(task, params, data_dir, args.model_dir, args.restore_file, restart=restart, **options)
    if (Path(args.model_dir) / "best.pth.tar").exists():
        data = ["--data_dir", args.data_dir] if args.data_dir else []
        logging.info("Next: %s", shlex.join(["python", "evaluate.py", "--model_dir", args.model_dir, *data]))


if __name__ == "__main__":
    run_script(main)
