"""The space that a sweep searches: search_space.json, checked, and the configurations in it."""

import hashlib
import itertools
import json
import math
import re
from copy import deepcopy
from dataclasses import dataclass, field

from utils import UserError, read_json

SPACE = "search_space.json"
CLASSIC = {"learning_rate": [1e-4, 1e-3, 1e-2]}  # what CS230's template searches
LARGEST_GRID = 100_000  # configurations
LONGEST_NAME = 100  # characters of a trial's folder
EXPLAINED = 'a list of values, or {"low": 1e-4, "high": 1e-1, "log": true}, or {"values": [...], "when": {...}}'


@dataclass
class Dimension:
    """A hyperparameter that is searched: a list of values, or a range.

    Attributes:
        name: the key in params.json.
        values: what it can be, or None for a range.
        low, high: the ends of the range, both included. If both are integers, so is what is drawn.
        log: whether it is drawn evenly on a logarithmic scale.
        step: distance of the values that are drawn, or None.
        when: dict from the name of another key to the values for which this one is searched; else it stays as it is.
    """

    name: str
    values: list | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    when: dict = field(default_factory=dict)

    def suggest(self, trial):
        """Its value in an Optuna trial."""
        if self.values is not None:
            choices = [as_choice(value) for value in self.values]
            return self.values[choices.index(trial.suggest_categorical(self.name, choices))]
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


class Space:
    """The hyperparameters that a sweep searches, in the order of the file.

    Args:
        content: what search_space.json holds, a dict.
        source: the file's path, for messages.
        params: Params of the sweep's reference, with the facts of the dataset.
        task: the Task, for the keys that are declared, or mentioned in its code.

    Raises:
        UserError: it is empty, or a hyperparameter, a type, a bound or a condition is wrong.
    """

    def __init__(self, content, source, params, task):
        self.source, self.reference = source, params.stated
        self.declared = task.hyperparameters.model_fields
        self.dimensions = []
        for name, description in content.items():
            if not name.startswith(("$", "_")):  # notes
                self._check_name(name, params, task)
                self.dimensions.append(self._read(name, description, params))
        if not self.dimensions:
            raise UserError(f'{source}: nothing is searched; for example {{"learning_rate": [1e-4, 1e-3, 1e-2]}}')

    @property
    def is_grid(self):
        """Whether all are lists of values."""
        return all(dimension.values is not None for dimension in self.dimensions)

    def grid(self):
        """All configurations of a space of lists, dicts, each once.

        Raises:
            UserError: there is a range.
        """
        for dimension in self.dimensions:
            if dimension.values is None:
                raise UserError(
                    f"{self.source}: {dimension.name} is a range, and a grid needs values: list them, or use "
                    f"--method tpe or random"
                )
        if math.prod(len(dimension.values) for dimension in self.dimensions) > LARGEST_GRID:
            raise UserError(f"{self.source}: a grid of more than {LARGEST_GRID:,} configurations; list fewer values, "
                            f"or use --method tpe")  # fmt: skip
        found = {}
        for values in itertools.product(*(dimension.values for dimension in self.dimensions)):
            drawn = dict(zip((dimension.name for dimension in self.dimensions), values, strict=True))
            configuration = self._configuration(lambda dimension, drawn=drawn: drawn[dimension.name])
            found[json.dumps(configuration)] = configuration
        return list(found.values())

    def suggest(self, trial):
        """The configuration of an Optuna trial, a dict from name to value."""
        return self._configuration(lambda dimension: dimension.suggest(trial))

    def _configuration(self, value_of):
        values = {}
        for dimension in self.dimensions:
            known = self.reference | values
            if all(known.get(name) in allowed for name, allowed in dimension.when.items()):
                values[dimension.name] = value_of(dimension)
        return values

    def _check_name(self, name, params, task):
        if name in ("fold", "num_folds"):
            raise UserError(f"{self.source}: {name} is not searched; --folds does that")
        if name in ("monitor", "monitor_mode"):
            raise UserError(f"{self.source}: {name} is not searched; it says what trials are compared by")
        if name in params.values.keys() - params.stated.keys():
            raise UserError(f"{self.source}: {name} is a fact of the dataset, not a hyperparameter; remove it")
        if name not in self.reference and not re.search(rf"\b{re.escape(name)}\b", task.code()):
            raise UserError(f"{self.source}: nothing knows the hyperparameter {name}{params.meant(name)}; "
                            f"train.py --list_params lists those that are declared")  # fmt: skip

    def _read(self, name, description, params):
        if isinstance(description, list):
            description = {"values": description}
        if not isinstance(description, dict):
            raise UserError(f"{self.source}: {name} is {json.dumps(description)}, should be {EXPLAINED}")
        allowed = {"values", "when"} if "values" in description else {"low", "high", "log", "step", "when"}
        unknown = sorted(description.keys() - allowed)
        if unknown:
            raise UserError(f"{self.source}: {name} has {unknown[0]!r}; it should be {EXPLAINED}")
        try:
            json.dumps(description, allow_nan=False)
        except ValueError:
            raise UserError(f"{self.source}: {name} has NaN or Infinity, should have numbers") from None
        if "values" not in description and not {"low", "high"} <= description.keys():
            raise UserError(f"{self.source}: {name} has no {'high' if 'low' in description else 'low'}; it should be "
                            f"{EXPLAINED}")  # fmt: skip
        dimension = Dimension(name, **description)
        self._check_condition(dimension)
        if dimension.values is None:
            self._check_range(dimension)
        elif not isinstance(dimension.values, list) or not dimension.values:
            raise UserError(f"{self.source}: {name} has no values; list one or more")
        values = dimension.values if dimension.values is not None else [dimension.low, dimension.high]
        for place, value in enumerate(values):
            if dimension.values is not None and value in values[:place]:
                raise UserError(f"{self.source}: {name} has {json.dumps(value)} twice")
            deepcopy(params).take({name: value}, self.source)
        return dimension

    def _check_range(self, dimension):
        name, low, high, step = dimension.name, dimension.low, dimension.high, dimension.step
        numbers = [low, high] if step is None else [low, high, step]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise UserError(f"{self.source}: {name} should have numbers for low, high and step")
        if not isinstance(dimension.log, bool):
            raise UserError(f"{self.source}: {name} has log {json.dumps(dimension.log)}, should be true or false")
        if low >= high:
            raise UserError(f"{self.source}: {name} has low {low:g} and high {high:g}; low should be the smaller one")
        if dimension.log and (low <= 0 or step is not None):
            what = "a step" if step is not None else f"low {low:g}"
            raise UserError(
                f"{self.source}: {name} has {what} and log; a logarithmic range begins above 0 and has no step"
            )
        if step is not None and not 0 < step <= high - low:
            raise UserError(f"{self.source}: {name} has step {step:g}, should be above 0 and at most high - low")
        declared = getattr(self.declared.get(name), "annotation", None)
        if declared is int and not all(isinstance(n, int) for n in numbers):
            raise UserError(f"{self.source}: {name} is an integer; low, high and step should be, too")
        if declared is float or not all(isinstance(n, int) for n in numbers):
            dimension.low, dimension.high = float(low), float(high)

    def _check_condition(self, dimension):
        if not isinstance(dimension.when, dict):
            raise UserError(f'{self.source}: {dimension.name}: "when" should be like {{"architecture": "DenseNet"}}')
        earlier = {other.name: other for other in self.dimensions}
        for name, allowed in dimension.when.items():
            allowed = dimension.when[name] = allowed if isinstance(allowed, list) else [allowed]
            if name not in earlier and name not in self.reference:
                raise UserError(f'{self.source}: {dimension.name} has "when" {name}, which neither stands before it '
                                f"nor in params.json")  # fmt: skip
            possible = earlier[name].values if name in earlier else [self.reference[name]]
            if possible is None:
                raise UserError(f'{self.source}: {dimension.name} has "when" {name}, which is a range; list its values')
            if not allowed:
                raise UserError(f'{self.source}: {dimension.name} has "when" {name} without a value')
            never = [value for value in allowed if value not in possible]
            if never:
                raise UserError(f"{self.source}: {dimension.name} is searched when {name} is {json.dumps(never[0])}, "
                                f"which it never is")  # fmt: skip


def as_choice(value):
    """A value as Optuna's storages keep it: numbers and strings as they are, lists and dicts as their text."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def read_space(parent_dir, params, task):
    """The Space of a sweep: search_space.json in its folder, or where there is none the learning rates of CS230."""
    path = parent_dir / SPACE
    content = read_json(path, what="search space") if path.exists() else CLASSIC
    return Space(content, path, params, task)


def name_of(configuration, replicate):
    """The folder of a trial: `learning_rate=0.001,num_channels=32`.

    Numbers are rounded to four digits; where that, or a name too long, hides something, eight hexadecimal digits of
    a hash of the exact values follow.

    Args:
        configuration: dict from name to value.
        replicate: dict of what tells it from the others of the same configuration, such as {"seed": 231}.
    """
    name = ",".join(f"{name}={as_word(value)}" for name, value in configuration.items())
    if len(name) > LONGEST_NAME:
        name = "trial"
    if name == "trial" or not all(is_exact(value) for value in configuration.values()):
        name += "-" + hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]
    return ",".join([name, *(f"{key}={value}" for key, value in replicate.items())])


def as_word(value):
    """A value as part of a file's name: `0.001`, `ConvNet`, `256-128` for a list."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return re.sub(r"[^\w.+-]+", "-", value if isinstance(value, str) else json.dumps(value)).strip("-")


def is_exact(value):
    """Whether its word says all of a value."""
    if isinstance(value, list):
        return all(isinstance(item, int) and item >= 0 for item in value)
    if isinstance(value, str):
        return as_word(value) == value and not re.match(r"[\d.+-]|(true|false|null)$", value)
    return not isinstance(value, dict) and json.loads(as_word(value)) == value
