"""Train an experiment again as its run.json records it, list what has changed since then, and compare the results."""

import math
from pathlib import Path

import utils
from toolkit.core import processes
from toolkit.core.checkpoint import read_last
from toolkit.core.experiment_folder import find_checkpoint, free_name, has_run
from toolkit.core.provenance import file_of_code, provenance, sha256
from toolkit.core.setup import set_up
from toolkit.core.task import find_task
from toolkit.core.text import list_some
from toolkit.verify.comparison import differing_numbers, first_difference, read_history
from utils import UserError, without_notes

TOLERANCE = 0.01  # relative (absolute below 1), for results from another machine or from other versions
COMPARED = ("state_dict", "optim_dict", "stateful")  # parts of a checkpoint that are compared
NEEDED = {"command", "code", "files", "versions", "hardware", "device", "processes", "first_epoch", "first_step"}


def reproduce(model_dir, data_dir, device, train_experiment):
    """Train an experiment again as recorded, in a new folder inside its own, and compare the results.

    Args:
        model_dir: the experiment's folder.
        data_dir, device: as for `set_up`; None: those of the record.
        train_experiment: the function of train.py.

    Raises:
        UserError: the record is not sufficient, or the results differ.
    """
    record = Record(Path(model_dir))
    if data_dir is None and record.data_dir and Path(record.data_dir).is_dir():
        data_dir = record.data_dir
    device = device or record.last["device"].split(":")[0]
    task, params, data_dir = set_up(record.new_folder, data_dir, device, record.folder, record.overrides)
    changed = record.report_changes(params)
    train_experiment(task, params, data_dir, record.new_folder, **record.options)
    processes.on_rank_zero(lambda: record.compare(changed))


class Record:
    """The record of a run: the run.json in an experiment's folder, and the results beside it.

    Raises:
        UserError: run.json is missing or incomplete, or there are no results to compare with.
    """

    def __init__(self, folder):
        self.folder, path, json_path = folder, folder / "run.json", folder / "params.json"
        if not path.exists():
            raise UserError(f"{path}: no such file; train.py writes it, and --reproduce repeats the run in it")
        self.content = utils.read_json(path)
        try:
            self.sessions = sessions_of(self.content["sessions"])  # those that contributed to the run
            first, self.last = self.sessions[0], self.sessions[-1]
            self.params = without_notes(self.content["params"])
            self.fingerprint = self.content["dataset"].get("fingerprint")
            self.data_dir, steps = self.content["facts"].get("data_dir"), self.content["steps"]
        except (AttributeError, LookupError, TypeError):
            raise UserError(f"{path}: incomplete, or written by an early version of train.py") from None
        if (first["first_epoch"], first["first_step"]) != (1, 1):
            raise UserError(f"{path}: the beginning of the run is missing; its first session resumed earlier training")
        today = find_task(folder).read_params(json_path)
        self.overrides = {name: value for name, value in self.params.items() if getattr(today, name, None) != value}
        if new := [name for name in without_notes(utils.read_json(json_path)) if name not in self.params]:
            raise UserError(f"{json_path}: {', '.join(new)}: not in the recorded run; remove what was added")
        checkpoint = read_last(folder) if has_run(folder) else None
        last_step = checkpoint.state.step if checkpoint else 0
        self.checkpoint = checkpoint.file if checkpoint and last_step >= steps else None  # not an older one
        steps = max(steps, last_step)
        if not steps or (self.checkpoint is None and not read_history(folder)):
            raise UserError(f"{folder}: there is nothing to compare with, neither last.pth.tar nor history.csv")
        self.new_folder = free_name(folder, "reproduced")
        self.options = {} if "finished" in self.last else {"max_steps": steps}
        if name := self.content.get("restored_from"):
            file, sha = find_checkpoint(folder, name), self.content.get("restored_sha256")
            moved = folder.glob(f"replaced-*/{Path(name).name.removesuffix('.pth.tar')}.pth.tar")  # by --restart
            file = next((path for path in moved if sha and sha256(path) == sha), file)
            self.options |= {"restore_file": file, "partial": "--partial" in first["command"]}

    def report_changes(self, params):
        """Print one line for each part of the record: ✓ unchanged today, ✗ changed, – unknown.

        `params` are the hyperparameters of the new run. Return the names of the changed parts, a set.
        """
        now = provenance(params.model_folder) | {"device": params.device, "processes": processes.world_size()}
        theirs, ours, machine = self.fingerprint, params.dataset_facts.get("fingerprint"), machine_of(now)
        data = f"{params.data_dir} has fingerprint {str(ours)[:9]}, recorded is {str(theirs)[:9]}"
        versions = {name: (then, now["versions"].get(name)) for name, then in self.last["versions"].items()}
        machines = {machine_of(session) for session in self.sessions} - {machine}
        changes = {  # None: not recorded; "": unchanged
            "code": self._changed_code(params.model_folder),
            "data": None if theirs is None else "" if theirs == ours else data,
            "hyperparameters": self._changed_params(),
            "versions": ", ".join(f"{k} {then}, now {today}" for k, (then, today) in versions.items() if then != today),
            "machine": "; ".join(f"{then}, now {machine}; the last digits may differ" for then in sorted(machines)),
        }
        if file := self.options.get("restore_file"):
            sha = self.content.get("restored_sha256")
            changes["first weights"] = None if sha is None else "" if sha256(file) == sha else f"{file} has changed"
        if processes.is_rank_zero():
            for name, change in changes.items():
                text = "not recorded" if change is None else change or "as recorded"
                if name == "hyperparameters" and not change and self.overrides:
                    text += f"; params.json now has another {', '.join(self.overrides)}"
                print("–" if change is None else "✗" if change else "✓", name.ljust(16), text, flush=True)
        return {name for name, change in changes.items() if change}

    def _changed_code(self, project):
        """Return the names of code files that have changed, as text; "" if none has."""
        recorded = {file for session in self.sessions for file in session["files"].items()}
        changed = sorted({name for name, sha in recorded if sha != sha256(file_of_code(name, project))})
        commit = str((self.last["code"] or {}).get("commit") or "")[:9]
        return list_some(changed, 4) + (f" (to restore it: git checkout {commit})" if changed and commit else "")

    def _changed_params(self):
        """Return the hyperparameters that changed during the run and affect its results, as text; "" if none did."""
        matter = {"learning_rate", "early_stopping_patience"}
        matter |= {"num_epochs"} if self.params.get("lr_schedule", "constant") != "constant" else set()
        changes = [
            f"{name} was {then}, and {now} from step {session['first_step']} on"
            for session in self.sessions
            for name, (then, now) in session.get("changed_params", {}).items()
            if name in matter
        ]
        return "; ".join(changes)

    def compare(self, changed):
        """Raise UserError if the new run differs from the recorded one; `changed` is what `report_changes` returned."""
        rows, new_rows = read_history(self.folder), read_history(self.new_folder)
        differ, not_reproduced = differing_numbers(rows, new_rows), f"{self.folder}: not reproduced"
        count = sum(map(len, rows))
        if differ:
            is_close = all(math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for _, *pair in differ)
            if changed and changed <= {"versions", "machine"} and is_close and len(new_rows) >= len(rows):
                print(
                    f"Reproduced, but not to the last bit: {count - len(differ)} of the {count} numbers of history.csv "
                    f"are identical, the others agree within {TOLERANCE}; the first: {differ[0][0]}."
                )
                return
            cause = "the likely cause is marked with ✗ above" if changed else "no recorded cause has changed"
            raise UserError(f"{not_reproduced}: {differ[0][0]}; {cause}. The new run is in {self.new_folder}")
        if len(new_rows) < len(rows):
            raise UserError(f"{not_reproduced}: the new run ended after epoch {len(new_rows)} of {len(rows)}")
        found = [f"the {count} numbers of history.csv"] if rows else []
        if self.checkpoint is not None:
            states = [utils.read_checkpoint(file) for file in (self.checkpoint, self.new_folder / "last.pth.tar")]
            if path := first_difference(*({name: state[name] for name in COMPARED} for state in states)):
                raise UserError(f"{not_reproduced}: {self.checkpoint.name}: {path} differs")
            found.append("the weights")
        print(f"Reproduced: {' and '.join(found)} are identical to the last bit.")


def sessions_of(recorded):
    """Return the sessions of run.json that contributed to the run, without those whose steps were lost and repeated."""
    sessions, first_step = [], math.inf
    for session in reversed([session for session in recorded if session.keys() >= NEEDED]):
        if session["first_step"] < first_step:
            sessions.insert(0, session)
            first_step = session["first_step"]
    return sessions


def machine_of(session):
    """Return the device, number of processes and threads of a session, as text."""
    hardware, device = session["hardware"], session["device"].split(":")[0]
    names = ", ".join(sorted(set(hardware["gpus"]))) if device == "cuda" else hardware["processor"]
    return f"{session['processes']} × {device} ({names}), threads: {hardware['threads']}"
