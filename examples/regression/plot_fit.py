"""Draw the predictions of a checkpoint and the data, as fit.png in the experiment's folder.

python examples/regression/plot_fit.py --model_dir examples/regression/experiments/base_model

With one input: the fitted curve and the points. With several: the predictions over the true values.
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent / "../.."))  # the repository, for utils and toolkit
import utils
from toolkit.core.curves import png
from toolkit.core.experiment_folder import check_same_data, find_checkpoint
from toolkit.core.script import run_script
from toolkit.core.setup import set_up

COLORS = {"train": "tab:gray", "test": "tab:orange"}


def draw(model, splits, params, metrics):
    """Return the picture of a fit as the bytes of a PNG file.

    Args:
        model: the network.
        splits: dict from "train" and "test" to (inputs, labels), float (N, num_inputs) and (N,).
        params: the facts `input_names`, `target_name` and `num_inputs`.
        metrics: dict from name to function; the legend shows "rmse" and "r2".
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for split, (inputs, labels) in splits.items():
        outputs = model(inputs)
        rmse, r2 = (metrics[name](outputs.numpy(), labels.numpy()) for name in ("rmse", "r2"))
        x, y = (inputs[:, 0], labels) if params.num_inputs == 1 else (labels, outputs)
        axes.plot(x, y, ".", color=COLORS[split], label=f"{split}: RMSE {rmse:.3g}, R² {r2:.3f}")
    every_input, every_label = (torch.cat(parts) for parts in zip(*splits.values(), strict=True))
    if params.num_inputs == 1:
        x = torch.linspace(every_input.min(), every_input.max(), 500, dtype=every_input.dtype)
        axes.plot(x, model(x.unsqueeze(1)), color="tab:blue", label="the fit")
        axes.set(xlabel=params.input_names[0], ylabel=params.target_name)
    else:
        ends = [every_label.min(), every_label.max()]
        axes.plot(ends, ends, color="tab:blue", label="perfect prediction")
        axes.set(xlabel=f"{params.target_name}, true", ylabel=f"{params.target_name}, predicted")
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)


@torch.inference_mode()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", required=True, help="experiment folder, with a params.json")
    parser.add_argument("--data_dir", help="dataset folder (default: data/<dataset>, as in params.json)")
    parser.add_argument("--restore_file", default="best", help="the checkpoint: best (default), last, or a path")
    args = parser.parse_args(argv)
    utils.set_logger()
    task, params, data_dir = set_up(args.model_dir, args.data_dir, "cpu")
    checkpoint = find_checkpoint(args.model_dir, args.restore_file)
    state = utils.read_checkpoint(checkpoint)
    check_same_data(state.get("dataset"), params, checkpoint, "give that dataset with --data_dir")
    model = task.make_model(params).eval()
    utils.load_weights(state, checkpoint, model)
    loaders = task.fetch_dataloader(["train", "test"], data_dir, params)
    splits = {split: loader.dataset.tensors for split, loader in loaders.items()}
    path = Path(args.model_dir) / "fit.png"
    utils.write_whole(path, draw(model, splits, params, task.metrics))
    logging.info("Written to %s", path)


if __name__ == "__main__":
    run_script(main)
