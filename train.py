"""Train a model. An experiment is a folder with a params.json in it; all results are kept there.

python train.py                                                  # experiments/base_model
python train.py --model_dir experiments/base_model
python train.py --model_dir experiments/wide --from experiments/base_model num_channels=64 learning_rate=3e-4
python train.py --list_params                                    # what params.json can hold
torchrun --nproc_per_node=4 train.py --model_dir experiments/wide # on four GPUs
"""

import argparse
import logging
import shlex
from pathlib import Path

import utils
from evaluate import evaluate
from toolkit.core import processes
from toolkit.core.device_batches import batches_on_device
from toolkit.core.experiment_folder import starts_new_run
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.optimizer_steps import Steps
from toolkit.core.params_schema import params_table
from toolkit.core.precision import autocast
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
        loss_fn: function of (outputs, labels) of a batch that gives a scalar tensor.
        dataloader: the training data, batches of (inputs, labels).
        metrics: dict from name to a function of all outputs and labels of the epoch.
        params: hyperparameters.
        run: the run that this epoch is part of, which may be in the middle of it (after `run.state.batches_done`
            batches), and saves on the way.

    Returns:
        dict from name to float: "loss" and the metrics, over all samples of the epoch, each as the model was when it
        saw that sample (in training mode: with dropout and augmentation).
    """
    model.train()
    precision = autocast(params, model)
    tally = Totals("training", metrics, dataloader, params, optimizer)
    steps = run.steps if run is not None else Steps(model, optimizer, params)  # the optimizer's, as params asks for
    model = steps.trained  # the same model; of several processes, with what brings their gradients together
    for inputs, labels in batches_on_device(dataloader, model, steps, tally):
        with precision:
            outputs = model(inputs)  # forward
            loss = loss_fn(outputs, labels)

        steps.zero_grad()  # clear the gradients of the step before
        steps.scaled(loss).backward()  # compute those of this one
        steps.step()  # update the weights

        tally.update(outputs, labels, loss)
    return tally.compute()


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
    """Train for `params.num_epochs` epochs and evaluate after each; a run that was interrupted goes on where it was.

    Args:
        model, optimizer, loss_fn, metrics, params: as for `train`.
        train_dataloader, val_dataloader: training and validation data.
        model_dir: the experiment's folder, where everything is kept.
        restore_file: a checkpoint whose weights a new run begins with: its path, or its name in the folder ("best").
        options: further ones of `Run`: restart, partial, max_steps, report, and stateful: what else is to be saved, a
            schedule for one.

    Raises:
        UserError: the loss became NaN, or the run in the folder is of another model, other data or hyperparameters.
    """
    with Run(model, optimizer, params, model_dir, restore_file, **options) as run, memory_errors_in_a_line(params):
        for epoch in run.epochs():
            train_metrics = train(model, optimizer, loss_fn, train_dataloader, metrics, params, run=run)
            with run.averaged_weights():  # as they are, without "ema_decay" in params.json
                val_metrics = evaluate(model, loss_fn, val_dataloader, metrics, params)
            run.record(epoch, train_metrics, val_metrics)


def train_experiment(task, params, data_dir, model_dir, restore_file=None, *, terminal=True, **options):
    """Train what an experiment's folder describes, from its data to its results.

    Args:
        task, params, data_dir: as `set_up` gives them.
        model_dir, restore_file, options: as for `train_and_evaluate`.
        terminal: whether to log to the terminal besides train.log.
    """
    utils.set_seed(params.seed)
    dataloaders = processes.local_rank_zero_first(lambda: task.fetch_dataloader(["train", "val"], data_dir, params))
    utils.set_seed(params.seed)  # again, so that the weights do not depend on what the loaders drew
    model = task.make_model(params)
    if starts_new_run(model_dir, restore_file, **options):
        processes.local_rank_zero_first(
            lambda: task.load_pretrained(model, params)
        )  # where net.py has a function of that name
    model = processes.prepare_model(model, params)  # for several processes
    optimizer = task.make_optimizer(model, params)
    loss_fn = task.loss_fn(params)
    smoke_test(model, loss_fn, dataloaders, task.metrics, params)  # what does not fit together is said now
    refuse_misspelled(params)

    utils.set_logger(Path(model_dir) / "train.log", terminal)  # nothing was written to the experiment so far
    train_and_evaluate(
        model,
        dataloaders["train"],
        dataloaders["val"],
        optimizer,
        loss_fn,
        task.metrics,
        params,
        model_dir,
        restore_file,
        stateful=loss_fn.stateful,  # a loss may have weights of its own
        **options,
    )


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_common_arguments(parser)
    parser.add_argument("--restore_file", help="begin with the weights of this checkpoint: best, last, or a path")
    parser.add_argument("--partial", action="store_true", help="of --restore_file, take the weights that fit")
    parser.add_argument("--restart", action="store_true", help="begin anew; earlier results are moved aside")
    parser.add_argument("--max_steps", type=int, metavar="N", help="stop, as Ctrl-C does, when N steps are done in all")
    parser.add_argument("--from", dest="params_from", metavar="EXPERIMENT", help="take the params.json of another one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --from: values that differ from it")
    parser.add_argument("--list_params", action="store_true", help="print the hyperparameters, and do nothing else")
    args = parser.parse_intermixed_args(argv)
    if args.max_steps is not None and args.max_steps < 1:
        raise UserError(f"--max_steps is {args.max_steps}, should be 1 or more")
    if args.partial and not args.restore_file:
        raise UserError("--partial is of the checkpoint that --restore_file names; name one")
    if args.overrides and not args.params_from:
        raise UserError(f"{args.overrides[0]}: values on the command line need --from <experiment>")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    if args.list_params:
        print(params_table(find_task(args.model_dir).hyperparameters))
        return
    utils.set_logger(quiet=args.quiet)
    overrides = parse_overrides(args.overrides)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device, args.params_from, overrides)
    with memory_errors_in_a_line(params):
        train_experiment(
            task,
            params,
            data_dir,
            args.model_dir,
            args.restore_file,
            restart=args.restart and not processes.restarted_by_torchrun(),  # by torchrun, with the same arguments
            partial=args.partial,
            max_steps=args.max_steps,
        )
    if (Path(args.model_dir) / "best.pth.tar").exists():
        data = ["--data_dir", args.data_dir] if args.data_dir else []
        logging.info("Next: %s", shlex.join(["python", "evaluate.py", "--model_dir", args.model_dir, *data]))


if __name__ == "__main__":
    run_script(main)
