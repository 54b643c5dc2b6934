"""Evaluate a checkpoint of an experiment on a split of its dataset.

python evaluate.py --model_dir experiments/base_model                      # the best checkpoint on test
python evaluate.py --model_dir experiments/base_model --split val --restore_file last

It prints the metrics with 95% confidence intervals, and the scores of each class; in the experiment's folder are then
each prediction (predictions_test.csv) and pictures: what is taken for what, the surest mistakes.
"""

import argparse
import logging
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.checkpoint import restore_loss
from toolkit.core.device_batches import batches_on_device
from toolkit.core.experiment_folder import check_same_data, find_checkpoint, name_of, version_of
from toolkit.core.forward_pass import forward_pass, inference_mode
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.provenance import name_of_device
from toolkit.core.resumable_batches import resumable_batches
from toolkit.core.script import run_script
from toolkit.core.setup import add_common_arguments, set_up
from toolkit.core.stop_signals import stop_if_requested
from toolkit.core.totals import Totals
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
    totals = Totals("evaluation", metrics, len(dataloader), params)
    batches = resumable_batches(dataloader, params.seed).batches(epoch=0)  # random numbers depend on the seed alone
    for inputs, labels, num_samples in batches_on_device(batches, model):
        outputs, loss = forward_pass(model, loss_fn, inputs, labels, params)
        totals.update(outputs, labels, loss, num_samples)
        stop_if_requested()  # by Ctrl-C, if this is part of a training
    processes.reshard(model)
    return totals.compute()


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="which split (default: test)")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    parser.add_argument(
        "--other_data", action="store_true", help="allow other samples than the dataset it was trained on has"
    )
    return parser.parse_args(argv)


def main(argv=None):
    # not above: train.py, which imports this file for `evaluate`, starts without what a report needs
    from toolkit.evaluation_report.collected_outputs import Collector
    from toolkit.evaluation_report.report import Report
    from toolkit.evaluation_report.report_files import count_look, write_report

    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device)
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    version = version_of(checkpoint)
    state = utils.read_checkpoint(checkpoint)
    way_out = "--other_data allows other samples of the same kind"
    is_same = check_same_data(state.get("dataset"), params, checkpoint, way_out, args.other_data)

    utils.set_seed(params.seed)
    dataloader = processes.local_rank_zero_first(lambda: task.fetch_dataloader([args.split], data_dir, params))[
        args.split
    ]
    model = processes.prepare_model(task.make_model(params), params)
    utils.load_weights(state, checkpoint, model)
    loss_fn = task.loss_fn(params)
    restore_loss(state, checkpoint, loss_fn)
    logging.info(
        "Evaluating %s (epoch %s) on the %s split of %s, on %s\n",
        checkpoint,
        state.get("epoch"),
        args.split,
        data_dir,
        name_of_device(params.device),
    )
    utils.set_seed(params.seed)  # as train.py does before it evaluates
    collector = Collector()  # of all outputs and labels, for the report
    with memory_errors_in_a_line(params):
        results = evaluate(model, loss_fn, dataloader, task.metrics | {"(report)": collector}, params)
    if not processes.is_rank_zero():
        return

    report = Report(collector, dataloader, results, task.metrics, loss_fn, params)
    folder, name = Path(args.model_dir), name_of(checkpoint, args.model_dir)
    source = checkpoint.name if checkpoint.name.startswith(name) else str(checkpoint)  # of another experiment
    data = "" if is_same else f"_on_{data_dir.name}"
    path = folder / f"metrics_{args.split}_{name}{data}.json"
    utils.save_dict_to_json(results, path)
    looks = count_look(folder, source, data_dir.name) if args.split == "test" and is_same else 0
    about = {"checkpoint": source, "epoch": state.get("epoch")}
    files = write_report(report, folder, args.split + data, dataloader, params.seed, **about)
    if version_of(checkpoint) != version:  # by a training that goes on meanwhile
        for file in [path, *(folder / file for file in files)]:
            file.unlink(missing_ok=True)
        raise UserError(
            f"{checkpoint}: was replaced while it was evaluated, nothing is kept of that; evaluate it again"
        )
    print(report.table(args.split), "", *report.lines(), sep="\n")
    if looks:
        print(f"The test split was looked at {looks} time{'s' * (looks != 1)} with this experiment.")
    logging.info("\nWritten to %s", ", ".join([str(path), *files]))


if __name__ == "__main__":
    run_script(main)
