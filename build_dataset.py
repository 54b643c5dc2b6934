"""Make a dataset: data/<name>/{train,val,test}/<class>/<image>.png, and beside it dataset.json with what it is.

    python build_dataset.py                                          # the bundled digits, to data/digits
    python build_dataset.py folder photos --image_size 64            # your own images, to data/photos
    python build_dataset.py folder SIGNS --name signs                # CS230's hand signs, as they are downloaded
    python build_dataset.py fashion_mnist                            # or mnist, cifar10: downloaded
    python build_dataset.py --audit data/photos                      # copies, odd images, balance, contact sheets

A folder of your own has a subfolder for each class (cat/1.jpg, dog/2.png), or names that begin with the label
(0_IMG_5864.jpg), and may be split already (train*/, val*/ or dev*/, test*/). What is not split is split 80/10/10.
Then name the dataset in params.json: "dataset": "<name>".
"""

import argparse
import json
import logging
from pathlib import Path

from tabulate import tabulate

import utils
from toolkit.core.image_dataset import SPLITS
from toolkit.core.script import run_script
from toolkit.datasets.audit import report, say
from toolkit.datasets.audit_images import audit_build, audit_images
from toolkit.datasets.builder import build
from toolkit.datasets.folders import add_build_arguments, target_of
from toolkit.datasets.sources import digits, folder, torchvision_set
from utils import UserError

DATA = Path("data")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["digits", "folder", "mnist", "fashion_mnist", "cifar10"]
    parser.add_argument("source", nargs="?", default="digits", choices=kinds, help="where the images come from")
    parser.add_argument("path", nargs="?", help="with `folder`: the folder of your images")
    parser.add_argument("--image_size", type=int, nargs="+", metavar="N", help="one number, or H W (default: 64)")
    parser.add_argument("--raw_dir", default=DATA / "raw", help="mnist, ...: the published files (default: data/raw)")
    parser.add_argument("--skip_corrupt", action="store_true", help="leave out images that cannot be decoded")
    parser.add_argument("--drop_duplicates", action="store_true", help="leave out of train what is in val or test too")
    parser.add_argument("--audit", type=Path, metavar="DATASET", help="build nothing, look into a folder under data/")
    add_build_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if args.audit:
        report(args.audit, *audit_images(args.audit))
        return
    if args.source == "folder" and args.path is None:
        raise UserError("`folder` needs the folder of your images: python build_dataset.py folder <path>")
    if args.source != "folder" and args.path is not None:
        raise UserError(f"{args.path}: only `folder` takes a path")
    if args.image_size and (len(args.image_size) > 2 or min(args.image_size) < 1):
        raise UserError("--image_size: one number above 0, or two: height and width")
    target = target_of(args, DATA, Path(args.path).resolve().name if args.path else args.source)
    if args.source == "digits":
        source = digits()
    elif args.source == "folder":
        source = folder(args.path)
    else:
        source = torchvision_set(args.source, args.raw_dir)
    size = (args.image_size * 2)[:2] if args.image_size else None  # one number is both
    facts = build(
        source,
        target,
        seed=args.seed,
        image_size=size,
        force=args.force,
        skip_corrupt=args.skip_corrupt,
        drop_duplicates=args.drop_duplicates,
    )
    if facts:
        describe(facts, target)
        say(audit_build(target, facts), "build_dataset.py", target)


def describe(facts, target):
    """Print what the dataset is."""
    rows = [[label, *(facts["counts"][split][label] for split in SPLITS)] for label in facts["class_names"]]
    rows.append(["all", *(sum(facts["counts"][split].values()) for split in SPLITS)])
    print(tabulate(rows, headers=["class", *SPLITS], tablefmt="pipe"))
    kind = {1: "grey", 3: "RGB"}[facts["image_channels"]]
    logging.info("\n%s: %s images of %d×%d pixels", target, kind, facts["image_height"], facts["image_width"])
    print(f'To train on it: "dataset": {json.dumps(target.name)} in params.json')


if __name__ == "__main__":
    run_script(main)
