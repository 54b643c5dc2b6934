"""The space that a sweep searches: search_space.json, checked, and the configurations in it."""

import hashlib
import itertools
import json
import math
import re
from copy import deepcopy

from pydantic import BaseModel, Field, ValidationError, model_validator

from utils import UserError, read_json, similar

SPACE = "search_space.json"
CLASSIC = {"learning_rate": [1e-4, 1e-3, 1e-2]}  # what CS230's template searches
LARGEST_GRID = 100_000  # configurations
LONGEST_NAME = 100  # characters of a trial's folder
NOT_SEARCHED = dict.fromkeys(["fold", "num_folds"], "--folds does that")
NOT_SEARCHED |= dict.fromkeys(["monitor", "monitor_mode"], "it says what trials are compared by")
EXPLAINED = 'a list of values, or {"low": 1e-4, "high": 1e-1, "log": true}, or {"values": [...], "when": {...}}'


class Searched(BaseModel, extra="forbid", strict=True, allow_inf_nan=False):
    """A hyperparameter that is searched, for the values of other ones that `when` names; else it stays as it is."""

    when: dict = {}


class Values(Searched):
    """One that is searched among values."""

    values: list = Field(min_length=1)

    def suggest(self, name, trial):
        """Its value in an Optuna trial."""
        choices = [as_choice(value) for value in self.values]
        return self.values[choices.index(trial.suggest_categorical(name, choices))]


class Range(Searched):
    """One that is searched between `low` and `high`, both included. If both are integers, so is what is drawn.

    `log`: whether it is drawn evenly on a logarithmic scale; `step`: distance of the values that are drawn.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _is_one(self):
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low is at most as large as high, and with log above 0")
        if self.step is not None and (self.log or self.step > self.high - self.low):
            raise ValueError("a step is at most as large as the range, and log has none")
        return self

    @property
    def is_integer(self):
        """Whether integers are drawn."""
        return all(isinstance(number, int | None) for number in (self.low, self.high, self.step))

    def suggest(self, name, trial):
        """Its value in an Optuna trial."""
        if self.is_integer:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


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
        self.source, self.reference = source, params.hyperparameters
        self.declared = {name: field.annotation for name, field in task.hyperparameters.model_fields.items()}
        self.dimensions = {}
        for name, description in content.items():
            if not name.startswith(("$", "_")):  # notes
                self._check_name(name, params, task)
                self.dimensions[name] = self._read(name, description, params)
        if not self.dimensions:
            raise UserError(f'{source}: nothing is searched; for example {{"learning_rate": [1e-4, 1e-3, 1e-2]}}')

    @property
    def is_grid(self):
        """Whether all are lists of values."""
        return all(isinstance(dimension, Values) for dimension in self.dimensions.values())

    def grid(self):
        """All configurations of a space of lists, dicts, each once.

        Raises:
            UserError: there is a range.
        """
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise UserError(
                    f"{self.source}: {name} is a range, and a grid needs values: list them, or use "
                    f"--method tpe or random"
                )
        lists = [dimension.values for dimension in self.dimensions.values()]
        if math.prod(map(len, lists)) > LARGEST_GRID:
            raise UserError(
                f"{self.source}: a grid of more than {LARGEST_GRID:,} configurations; list fewer values, "
                f"or use --method tpe"
            )
        found = {}
        for values in itertools.product(*lists):
            configuration = self._configuration(dict(zip(self.dimensions, values, strict=True)).get)
            found[json.dumps(configuration)] = configuration
        return list(found.values())

    def suggest(self, trial):
        """The configuration of an Optuna trial, a dict from name to value."""
        return self._configuration(lambda name: self.dimensions[name].suggest(name, trial))

    def _configuration(self, value_of):
        values = {}
        for name, dimension in self.dimensions.items():
            known = self.reference | values
            if all(known.get(other) in allowed for other, allowed in dimension.when.items()):
                values[name] = value_of(name)
        return values

    def _check_name(self, name, params, task):
        if name in NOT_SEARCHED:
            raise UserError(f"{self.source}: {name} is not searched; {NOT_SEARCHED[name]}")
        if name in params.dataset_facts:
            raise UserError(f"{self.source}: {name} is a fact of the dataset, not a hyperparameter; remove it")
        meant = similar(name, self.declared)
        if name not in self.reference and meant:
            raise UserError(
                f"{self.source}: unknown key {name} (did you mean {meant}?); train.py --list_params lists the known "
                f"keys, and a key of your own belongs in params.json, too"
            )

    def _read(self, name, description, params):
        content = description if isinstance(description, dict) else {"values": description}
        try:
            dimension = (Values if "values" in content else Range).model_validate(content)
        except ValidationError as error:
            *_, wrong = error.errors()
            why = " ".join([*map(str, wrong["loc"][:1]), re.sub("^(Input|List|Value error,) ", "", wrong["msg"])])
            raise UserError(f"{self.source}: {name}: {why}; it should be {EXPLAINED}") from None
        if isinstance(dimension, Range):
            if self.declared.get(name) is int and not dimension.is_integer:
                raise UserError(f"{self.source}: {name} is an integer; low, high and step should be, too")
            if self.declared.get(name) is float:
                dimension.low = float(dimension.low)
        for value in dimension.values if isinstance(dimension, Values) else [dimension.low, dimension.high]:
            if value != value:
                raise UserError(f"{self.source}: {name}: NaN is no value to search")
            deepcopy(params).take({name: value}, self.source)
        self._check_condition(name, dimension.when)
        return dimension

    def _check_condition(self, searched, when):
        for name, allowed in when.items():
            allowed = when[name] = allowed if isinstance(allowed, list) else [allowed]
            earlier = self.dimensions.get(name, Values(values=[self.reference.get(name)]))
            if isinstance(earlier, Range) or name not in self.dimensions.keys() | self.reference.keys():
                raise UserError(
                    f'{self.source}: {searched} has "when" {name}, which is neither a list of values '
                    f"before it nor in params.json"
                )
            never = [json.dumps(value) for value in allowed if value not in earlier.values]
            if never or not allowed:
                raise UserError(
                    f"{self.source}: {searched} is searched when {name} is "
                    f"{' or '.join(never) or 'nothing'}, which it never is"
                )


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
