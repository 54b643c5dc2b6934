"""The task: the `model/` package of an experiment, checked against the contract that the scripts rely on."""

import copy
import functools
import importlib
import importlib.util
import multiprocessing
import os
import sys
import types
from pathlib import Path

import torch

import utils
from toolkit.core import processes
from toolkit.core.image_dataset import SPLITS
from toolkit.core.loss import Loss
from toolkit.core.metrics import is_streaming
from toolkit.core.optimizers import optimizer_of, refuse_closure, without_compiler
from toolkit.core.resumable_batches import UnpackedBatches
from toolkit.core.tools import find_tool
from toolkit.core.trees import describe
from toolkit.core.user_code import check_call, place_of, place_of_definition
from utils import UserError

ROOT = Path(__file__).resolve().parents[2]
MODEL_FOLDER = "TRAINING_MODEL_FOLDER"  # environment variable that tells worker processes which model/ is in use


class Task:
    """The model and data that an experiment trains: `net.py` and `data_loader.py` of one `model/` folder.

    Attributes:
        folder: Path of the `model/` folder.
        project: the folder above it, where `data/` and `experiments/` are.
        Net: called with params, returns an `nn.Module`.
        metrics: dict from name to `fn(outputs, labels) -> float`, or to an object with update, compute and reset.
        declared: the pydantic models of the keys of params.json that the two files declare.
        hyperparameters: one pydantic model of all declared keys.
        split_names: dict from "train", "val" or "test" to its name in data_loader.py, where the two differ.
        read_items, describe: functions for predict.py, or None; see docs/your_own_task.md.

    Raises:
        UserError: net.py or data_loader.py breaks the contract.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.project = self.folder.parent
        for name in ("net.py", "data_loader.py"):
            if not (self.folder / name).is_file():
                raise UserError(f"{utils.relative(self.folder / name)}: is missing; a model/ folder needs it")
        self.net, self.data_loader = (import_own(self.folder, name) for name in ("net", "data_loader"))
        self.Net = self._need(self.net, "Net", "Net(params)")
        self._loss_fn = self._need(self.net, "loss_fn", "loss_fn(outputs, labels)", "loss_fn(outputs, labels, params)")
        self._fetch = self._find_fetch_dataloader()
        self.metrics = self._find_metrics()
        self.split_names = self._find_split_names()
        self.read_items, self.describe = (getattr(self.data_loader, name, None) for name in ("read_items", "describe"))
        self.declared = tuple(self._find_hyperparameters(module) for module in (self.data_loader, self.net))
        self.hyperparameters = utils.combined(*self.declared)

    def path_of(self, module):
        """Return the path of a module's file as the user would write it."""
        return utils.relative(module.__file__)

    def _need(self, module, name, *calls):
        """Return a function of net.py or data_loader.py; UserError if it cannot be called as one of `calls`."""
        found = getattr(module, name, None)
        if not callable(found):
            what = f"{name} is {type(found).__name__}" if hasattr(module, name) else f"there is no {name}"
            kind = "class or function" if name == "Net" else "function"
            raise UserError(f"{self.path_of(module)}: {what}, but train.py needs a {kind} {calls[0]}")
        check_call(found, *calls)
        return found

    def _find_metrics(self):
        metrics = getattr(self.net, "metrics", None)
        if not isinstance(metrics, dict):
            what = f"metrics is {type(metrics).__name__}" if hasattr(self.net, "metrics") else "there is no metrics"
            raise UserError(f"{self.path_of(self.net)}: {what}, but train.py needs a dict from name to function")
        for name, metric in metrics.items():
            if name == "loss":
                raise UserError(f"{self.path_of(self.net)}: a metric cannot be called loss; rename it")
            if not callable(metric) and not is_streaming(metric):
                raise UserError(
                    f"{self.path_of(self.net)}: metrics[{name!r}] is {type(metric).__name__}, but should be a function "
                    f"of (outputs, labels), or an object with update, compute and reset"
                )
            if not is_streaming(metric):
                call = f"metrics[{name!r}](outputs, labels)"
                check_call(metric, call, f"{call[:-1]}, params)")
        return metrics

    def _find_fetch_dataloader(self):
        """Return `fetch_dataloader` of data_loader.py, or for a text project in CS230's form a function like it."""
        loader_class, iterators = getattr(self.data_loader, "DataLoader", None), find_tool("cs230.data_iterators")
        if not hasattr(self.data_loader, "fetch_dataloader") and hasattr(loader_class, "data_iterator") and iterators:
            return functools.partial(iterators.fetch_from_iterators, loader_class, self.path_of(self.data_loader))
        return self._need(self.data_loader, "fetch_dataloader", "fetch_dataloader(types, data_dir, params)")

    def _find_split_names(self):
        names = getattr(self.data_loader, "split_names", {})
        is_dict = isinstance(names, dict)
        if not is_dict or not names.keys() <= set(SPLITS) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(
                f"{self.path_of(self.data_loader)}: split_names is {names!r}, but should be a dict from train, val or "
                f'test to the name in data_loader.py: {{"val": "dev"}}'
            )
        return names

    def _find_hyperparameters(self, module):
        declared = getattr(module, "Hyperparameters", utils.Hyperparameters)
        if not isinstance(declared, type) or not issubclass(declared, utils.Hyperparameters):
            raise UserError(f"{self.path_of(module)}: Hyperparameters should be a subclass of utils.Hyperparameters")
        return declared

    def read_params(self, json_path, overrides=None):
        """Return the Params of a params.json, with all keys that the task declares."""
        return utils.Params(json_path, declared=self.declared, overrides=overrides)

    def make_model(self, params):
        """Return `Net(params)` on `params.device`; if it is no nn.Module, raise UserError."""
        model = self.Net(params)
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"{self.path_of(self.net)}: Net(params) returned {type(model).__name__}, not an nn.Module")
        if params.compile:
            model.compile()  # in place, so that its weights keep their names
        is_sharded = params.parallel == "fsdp" and processes.world_size() > 1  # then it is moved block by block later
        return model if is_sharded else model.to(params.device)

    def make_optimizer(self, model, params):
        """Return what `make_optimizer` of net.py returns if there is one, else what `params.optimizer` names."""
        without_compiler()
        if hasattr(self.net, "make_optimizer"):
            check_call(self.net.make_optimizer, "make_optimizer(model, params)")
            optimizer = self.net.make_optimizer(model, params)
            if not isinstance(optimizer, torch.optim.Optimizer):
                found = f"make_optimizer(model, params) returned {type(optimizer).__name__}"
                raise UserError(f"{self.path_of(self.net)}: {found}, not a torch.optim.Optimizer")
            refuse_closure(optimizer, self.path_of(self.net))
            return optimizer
        return optimizer_of(model, params)

    def load_pretrained(self, model, params):
        """Give the model of a new run its initial weights, with `load_pretrained(model, params)` of net.py if any."""
        if hasattr(self.net, "load_pretrained"):
            self.net.load_pretrained(model, params)

    def loss_fn(self, params):
        """Return the task's loss as a function of (outputs, labels): a new Loss for each run."""
        fn = self._loss_fn
        if isinstance(fn, torch.nn.Module):
            fn = copy.deepcopy(fn).to(params.device)  # what it learns belongs to one run
        return Loss(fn, params, place_of_definition(fn))

    def fetch_dataloader(self, types, data_dir, params):
        """Return the task's data loaders, a dict from each of `types` ("train", "val", "test") to one.

        Raises:
            UserError: `fetch_dataloader` of data_loader.py returns something else, or a split is missing or empty.
        """
        file = f"{self.path_of(self.data_loader)}: fetch_dataloader"
        names = {split: self.split_names.get(split, split) for split in types}
        try:
            found = self._fetch(list(names.values()), str(data_dir), params)
        except ValueError as error:
            if "num_samples" not in str(error):
                raise
            raise UserError(f"{place_of(error)}: a split has no samples; look for its files in {data_dir}") from None
        if not isinstance(found, dict):
            raise UserError(f"{file} should return a dict from split to DataLoader, not {describe(found)}")
        loaders, unpack = {}, getattr(self.net, "unpack_batch", None)
        for split, name in names.items():
            if name not in found:
                raise UserError(
                    f"{file} returned no {name!r}; it returned {sorted(found)}. If the split has another name, "
                    f'add this to the file: split_names = {{"{split}": "<name>"}}'
                )
            loader = found[name]
            if not hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
                raise UserError(f"{file} should return a DataLoader for {split!r}, not {describe(loader)}")
            try:
                is_empty = len(loader) == 0
            except TypeError as error:
                raise UserError(f"{file}: the loader of {split!r} has no length: {error}; add a __len__") from None
            if is_empty:
                raise UserError(f"{data_dir}: the {split} split has no batches")
            loaders[split] = UnpackedBatches(loader, unpack) if unpack else loader
        return loaders


def find_task(model_dir):
    """Return the Task of an experiment; see `find_model`."""
    return Task(find_model(model_dir))


def find_model(model_dir):
    """Return the nearest `model/` folder at or above an experiment's folder, else the repository's own."""
    start = Path(model_dir).resolve()
    for folder in [start, *start.parents]:
        if any((folder / "model" / name).is_file() for name in ("net.py", "data_loader.py")):
            return folder / "model"
    return ROOT / "model"


def import_own(folder, name):
    """Return a module of a model/ folder; what cannot be read or found in it is a UserError that names the line."""
    import_model_package(folder)
    try:
        return importlib.import_module(f"model.{name}")
    except SyntaxError as error:
        line = f": {error.text.strip()}" if error.text else ""
        raise UserError(f"{utils.relative(error.filename)}:{error.lineno}: {error.msg}{line}") from None
    except ImportError as error:
        if (place := place_of(error)) is None:
            raise
        advice = ""
        if isinstance(error, ModuleNotFoundError):
            beside = any((folder / path).exists() for path in (f"{error.name}.py", str(error.name)))
            advice = f"; write: from .{error.name} import ..." if beside else "; is it installed?"
        elif error.name == "utils":
            advice = "; this is the repository's utils.py: move functions of your own to a file in model/"
        raise UserError(f"{place}: {error}{advice}") from None


def import_model_package(folder):
    """Make `folder` the package `model`, in this process and in worker processes that it starts.

    The folder above it is appended to the path: the task's own modules are found, but never instead of the scripts'.
    """
    folder = Path(folder).resolve()
    current = sys.modules.get("model")
    if current is not None and Path(current.__path__[0]).resolve() == folder:
        return
    for name in [name for name in sys.modules if name == "model" or name.startswith("model.")]:
        del sys.modules[name]
    init = folder / "__init__.py"
    if init.exists():
        spec = importlib.util.spec_from_file_location("model", init, submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None
        sys.modules["model"] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    else:
        sys.modules["model"] = package = types.ModuleType("model")
        package.__path__ = [str(folder)]
    sys.path.append(str(folder.parent))
    os.environ[MODEL_FOLDER] = str(folder)


if getattr(multiprocessing.current_process(), "_inheriting", False) and MODEL_FOLDER in os.environ:
    import_model_package(os.environ[MODEL_FOLDER])  # a spawned worker, which looks the dataset's class up by its name
