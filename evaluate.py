"""Evaluate a checkpoint of an experiment on a split of its dataset.

python evaluate.py --model_dir experiments/base_model                      # the best checkpoint on test
python evaluate.py --model_dir experiments/base_model --split val --restore_file last

It prints the metrics with 95% confidence intervals and the scores of each class. In the experiment's folder it writes
all predictions (predictions_test.csv), the confusion matrix, a reliability diagram and the most confident mistakes.
"""

import argparse
import functools
import logging
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.checkpoint import restore_loss
from toolkit.core.code_changes import refuse_changed_code
from toolkit.core.device_batches import device_batches
from toolkit.core.experiment_folder import check_same_data, check_same_split, find_checkpoint, name_of, version_of
from toolkit.core.forward_pass import autocast, forward_pass, inference_mode
from toolkit.core.lock import remove_leftovers
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.provenance import name_of_device
from toolkit.core.resumable_batches import resumable_batches
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, refuse_misspelled, set_up
from toolkit.core.sharded_tensors import divided_like
from toolkit.core.stop_signals import stop_if_requested
from toolkit.core.text import pipe_table
from toolkit.core.tools import find_tool
from toolkit.core.totals import Totals
from toolkit.core.weights import load_weights
from utils import UserError


@inference_mode()
def evaluate(model, loss_fn, dataloader, metrics, params):
    """Evaluate a model on a split.

    Args:
        model: the network, an nn.Module.
        loss_fn: function of (outputs, labels) of a batch that returns a scalar tensor.
        dataloader: the split, batches of (inputs, labels).
        metrics: dict from name to a function of all outputs and labels of the split.
        params: hyperparameters.

    Returns:
        dict from name to float: "loss", the mean over all samples, and the metrics.
    """
    model.eval()
    precision, totals = autocast(params, model), Totals("evaluation", metrics, len(dataloader), params)
    batches = resumable_batches(dataloader, params.seed).batches(epoch=0)  # random numbers depend on the seed alone
    for inputs, labels, num_samples, _ in device_batches(batches, model):
        outputs, loss = forward_pass(model, loss_fn, inputs, labels, precision)
        totals.update(outputs, labels, loss, num_samples)
        stop_if_requested()  # by Ctrl-C, if this is part of a training
    processes.reshard(model)
    return totals.compute()


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="which split (default: test)")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    parser.add_argument("--other_data", action="store_true", help="allow data that differs from the training dataset")
    parser.add_argument("--accept_code_changes", action="store_true", help="evaluate although model/ has changed since")
    return parser.parse_args(argv)


def main(argv=None):
    reporting = find_tool("evaluation_report.report_files")  # here, because train.py starts sooner without it
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device)
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    versions = [(file, version_of(file)) for file in (checkpoint, data_dir / "dataset.json")]
    state = utils.read_checkpoint(checkpoint)
    advice = "--other_data allows other samples of the same kind"
    is_same = check_same_data(state.get("dataset"), params, checkpoint, advice, args.other_data)

    utils.set_seed(params.seed)
    fetch = functools.partial(task.fetch_dataloader, [args.split], data_dir, params)
    loaders, read = params.keys_read_by(lambda: processes.local_rank_zero_first(fetch))
    is_same &= check_same_split(state.get("params"), params, read, checkpoint, args.other_data)
    dataloader = loaders[args.split]
    model = processes.prepare_model(task.make_model(params), params)
    load_weights(state, checkpoint, model, shard_like=divided_like)
    loss_fn = task.loss_fn(params)
    restore_loss(state, checkpoint, loss_fn)
    refuse_changed_code(state.get("code") or {}, params, checkpoint, args.accept_code_changes)
    split = f"the {args.split} split of {data_dir}, on {name_of_device(params.device)}"
    logging.info("Evaluating %s (epoch %s) on %s\n", checkpoint, state.get("epoch"), split)
    report = reporting.EvaluationReport(task.metrics, loss_fn, dataloader, params) if reporting else None
    with memory_errors_in_a_line(params):
        results = evaluate(model, loss_fn, dataloader, report.metrics if report else task.metrics, params)
    refuse_misspelled(params, known=state.get("params") or ())
    if not processes.is_rank_zero():
        return

    folder, name = Path(args.model_dir), name_of(checkpoint, args.model_dir)
    remove_leftovers(folder)
    suffix = "" if is_same else f"_on_{data_dir.name}"
    files = [folder / f"metrics_{args.split}_{name}{suffix}.json"]
    lines = [pipe_table([{"split": args.split} | results])]
    utils.save_dict_to_json(results, files[0])
    if report:
        source = checkpoint.name if checkpoint.name.startswith(name) else str(checkpoint)  # in another folder
        files += report.write(results, folder, args.split + suffix, {"checkpoint": source, "epoch": state.get("epoch")})
        lines = report.lines
        if args.split == "test" and is_same:
            lines.append(reporting.count_look(folder, source, data_dir.name))
    if replaced := [file for file, version in versions if version_of(file) != version]:  # train.py, build_dataset.py
        for file in files:
            file.unlink(missing_ok=True)
        raise UserError(f"{replaced[0]}: was replaced during the evaluation; evaluate again")
    print(*lines, sep="\n")
    logging.info("\nWritten to %s", ", ".join([str(files[0]), *(file.name for file in files[1:])]))


if __name__ == "__main__":
    run_script(main)
