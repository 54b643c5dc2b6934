"""Evaluate a checkpoint of an experiment on a split of its dataset.

python evaluate.py --model_dir experiments/base_model                      # the best checkpoint on test
python evaluate.py --model_dir experiments/base_model --split val --restore_file last

It prints the metrics with 95% confidence intervals, and the scores of each class; in the experiment's folder are then
each prediction (predictions_test.csv) and pictures: what is taken for what, the surest mistakes.
"""

import argparse
import logging
from pathlib import Path

import toolkit  # noqa: F401  # isort: skip (before torch, for which it sets how threads wait)

import torch

import utils
from toolkit import parallel
from toolkit.batches import batches_on_device
from toolkit.cli import add_common_arguments, set_up
from toolkit.experiment import check_same_data, find_checkpoint, name_of, version_of
from toolkit.memory import memory_errors_in_a_line
from toolkit.precision import precision_of
from toolkit.provenance import name_of_device
from toolkit.restore import restore_loss
from toolkit.script import run_script
from toolkit.tally import Tally
from utils import UserError


@torch.inference_mode()
def evaluate(model, loss_fn, dataloader, metrics, params):
    """Evaluate a model on a split.

    Args:
        model: the network, an nn.Module.
        loss_fn: function of (outputs, labels) of a batch that gives a scalar tensor.
        dataloader: the split, batches of (inputs, labels).
        metrics: dict from name to a function of all outputs and labels of the split.
        params: hyperparameters.

    Returns:
        dict from name to float: "loss", the mean over all samples, and the metrics.
    """
    model.eval()
    precision = precision_of(params, model)
    tally = Tally("evaluation", metrics, dataloader, params)
    for inputs, labels in batches_on_device(dataloader, model, tally=tally, seed=params.seed):
        with precision:
            outputs = model(inputs)
            loss = loss_fn(outputs, labels)
        tally.update(outputs, labels, loss)
    return tally.compute()


def tables_of(split, results, intervals):
    """The results as a table, in text; those with a slash in their name, `f1/person`, as one of their own below it."""
    from toolkit.tables import pipe_table

    cells = {name: f"{value:.4f}" for name, value in results.items()}
    cells |= {name: f"{cells[name]} [{low:.4f}, {high:.4f}]" for name, (low, high) in intervals.items()}
    main = {name: cell for name, cell in cells.items() if "/" not in name}
    details = {}
    for name in [name for name in results if name not in main]:
        metric, _, part = name.partition("/")
        details.setdefault(part, {"of": part})[metric] = cells[name]
    tables = [[{"split": split} | main], list(details.values())]
    return "\n\n".join(pipe_table(table) for table in tables if table)


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
    from toolkit.report import Report  # here, as train.py, which starts without, imports `evaluate` from this file
    from toolkit.report_files import count_look, write_report
    from toolkit.report_samples import Collector

    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    task, params, data_dir = set_up(args.model_dir, args.data_dir, args.device)
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    version = version_of(checkpoint)
    state = utils.read_checkpoint(checkpoint)
    way_out = "--other_data allows other samples of the same kind"
    same = check_same_data(state.get("dataset"), params, checkpoint, way_out, args.other_data)
    other = "" if same else f"_on_{data_dir.name}"
    utils.set_seed(params.seed)
    dataloader = parallel.in_turn(lambda: task.fetch_dataloader([args.split], data_dir, params))[args.split]
    model = parallel.prepared(task.make_model(params), params)
    utils.load_weights(state, checkpoint, model)
    loss_fn = task.loss_fn(params)
    restore_loss(state, checkpoint, loss_fn)

    logging.info("Evaluating %s (epoch %s) on the %s split of %s, on %s\n", checkpoint, state.get("epoch"),
                 args.split, data_dir, name_of_device(params.device))  # fmt: skip
    utils.set_seed(params.seed)  # as train.py does before it evaluates
    collected = Collector()  # the outputs and labels, for the report
    with memory_errors_in_a_line(params):
        results = evaluate(model, loss_fn, dataloader, task.metrics | {"(report)": collected}, params)

    if not parallel.is_main():
        return
    report = Report(collected, dataloader, results, task.metrics, loss_fn, params)
    folder, name = Path(args.model_dir), name_of(checkpoint, args.model_dir)
    source = checkpoint.name if checkpoint.name.startswith(name) else str(checkpoint)  # of another experiment
    about = {"checkpoint": source, "epoch": state.get("epoch")}
    path = folder / f"metrics_{args.split}_{name}{other}.json"
    utils.save_dict_to_json(results, path)
    looks = count_look(folder, source, data_dir.name) if args.split == "test" and same else 0
    files = write_report(report, folder, args.split + other, dataloader, params.seed, **about)
    if version_of(checkpoint) != version:  # by a training that goes on meanwhile
        for file in [path, *(folder / file for file in files)]:
            file.unlink(missing_ok=True)
        raise UserError(
            f"{checkpoint}: was replaced while it was evaluated, nothing is kept of that; evaluate it again"
        )
    print(tables_of(args.split, results, report.intervals))
    print("", *report.lines(), sep="\n")
    if looks:
        print(f"The test split was looked at {looks} time{'s' * (looks != 1)} with this experiment.")
    logging.info("\nWritten to %s", ", ".join([str(path), *files]))


if __name__ == "__main__":
    run_script(main)
