"""The proof that an experiment's record reproduces it: what has changed since is listed, it is run again, compared."""

import csv
import math
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.experiment_folder import as_text, find_checkpoint, free_name, has_run, read_last
from toolkit.core.provenance import PACKAGES, file_of_code, provenance, sha256
from toolkit.core.setup import set_up
from toolkit.core.task import find_task
from toolkit.verify.verify_resume import first_difference
from utils import UserError

APART = 0.01  # how far numbers may be apart, relative to them or to 1, where machine or versions are not the same
NEEDED = {
    "command",
    "code",
    "files",
    "versions",
    "hardware",
    "device",
    "processes",
    "first_epoch",
    "first_step",
}  # of a session


def reproduce(model_dir, data_dir, device, train_experiment):
    """Train an experiment again as its record says, in a fresh folder, and compare the numbers.

    Args:
        model_dir: the experiment's folder.
        data_dir, device: as for `set_up`; None: those of then.
        train_experiment: train.py's.

    Raises:
        UserError: the record does not do for it, or the numbers are others.
    """
    record = Record(model_dir)
    data_dir, device = data_dir or record.data_dir, device or record.device
    task, params, data_dir = set_up(record.fresh, data_dir, device, record.folder, record.overrides())
    same = record.check(params)
    train_experiment(task, params, data_dir, record.fresh, **record.options)
    processes.on_rank_zero(lambda: record.compare(*same))


class Record:
    """What run.json and the files beside it say of a run.

    Args:
        folder: the experiment's.

    Attributes:
        fresh: the folder in which it is to be run again, `reproduced-<n>` in the experiment's.
        params: the hyperparameters that it had, a dict.
        options: further arguments of `train_experiment`.

    Raises:
        UserError: it has no run.json, an incomplete one, trained no step, or left nothing to compare with.
    """

    def __init__(self, folder):
        self.folder, path = Path(folder), Path(folder) / "run.json"
        if not path.exists():
            raise UserError(f"{path}: no such file; it is the record that train.py makes, and what --reproduce goes by")
        self.content = utils.read_json(path)
        try:
            sessions, self.params, steps = (self.content[name] for name in ("sessions", "params", "steps"))
            self.sessions, began = [], math.inf
            for session in reversed([session for session in sessions if session.keys() >= NEEDED]):
                if session["first_step"] < began:  # else all that it did was lost, and done again
                    self.sessions.insert(0, session)
                    began = session["first_step"]
            self.first, self.last = self.sessions[0], self.sessions[-1]
            self.device, self.data_dir = self.last["device"].split(":")[0], self.content["facts"].get("data_dir")
            self.params = {name: value for name, value in self.params.items() if not name.startswith(("$", "_"))}
            self.fingerprint = self.content["dataset"].get("fingerprint")
        except (AttributeError, LookupError, TypeError):
            raise UserError(f"{path}: is not complete, or of an earlier version of train.py") from None
        if (self.first["first_epoch"], self.first["first_step"]) != (1, 1):
            raise UserError(f"{path}: does not say how the run began, for its first session went on with it")
        state, file, _ = read_last(self.folder) if has_run(self.folder) else (None, None, [])
        self.steps = steps if state is None else max(steps, state.step)
        self.checkpoint = file if state is not None and state.step == self.steps else None
        if not self.steps:
            raise UserError(f"{folder}: not one step was trained; there is nothing to reproduce")
        if self.checkpoint is None and not read_history(self.folder):
            raise UserError(
                f"{folder}: neither history.csv nor last.pth.tar is there; there is nothing to compare with"
            )
        self.data_dir = self.data_dir if self.data_dir and Path(self.data_dir).is_dir() else None
        self.fresh = free_name(self.folder, "reproduced")
        self.options = {} if "finished" in self.last else {"max_steps": self.steps}
        if restored_from := self.content.get("restored_from"):
            self.options["restore_file"] = self._weights_of_the_start(restored_from)
            self.options["partial"] = "--partial" in self.first["command"]

    def _weights_of_the_start(self, name):
        """The path of the checkpoint that the run began with, which --restart may have moved aside since."""
        sha = self.content.get("restored_sha256")
        moved = self.folder.glob(f"replaced-*/{Path(name).name.removesuffix('.pth.tar')}.pth.tar")
        return next((file for file in moved if sha and sha256(file) == sha), None) or find_checkpoint(self.folder, name)

    def overrides(self):
        """The values of then that params.json, or the defaults, have not any more, as a dict.

        Raises:
            UserError: params.json has a key that the run did not know.
        """
        path = self.folder / "params.json"
        now = find_task(self.folder).read_params(path)
        if new := [name for name in now.unread if name not in self.params]:
            raise UserError(f"{path}: {', '.join(new)}: the run was made without; remove what was added since")
        return {name: value for name, value in self.params.items() if now.hyperparameters.get(name) != value}

    def check(self, params):
        """Say what is as it was then and what is not, a line each.

        Args:
            params: hyperparameters of the run to come, with the facts of the present data.

        Returns:
            (whether code, data and hyperparameters are the same, whether versions and machine are).
        """
        now = provenance(params.model_folder) | {"device": params.device, "processes": processes.world_size()}
        things = [self._code(params.model_folder), self._data(params), self._params(), self._versions(now)]
        things += [self._machine(now), *self._start()]
        if processes.is_rank_zero():
            for name, said, change in things:
                print({"": "✓", None: "–"}.get(change, "✗"), name.ljust(16), change or said, flush=True)
        changed = {name for name, _, change in things if change}
        return changed <= {"versions", "machine"}, not changed & {"versions", "machine"}

    def _code(self, project):
        files = {name: sha256(file_of_code(name, project)) for name in self.last["files"]}
        changed = {
            name
            for session in self.sessions
            for name, there in session["files"].items()
            if there != files.get(name, there)
        }
        then = self.last["code"] or {"commit": None, "uncommitted_diff": ""}
        commit = f"commit {then['commit'][:9]}" if then["commit"] else "no commit"
        if not changed:
            return "code", f"the {len(files)} files of then ({commit})", ""
        cure = f"git checkout {then['commit'][:9]}" if then["commit"] else ""
        if then["uncommitted_diff"]:
            cure += ', then git apply "uncommitted_diff" of run.json'
        names = ", ".join(sorted(changed)[:4]) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
        return "code", "", f"not as then: {names}" + (f" ({cure})" if cure else "")

    def _data(self, params):
        then, now = self.fingerprint, params.dataset_facts.get("fingerprint")
        if then is None:
            return "data", f"{params.data_dir}; whether it is as then is not known, for it has no fingerprint", None
        change = f"{params.data_dir} holds other data than then: fingerprint {str(now)[:9]}, was {then[:9]}"
        return "data", f"{params.data_dir}, fingerprint {then[:9]}", "" if then == now else change

    def _params(self):
        matter = {"learning_rate", "early_stopping_patience"}
        matter |= {"num_epochs"} if self.params.get("lr_schedule", "constant") != "constant" else set()
        changes = [
            f"{name} was {as_text(then)}, and {as_text(now)} from step {session['first_step']} on"
            for session in self.sessions
            for name, (then, now) in session.get("changed_params", {}).items()
            if name in matter
        ]
        differ = ", ".join(self.overrides())
        said = f"as recorded; today's would have another {differ}" if differ else "as in params.json"
        return "hyperparameters", said, "; ".join(changes)

    def _start(self):
        """The line of the weights that the run began with, where those were another's."""
        if file := self.options.get("restore_file"):
            then = self.content.get("restored_sha256")
            change = None if then is None else "" if sha256(file) == then else f"{file} is not as then"
            yield "first weights", f"{file}{'' if then else ', if it is as then'}", change

    def _versions(self, now):
        then = self.last["versions"]
        changes = [
            f"{name} {then.get(name)}, now {now['versions'][name]}"
            for name in ("python", *PACKAGES)
            if then.get(name) != now["versions"][name]
        ]
        return "versions", ", ".join(f"{name} {then[name]}" for name in ("python", "torch")), "; ".join(changes)

    def _machine(self, now):
        def of(session):
            hardware = session["hardware"]
            names = hardware["gpus"] if session["device"].startswith("cuda") else [hardware["processor"]]
            return (
                f"{session['processes']} × {session['device'].split(':')[0]} ({', '.join(sorted(set(names)))}), "
                f"threads: {hardware['threads']}"
            )

        change = f"{of(self.last)}, now {of(now)}; the last digits may differ"
        others = {of(session) for session in self.sessions} - {of(now)}
        return "machine", of(now), change if others else ""

    def compare(self, same_work, same_machine):
        """Say whether the fresh run gave the same numbers.

        Args:
            same_work, same_machine: what `check` gave.

        Raises:
            UserError: it did not.
        """
        rows, fresh = read_history(self.folder), read_history(self.fresh)
        numbers = [
            (name, row["epoch"], value, other.get(name, math.nan))
            for row, other in zip(rows, fresh, strict=False)
            for name, value in row.items()
        ]
        differ = [number for number in numbers if not equal(*number[2:])]
        if not differ and len(fresh) < len(rows):
            raise UserError(
                f"{self.folder}: not reproduced: the fresh run ended after epoch {len(fresh)} of {len(rows)}"
            )
        if not differ:
            found = [f"the {len(numbers)} numbers of history.csv"] if numbers else []
            if self.checkpoint is not None:
                one, other = (utils.read_checkpoint(file) for file in (self.checkpoint, self.fresh / "last.pth.tar"))
                if difference := first_difference(one, other):
                    raise UserError(f"{self.folder}: not reproduced: {self.checkpoint.name}: {difference}")
                found.append("the weights")
            print(f"Reproduced: {' and '.join(found)} are the same to the bit.")
            return
        results = [number for number in differ if number[0].startswith(("train_", "val_"))] or differ
        name, epoch, value, other = max(results, key=lambda number: distance(*number[2:]))
        most = f"{name} of epoch {epoch:g} was {value:.6g} and is {other:.6g}"
        if same_work and not same_machine and len(fresh) >= len(rows) and distance(value, other) < APART:
            print(
                f"Reproduced, but not to the bit: the {len(numbers)} numbers of history.csv agree within {APART}, "
                f"{len(numbers) - len(differ)} of them to the bit; furthest apart: {most}."
            )
            return
        why = "what has a ✗ above is the likely cause"
        if same_work and same_machine:
            why = "nothing known has changed: train.py --verify_resume tells whether it is deterministic at all"
        raise UserError(f"{self.folder}: not reproduced: {most}; {why}. The fresh run is in {self.fresh}")


def read_history(folder):
    """The rows of history.csv, a list of dicts from name to float."""
    try:
        with open(folder / "history.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            return [{name: float(value) if value else math.nan for name, value in row.items()} for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'history.csv'}: cannot be read: {error}") from None


def equal(one, other):
    """Whether two floats are the same, NaN being NaN."""
    return one == other or (math.isnan(one) and math.isnan(other))


def distance(one, other):
    """How far two floats are apart, relative to the larger of them, or to 1."""
    apart = abs(one - other) / max(1, abs(one), abs(other))
    return math.inf if math.isnan(apart) else apart
