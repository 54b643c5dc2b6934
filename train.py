"""Train a model. An experiment is a folder with a params.json in it; all results are kept there.

python train.py                                                  # experiments/base_model
python train.py --model_dir experiments/base_model
python train.py --model_dir experiments/wide --from experiments/base_model num_channels=64 learning_rate=3e-4
python train.py --model_dir experiments/wide --verify_resume      # would it go on exactly where a crash left it?
python train.py --reproduce experiments/wide                      # does its record give the same numbers again?
python train.py --list_params                                    # what params.json can hold
torchrun --nproc_per_node=4 train.py --model_dir experiments/wide # on four GPUs
"""

import argparse
import logging
import shlex
from pathlib import Path

import utils
from evaluate import evaluate
from toolkit import parallel
from toolkit.batches import batches_on_device
from toolkit.cli import add_common_arguments, parse_overrides, set_up
from toolkit.declared import params_table
from toolkit.experiment import has_run
from toolkit.memory import memory_errors_in_a_line
from toolkit.monitor import monitored
from toolkit.precision import precision_of
from toolkit.run import Run
from toolkit.script import run_script
from toolkit.steps import Steps
from toolkit.tally import Tally
from toolkit.task import find_task
from toolkit.trial import try_one_batch
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
    precision = precision_of(params, model)
    tally = Tally("training", metrics, dataloader, params, optimizer)
    steps = run.steps if run is not None else Steps(model, optimizer, params)  # the optimizer's, as params asks for
    model = steps.trained  # of several processes, the model with those of the others
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
    dataloaders = parallel.in_turn(lambda: task.fetch_dataloader(["train", "val"], data_dir, params))
    utils.set_seed(params.seed)  # again, so that the weights do not depend on what the loaders drew
    model = task.make_model(params)
    begins = restore_file is None and (options.get("restart") or not parallel.on_main(lambda: has_run(model_dir)))
    if begins or options.get("partial"):
        parallel.in_turn(lambda: task.load_pretrained(model, params))
    model = parallel.prepared(model, params)
    optimizer = task.make_optimizer(model, params)
    loss_fn = task.loss_fn(params)
    monitored(params, try_one_batch(model, loss_fn, dataloaders, task.metrics, params))

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
        stateful={"loss": loss_fn.module} if loss_fn.module is not None else {},
        **options,
    )


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)  # fmt: skip
    add_common_arguments(parser)
    parser.add_argument("--restore_file", help="begin with the weights of this checkpoint: best, last, or a path")
    parser.add_argument("--partial", action="store_true", help="of --restore_file, take the weights that fit")
    parser.add_argument("--restart", action="store_true", help="begin anew; earlier results are moved aside")
    parser.add_argument("--max_steps", type=int, metavar="N", help="stop, as Ctrl-C does, when N steps are done in all")
    parser.add_argument("--verify_resume", action="store_true", help="prove that this experiment resumes exactly")
    parser.add_argument("--reproduce", metavar="EXPERIMENT", help="run it again as recorded, and compare the numbers")
    parser.add_argument("--from", dest="params_from", metavar="EXPERIMENT", help="take the params.json of another one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="with --from: values that differ from it")
    parser.add_argument("--list_params", action="store_true", help="print the hyperparameters, and do nothing else")
    return parser.parse_intermixed_args(argv)


def prove(args):
    """What --verify_resume and --reproduce do; `args`: the command line."""
    others = [args.params_from, args.restore_file, args.restart, args.partial, args.max_steps is not None]
    if any(others) or args.overrides or (args.verify_resume and args.reproduce):
        raise UserError(
            "--verify_resume and --reproduce are of an experiment as it is: with --data_dir, --device alone"
        )
    if args.verify_resume:
        from toolkit.verify import verify_resume

        verify_resume(*set_up(args.model_dir, args.data_dir, args.device), args.model_dir)
        return
    from toolkit.reproduce import Record

    record = Record(args.reproduce)
    task, params, data_dir = set_up(
        record.fresh, args.data_dir or record.data_dir, args.device or record.device, record.folder, record.overrides()
    )
    same = record.check(params)
    train_experiment(task, params, data_dir, record.fresh, **record.options)
    parallel.on_main(lambda: record.compare(*same))


def main(argv=None):
    args = parse_arguments(argv)
    if args.list_params:
        print(params_table(find_task(args.model_dir).hyperparameters))
        return
    utils.set_logger(quiet=args.quiet)
    if args.verify_resume or args.reproduce:
        return prove(args)
    if args.max_steps is not None and args.max_steps < 1:
        raise UserError(f"--max_steps is {args.max_steps}, should be 1 or more")
    if args.partial and not args.restore_file:
        raise UserError("--partial is of the checkpoint that --restore_file names; name one")
    if args.overrides and not args.params_from:
        raise UserError(f"{args.overrides[0]}: values on the command line need --from <experiment>")
    overrides = parse_overrides(args.overrides)
    experiment = set_up(args.model_dir, args.data_dir, args.device, args.params_from, overrides)
    with memory_errors_in_a_line(params=experiment[1]):
        train_experiment(
            *experiment,
            args.model_dir,
            args.restore_file,
            restart=args.restart and not parallel.was_restarted(),
            partial=args.partial,
            max_steps=args.max_steps,
        )
    data = ["--data_dir", args.data_dir] if args.data_dir else []
    if (Path(args.model_dir) / "best.pth.tar").exists():
        logging.info("Next: %s", shlex.join(["python", "evaluate.py", "--model_dir", args.model_dir, *data]))


if __name__ == "__main__":
    run_script(main)
