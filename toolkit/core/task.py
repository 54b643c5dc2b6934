"""The task: the `model/` package that an experiment uses, checked against the contract that the scripts rely on."""

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
from toolkit.core.metrics import is_streaming, takes_params
from toolkit.core.optimizers import optimizer_of, without_compiler
from toolkit.core.resumable_batches import UnpackedBatches
from toolkit.core.trees import describe
from toolkit.cs230.data_iterators import fetch_from_iterators
from utils import UserError

MODEL_FOLDER = "TRAINING_MODEL_FOLDER"  # environment variable that tells worker processes which model/ is in use


class Task:
    """What an experiment trains: `net.py` and `data_loader.py` of one `model/` folder.

    Args:
        folder: the `model/` folder.

    Attributes:
        folder: its path.
        project: the folder above it, where `data/` and `experiments/` are.
        Net: called with params, gives an `nn.Module`.
        metrics: dict from name to `fn(outputs, labels) -> float`, or to an object with update, compute and reset.
        hyperparameters: pydantic model of the declared keys of params.json.
        read_items, describe: functions for predict.py, or None; see docs/your_own_task.md.

    Raises:
        UserError: net.py or data_loader.py lacks something of the contract.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.project = self.folder.parent
        for name in ("net.py", "data_loader.py"):
            if not (self.folder / name).is_file():
                raise UserError(f"{utils.relative(self.folder / name)}: is missing; a model/ folder needs it")
        import_model_package(self.folder)
        self.net = importlib.import_module("model.net")
        self.data_loader = importlib.import_module("model.data_loader")
        self.Net = self._need(self.net, "Net", callable, "a class or function Net(params)")
        self._loss_fn = self._need(self.net, "loss_fn", callable, "a function loss_fn(outputs, labels)")
        self.metrics = self._need(self.net, "metrics", is_dict, "a dict metrics, from name to function")
        own_class = getattr(self.data_loader, "DataLoader", None)
        if not hasattr(self.data_loader, "fetch_dataloader") and hasattr(own_class, "data_iterator"):
            self._fetch = functools.partial(fetch_from_iterators, own_class, self.path_of(self.data_loader))
        else:
            fetch = "a function fetch_dataloader(types, data_dir, params)"
            self._fetch = self._need(self.data_loader, "fetch_dataloader", callable, fetch)
        self.read_items, self.describe = (getattr(self.data_loader, name, None) for name in ("read_items", "describe"))
        self.split_names = getattr(self.data_loader, "split_names", {})
        names = self.split_names if is_dict(self.split_names) else {None: None}
        if not names.keys() <= set(SPLITS) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(
                f"{self.path_of(self.data_loader)}: split_names is {self.split_names!r}, but should be a dict from "
                f'train, val or test to the name there: {{"val": "dev"}}'
            )
        for name, metric in self.metrics.items():
            if name == "loss":
                raise UserError(f"{self.path_of(self.net)}: a metric cannot be called loss, which the loss itself is")
            if not callable(metric) and not is_streaming(metric):
                raise UserError(
                    f"{self.path_of(self.net)}: metrics[{name!r}] is {type(metric).__name__}, but should be a function "
                    f"of (outputs, labels), or an object with update, compute and reset"
                )
        self.hyperparameters = getattr(self.net, "Hyperparameters", utils.Hyperparameters)
        if not isinstance(self.hyperparameters, type) or not issubclass(self.hyperparameters, utils.Hyperparameters):
            raise UserError(f"{self.path_of(self.net)}: Hyperparameters should be a subclass of utils.Hyperparameters")

    def path_of(self, module):
        """The path of a module's file as the user would write it."""
        return utils.relative(module.__file__)

    def _need(self, module, name, fits, expected):
        found = getattr(module, name, None)
        if not fits(found):
            what = f"{name} is {type(found).__name__}" if hasattr(module, name) else f"there is no {name}"
            raise UserError(f"{self.path_of(module)}: {what}, but train.py needs {expected}")
        return found

    def code(self):
        """All source text of the task, to tell whether a name is used anywhere in it."""
        files = [*self.project.glob("*.py"), *self.folder.rglob("*.py")]
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def make_model(self, params):
        """`Net(params)` on `params.device`.

        Raises:
            UserError: Net does not return an nn.Module.
        """
        model = self.Net(params)
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"{self.path_of(self.net)}: Net(params) gave {type(model).__name__}, not an nn.Module")
        if params.compile:
            model.compile()  # in place: the names of its weights stay the same
        divides = params.parallel == "fsdp" and processes.world_size() > 1  # then `prepared` moves it, block by block
        return model if divides else model.to(params.device)

    def make_optimizer(self, model, params):
        """`make_optimizer(model, params)` of net.py where there is one, else what `params.optimizer` names."""
        without_compiler()
        if hasattr(self.net, "make_optimizer"):
            optimizer = self.net.make_optimizer(model, params)
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise UserError(
                    f"{self.path_of(self.net)}: make_optimizer(model, params) gave {type(optimizer).__name__}, "
                    f"not a torch.optim.Optimizer"
                )
            return optimizer
        return optimizer_of(model, params)

    def load_pretrained(self, model, params):
        """Give a model, in place, the weights to begin a new run with: `load_pretrained(model, params)` of net.py."""
        if hasattr(self.net, "load_pretrained"):
            self.net.load_pretrained(model, params)

    def loss_fn(self, params):
        """The task's loss as a function of (outputs, labels), a Loss of its own for each run."""
        fn = self._loss_fn
        if isinstance(fn, torch.nn.Module):
            fn = copy.deepcopy(fn).to(params.device)  # what it learns is of one run
        return Loss(fn, params, self.path_of(self.net))

    def fetch_dataloader(self, types, data_dir, params):
        """The task's data loaders, a dict from each of `types` ('train', 'val', 'test') to one.

        Raises:
            UserError: a split is missing from what `fetch_dataloader` of data_loader.py gives, or is empty.
        """
        file = self.path_of(self.data_loader)
        names = {split: self.split_names.get(split, split) for split in types}
        loaders = self._fetch(list(names.values()), str(data_dir), params)
        if not isinstance(loaders, dict):
            raise UserError(
                f"{file}: fetch_dataloader should give a dict from split to DataLoader, not {describe(loaders)}"
            )
        for split, name in names.items():
            if name not in loaders:
                raise UserError(
                    f"{file}: fetch_dataloader gave no {name!r}; it gave {sorted(loaders)}. Where a split has another "
                    f'name, say so there: split_names = {{"{split}": "<name>"}}'
                )
        loaders = {split: loaders[name] for split, name in names.items()}
        for split in types:
            if not hasattr(loaders[split], "__iter__") or not hasattr(loaders[split], "__len__"):
                found = describe(loaders[split])
                raise UserError(f"{file}: fetch_dataloader should give a DataLoader for {split!r}, not {found}")
            try:
                length = len(loaders[split])
            except TypeError as error:
                raise UserError(f"{file}: the loader of {split!r} has no length: {error}; give it a __len__") from None
            if not length:
                raise UserError(f"{data_dir}: the {split} split has no batches")
        unpack = getattr(self.net, "unpack_batch", None)
        return {split: UnpackedBatches(loader, unpack) if unpack else loader for split, loader in loaders.items()}


class Loss:
    """The loss of a task, called with (outputs, labels); gives a scalar tensor.

    A third argument of the user's function gets `params`. Of a dict of losses the entry "loss" is returned; the others
    are its attribute `parts` (a dict from name to scalar tensor), and are logged.

    Args:
        fn: the user's `loss_fn`, a function or an nn.Module.
        params: hyperparameters.
        file: where `fn` stands, for messages.

    Attributes:
        module: the user's loss where that has a state to save, else None.
    """

    def __init__(self, fn, params, file):
        self.fn, self.file, self.extra = fn, file, [params] if takes_params(fn) else []
        self.module = fn if isinstance(fn, torch.nn.Module) and fn.state_dict() else None

    def __call__(self, outputs, labels):
        loss = self.fn(outputs, labels, *self.extra)
        if not isinstance(loss, dict):
            self._check(loss)
            return loss
        if "loss" not in loss:
            raise UserError(f'{self.file}: loss_fn gave a dict without "loss", the entry to minimise: {list(loss)}')
        parts = {name: torch.as_tensor(value).detach() for name, value in loss.items() if name != "loss"}
        loss = loss["loss"]
        self._check(loss)
        loss.parts = parts
        return loss

    @property
    def stateful(self):
        """What of it a checkpoint is to hold, a dict from name to object."""
        return {"loss": self.module} if self.module is not None else {}

    def _check(self, loss):
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            what = f"a scalar tensor (a mean over the batch), not {describe(loss)}"
            raise UserError(f"{self.file}: loss_fn must give {what}")
        if torch.is_grad_enabled() and not loss.requires_grad:
            why = "it is not computed from the model's outputs by torch alone"
            raise UserError(f"{self.file}: the loss has no gradient: {why}")


def find_task(model_dir):
    """The Task of an experiment; see `find_model`."""
    return Task(find_model(model_dir))


def find_model(model_dir):
    """The nearest `model/` folder at or above an experiment's, or else the repository's own."""
    root = Path(__file__).resolve().parents[2]
    start = Path(model_dir).resolve()
    for folder in [start, *start.parents]:
        if any((folder / "model" / name).is_file() for name in ("net.py", "data_loader.py")):
            return folder / "model"
    return root / "model"


def import_model_package(folder):
    """Make `folder` the package `model`, in this process and in worker processes that it starts.

    The folder above it comes last on the path, so that the task's own modules are found, but never before the scripts'.
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


def is_dict(value):
    """Whether a value is a dict."""
    return isinstance(value, dict)


if getattr(multiprocessing.current_process(), "_inheriting", False) and MODEL_FOLDER in os.environ:
    import_model_package(os.environ[MODEL_FOLDER])  # a spawned worker, which finds the dataset's class by its name
