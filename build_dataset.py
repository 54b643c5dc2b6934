"""Build an image dataset: data/<name>/{train,val,test}/<class>/<image>.png, and dataset.json, which describes it.

    python build_dataset.py                                          # the bundled digits, in data/digits
    python build_dataset.py folder photos --image_size 64            # your own images, in data/photos
    python build_dataset.py folder SIGNS --name signs                # CS230's hand signs, as downloaded
    python build_dataset.py fashion_mnist                            # or mnist, cifar10: downloaded
    python build_dataset.py --audit data/photos                      # duplicates, odd images, balance, contact sheets

Put the images of each class into a subfolder (cat/1.jpg, dog/2.png), or begin file names with the label
(0_IMG_5864.jpg). If there are folders for splits (train*/, val*/ or dev*/, test*/), these splits are used; otherwise
the images are split 80/10/10. Then name the dataset in params.json: "dataset": "<name>".
"""

import argparse
import json
import logging
from pathlib import Path

import utils
from toolkit.core.image_dataset import SPLITS
from toolkit.core.script import run_script
from toolkit.core.task import find_model
from toolkit.core.text import pipe_table
from toolkit.datasets.audit_images import audit_build, audit_images
from toolkit.datasets.builder import build
from toolkit.datasets.dataset_folder import add_build_arguments, target_folder
from toolkit.datasets.findings import log_findings, write_findings
from toolkit.datasets.sources import TORCHVISION_SETS, digits, folder, torchvision_set
from utils import UserError

KINDS = ["digits", "folder", *TORCHVISION_SETS]


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="digits", metavar="|".join(KINDS), help="where images come from")
    parser.add_argument("path", nargs="?", help="with `folder`: the folder of your images")
    parser.add_argument("--image_size", type=int, nargs="+", metavar="N", help="one number, or H W (default: 64)")
    parser.add_argument("--raw_dir", help="published files of mnist, ... (default: data/raw)")
    parser.add_argument("--skip_corrupt", action="store_true", help="leave out images that cannot be decoded")
    parser.add_argument("--drop_duplicates", action="store_true", help="remove from train what is also in val or test")
    parser.add_argument("--audit", type=Path, metavar="DATASET", help="audit this folder instead of building one")
    add_build_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if args.audit:
        write_findings(args.audit, *audit_images(args.audit))
        return
    if args.source not in KINDS:
        cure = f"for images of your own: python build_dataset.py folder {args.source}"
        raise UserError(f"{args.source}: give one of {', '.join(KINDS)}; {cure}")
    if (args.source == "folder") != (args.path is not None):
        raise UserError("`folder`, and only `folder`, needs the path of your images: build_dataset.py folder <path>")
    size = (args.image_size * 2)[:2] if args.image_size else None  # [64] becomes [64, 64]
    if size and (len(args.image_size) > 2 or min(size) < 1):
        raise UserError(f"--image_size {args.image_size}: give one number above 0, or two: height and width")
    data = find_model(Path.cwd()).parent / "data"  # where train.py looks
    target = target_folder(args, data, Path(args.path).resolve().name if args.path else args.source)
    if args.source == "digits":
        source = digits()
    else:
        source = folder(args.path) if args.path else torchvision_set(args.source, args.raw_dir or data / "raw")
    options = {name: getattr(args, name) for name in ("seed", "force", "skip_corrupt", "drop_duplicates")}
    facts = build(source, target, image_size=size, **options)
    if facts:
        print_counts(facts, target)
        log_findings(audit_build(target, facts), "build_dataset.py", target)


def print_counts(facts, target):
    """Print the number of images for each class and split, and how to train on them."""
    counts = facts["counts"]
    rows = [{"class": label} | {split: counts[split][label] for split in SPLITS} for label in facts["class_names"]]
    print(pipe_table([*rows, {"class": "all"} | {split: sum(counts[split].values()) for split in SPLITS}]))
    kind = {1: "grey", 3: "RGB"}[facts["image_channels"]]
    logging.info("\n%s: %s images of %d×%d pixels", target, kind, facts["image_height"], facts["image_width"])
    print(f'To train on it, set "dataset": {json.dumps(target.name)} in params.json')


if __name__ == "__main__":
    run_script(main)
