"""The search space of a sweep: search_space.json, checked, and the configurations in it."""

import hashlib
import itertools
import json
import math
import re
from copy import deepcopy

from pydantic import BaseModel, Field, ValidationError, model_validator

from toolkit.core.setup import meant_by
from toolkit.core.text import identity
from utils import UserError, read_json, similar, without_notes

SPACE = "search_space.json"
CLASSIC = {"learning_rate": [1e-4, 1e-3, 1e-2]}  # what CS230's template searches
LARGEST_GRID = 100_000  # configurations
LONGEST_NAME = 100  # characters of a trial's folder
NOT_SEARCHED = dict.fromkeys(["fold", "num_folds"], "use --folds")
NOT_SEARCHED |= dict.fromkeys(["monitor", "monitor_mode"], "trials are compared by it")
EXPECTED = 'a list of values, or {"low": 1e-4, "high": 1e-1, "log": true}, or {"values": [...], "when": {...}}'
MEANT = {"min": "low", "max": "high", "lower": "low", "upper": "high", "choices": "values", "options": "values"}


class Dimension(BaseModel, extra="forbid", strict=True, allow_inf_nan=False):
    """A hyperparameter that is searched if others have the values in `when`; else it has its value in params.json."""

    when: dict = {}


class Values(Dimension):
    """A hyperparameter that is one of several values."""

    values: list = Field(min_length=1)

    @property
    def choices(self):
        """Its values as Optuna stores them: lists, dicts and values that Python takes for equal become JSON text."""
        choices = [json.dumps(value) if isinstance(value, list | dict) else value for value in self.values]
        identities = list(map(identity, self.values))
        return choices if len(set(choices)) == len(set(identities)) else identities

    def suggest(self, name, trial):
        """Return its value in an Optuna trial."""
        return self.values[self.choices.index(trial.suggest_categorical(name, self.choices))]


class Range(Dimension):
    """A number from `low` to `high`, both included; an integer if both are.

    `log`: draw uniformly on a logarithmic scale; `step`: distance between the values that can be drawn.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self):
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must be at most high, and above 0 with log")
        if self.step is not None and (self.log or self.step > self.high - self.low):
            raise ValueError("step must be at most high - low, and cannot be combined with log")
        return self

    @property
    def values(self):
        """The smallest and the largest value, as a list."""
        return [self.low, self.high]

    @property
    def is_integer(self):
        """True if integers are drawn."""
        return all(isinstance(number, int | None) for number in (self.low, self.high, self.step))

    def suggest(self, name, trial):
        """Return its value in an Optuna trial."""
        if self.is_integer:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


class SearchSpace:
    """The hyperparameters that the sweep in a folder searches: `dimensions`, a dict from name to Values or Range.

    Without a search_space.json there, they are the learning rates of CS230. `params` are those of the folder, with the
    facts of the dataset; `declared` is the pydantic model of declared hyperparameters. What is wrong is a UserError.
    """

    def __init__(self, folder, params, declared):
        self.source, self.reference, self.dimensions = folder / SPACE, params.defaults | params.given, {}
        types = {name: field.annotation for name, field in declared.model_fields.items()}
        content = read_json(self.source, what="search space") if self.source.exists() else CLASSIC
        for name, description in without_notes(content).items():
            if name in NOT_SEARCHED:
                raise UserError(f"{self.source}: {name} cannot be searched: {NOT_SEARCHED[name]}")
            if name in params.dataset_facts:
                raise UserError(f"{self.source}: {name} is a fact of the dataset, not a hyperparameter; remove it")
            if name not in self.reference and (meant := meant_by(name, types)):
                advice = f"did you mean {meant}? Add a key of your own to params.json, too"
                raise UserError(f"{self.source}: unknown key {name}; {advice}")
            self.dimensions[name] = self._read(name, description, params, types.get(name))
        if not self.dimensions:
            example = '{"learning_rate": [1e-4, 1e-3, 1e-2]}'
            raise UserError(f"{self.source}: no hyperparameters; give one, such as {example}")

    def _read(self, name, description, params, declared_type):
        """Return the Values or Range that the file describes for a hyperparameter."""
        content = description if isinstance(description, dict) else {"values": description}
        kind = Values if "values" in content else Range
        try:
            dimension = kind.model_validate(content)
        except ValidationError as error:
            reasons = [explain(wrong, kind.model_fields) for wrong in error.errors()]
            unknown = [reason for reason in reasons if reason.startswith("unknown key")]
            reason = "; ".join(unknown or reasons[-1:])
            raise UserError(f"{self.source}: {name}: {reason}; expected {EXPECTED}") from None
        if isinstance(dimension, Range) and declared_type is int and not dimension.is_integer:
            raise UserError(f"{self.source}: {name} is an integer; give integers for low, high and step")
        if isinstance(dimension, Range) and declared_type is float:
            dimension.low = float(dimension.low)
        for value in dimension.values:
            deepcopy(params).take({name: value}, self.source)
        for other, allowed in dimension.when.items():
            allowed = dimension.when[other] = allowed if isinstance(allowed, list) else [allowed]
            known = self.dimensions.get(other, Values(values=[self.reference.get(other)]))  # one value if not searched
            if isinstance(known, Range) or other not in self.dimensions.keys() | self.reference.keys():
                where = "neither a list of values above it nor a key of params.json"
                raise UserError(f'{self.source}: {name} has "when" {other}, which is {where}')
            never = {identity(value) for value in allowed} - {identity(value) for value in known.values}
            if never or not allowed:
                condition = f"when {other} is {' or '.join(sorted(never)) or 'nothing'}"
                raise UserError(f"{self.source}: {name} is searched {condition}, which it never is")
        return dimension

    @property
    def is_grid(self):
        """True if all hyperparameters have lists of values."""
        return all(isinstance(dimension, Values) for dimension in self.dimensions.values())

    def grid(self):
        """Return all configurations, each once, as dicts; ranges, or too many configurations, are a UserError."""
        for name, dimension in self.dimensions.items():
            if isinstance(dimension, Range):
                raise UserError(f"{self.source}: {name} is a range; for a grid list its values, or use --method tpe")
        lists = [dimension.values for dimension in self.dimensions.values()]
        if math.prod(map(len, lists)) > LARGEST_GRID:
            raise UserError(f"{self.source}: more than {LARGEST_GRID:,} combinations; list fewer, or use --method tpe")
        found = {}
        for values in itertools.product(*lists):
            configuration = self._configuration(dict(zip(self.dimensions, values, strict=True)).get)
            found.setdefault(identity(configuration), configuration)
        return list(found.values())

    def choices(self, configuration):
        """Return a configuration of the grid as Optuna stores it."""
        choices = {}
        for name, value in configuration.items():
            dimension = self.dimensions[name]
            choices[name] = dimension.choices[list(map(identity, dimension.values)).index(identity(value))]
        return choices

    def suggest(self, trial):
        """Return the configuration of an Optuna trial, a dict from name to value."""
        return self._configuration(lambda name: self.dimensions[name].suggest(name, trial))

    def _configuration(self, value_of):
        """Return the dict of the values `value_of(name)` of those hyperparameters whose conditions (`when`) hold."""
        values = {}
        for name, dimension in self.dimensions.items():
            known = self.reference | values
            if all(identity(known.get(o)) in map(identity, allowed) for o, allowed in dimension.when.items()):
                values[name] = value_of(name)
        return values

    def name_of(self, configuration, replicate):
        """Return the name of a trial's folder, such as `learning_rate=0.001,num_channels=32`.

        Numbers are rounded to four digits. If the name does not show the exact values, or would be too long, eight
        hexadecimal digits of a hash of the values follow. `replicate` is a dict of the seed and fold that distinguish
        the trial from its replicates, such as {"seed": 231}.
        """
        name = ",".join(f"{as_word(key)}={as_word(value)}" for key, value in configuration.items())
        if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
            name = "trial"
        if name == "trial" or not all(self._is_shown(key, value) for key, value in configuration.items()):
            name += "-" + hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:8]
        return ",".join([name, *(f"{key}={value}" for key, value in replicate.items())])

    def _is_shown(self, name, value):
        """Return True if the words for a name and a value show exactly what they are, unlike those for 16 and [16]."""
        values = self.dimensions[name].values
        alike = {identity(other) for other in values if is_exact(other) and as_word(other) == as_word(value)}
        return as_word(name) == name and is_exact(value) and not alike - {identity(value)}


def explain(wrong, known):
    """Return what is wrong with a description, in words, for an error of pydantic; `known` are its keys."""
    place, value = ".".join(map(str, wrong["loc"][:1])), wrong["input"]
    if wrong["type"] == "extra_forbidden":
        meant = MEANT.get(place) or similar(place, known)
        return f"unknown key {place}" + (f" (did you mean {meant}?)" if meant else "")
    if wrong["type"] == "missing":
        return f"{place} is missing"
    reason = re.sub("^(Input|List|Value error,) ", "", wrong["msg"])
    return f"{place} is {json.dumps(value)}, {reason}" if place else reason


def as_word(value):
    """Return a value as part of a file name: `0.001`, `ConvNet`, `256-128` for a list."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return re.sub(r"[^\w.+-]+", "-", value if isinstance(value, str) else json.dumps(value)).strip("-")


def is_exact(value):
    """Return True if the word for a value shows exactly which value it is."""
    if isinstance(value, list):
        return all(isinstance(item, int) and item >= 0 for item in value)
    if isinstance(value, str):
        return as_word(value) == value and not re.match(r"[\d.+-]|(true|false|null)$", value)
    return not isinstance(value, dict) and json.loads(as_word(value)) == value
