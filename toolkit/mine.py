"""Make this clone of the template a repository of one's own: `python -m toolkit.mine`, or `make mine`.

It removes the examples, the benchmarks, what is about the template alone, and its history, and begins a new one. What
stays is the scripts, model/, toolkit/, experiments/, docs/, their tests, and the licence. It needs no package.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "docs/pictures", "examples", "tests/examples")
FILES = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "tests/template/test_accuracy.py",
    "tests/template/test_benchmarks.py",
    "tests/template/test_faults.py",
    "tests/template/test_gpu_benchmarks.py",
    "tests/template/test_growth.py",
    "tests/mine/test_mine.py",
    "tests/template/test_readme.py",
    "toolkit/mine.py",
)
CUT = ("Makefile", ".gitignore", "docs/*.md", ".github/workflows/*.yml")  # in which parts are the template's alone
PART = re.compile(
    r"^(?:<!--|#) of the template.*?^(?:<!--|#) end(?: -->)?\n\n?|<!-- of the template -->.*?<!-- end -->",
    re.DOTALL | re.M,
)
README = """# {name}

Say here in a sentence what this is about.

## Commands

```bash
pip install -r requirements.txt
python train.py --model_dir experiments/base_model
python evaluate.py --model_dir experiments/base_model
pytest
```

`make train` and `make test` do so in an environment of their own. `--help` of each script has the rest:

| command | what it is for |
|:--|:--|
| `python build_dataset.py folder path/to/images --name images` | a dataset of your own images |
| `python preflight.py --model_dir experiments/base_model` | what usually goes wrong, tried before the first long run |
| `python train.py --model_dir experiments/new --from experiments/base_model num_epochs=3` | another experiment |
| `python search_hyperparams.py --parent_dir experiments/learning_rate` | many experiments |
| `python synthesize_results.py --parent_dir experiments` | their table |
| `python predict.py --model_dir experiments/base_model path/to/images` | labels for new images |
| `python export.py --model_dir experiments/base_model` | ONNX and torch.export |

The network is in `model/net.py`, the data in `model/data_loader.py`, the hyperparameters in
`experiments/<name>/params.json`; `docs/` says how to go on from there.

## Licence

Made from the deep learning starter {version} by the deep-learning-starter contributors. Their code is under the MIT
licence, and [LICENSE](LICENSE) stays with it.
"""


def main(argv=None):
    """Ask, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    args = parser.parse_args(argv)
    commits = check()
    history = f", and the history, {commits} commits on all branches, with remotes and hooks" if commits else ""
    folders = ", ".join(f"{folder}/" for folder in FOLDERS)
    print(f"In {ROOT}: delete {folders}, {len(FILES)} files about the template{history}; write README.md anew; commit.")
    if not args.yes:
        if not sys.stdin.isatty():
            refuse("there is no terminal to ask on; --yes goes on without")
        if input("This cannot be undone. Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            refuse("nothing was changed")
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    clear(version)
    begin_history(version)
    print("Done. Next: a sentence in README.md, then git remote add origin <address>.")


def check():
    """Refuse where something would be lost. Returns how many commits there are; 0: it is in no git repository."""
    if not (ROOT / "examples").is_dir():
        refuse("examples/ is not there: this has been done already")
    is_clone = (ROOT / ".git").exists()
    if shutil.which("git") is None:
        if is_clone:
            refuse(f"git is not there to ask what is committed in {ROOT}; install it first")
        return 0
    if git("var", "GIT_COMMITTER_IDENT", check=False) == "":
        refuse("git does not know you yet: git config --global user.name YOU, and user.email")
    top = git("rev-parse", "--show-toplevel", check=False)
    if top == "" and not is_clone:
        return 0
    if top == "":
        refuse(f"git cannot read {ROOT / '.git'}; git status says why")
    if Path(top).resolve() != ROOT or not (ROOT / ".git").is_dir():
        refuse(f"{ROOT} is part of another repository, or a worktree of one; do this in a clone of its own")
    if changed := git("status", "--porcelain", "--untracked-files=all").splitlines():
        refuse(f"{len(changed)} uncommitted changes, {changed[0][3:]} for one; commit them first")
    if stashed := git("stash", "list").splitlines():
        refuse(f"the stash goes with the history, and has {len(stashed)} in it; git stash pop, or drop, first")
    listed = [
        line.removeprefix("worktree ")
        for line in git("worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    ]
    if others := [folder for folder in listed[1:] if Path(folder).exists()]:
        refuse(f"{others[0]} is a worktree of this clone, and lives on its history; git worktree remove it first")
    if (ROOT / ".git" / "modules").exists():
        refuse("there are submodules, whose history is in .git, too; do this in a clone without")
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "--", *FOLDERS).splitlines()
    if own := [file for file in ignored if "__pycache__" not in file]:
        refuse(f"{own[0]}: {len(own)} files that are not of the template are in what is to be deleted; move them first")
    return int(git("rev-list", "--all", "--count"))


def clear(version):
    """Delete what is the template's alone, and mend what has spoken of it."""
    for folder in FOLDERS:
        shutil.rmtree(ROOT / folder)
    for path in [path for pattern in CUT for path in ROOT.glob(pattern)]:
        write(path, without_the_templates_parts(read(path)))
    name = re.sub(r"[^a-z0-9]+", "-", ROOT.name.lower()).strip("-") or "project"
    write("README.md", README.format(name=ROOT.name, version=version))
    project = re.sub(r'^name = ".*"', f'name = "{name}"', read("pyproject.toml"), flags=re.MULTILINE)
    write("pyproject.toml", re.sub(r'^description = ".*"\n', "", project, flags=re.MULTILINE))
    for file in FILES:
        (ROOT / file).unlink()


def without_the_templates_parts(text):
    """A text without what stands between `of the template` and `end` in comments of Markdown, make, git or YAML."""
    return PART.sub("", text).rstrip("\n") + "\n"


def begin_history(version):
    """Replace the git history by one commit of what is there now. Until that is made, the old one stays as it is."""
    if shutil.which("git") is None:
        print("git is not there: nothing was committed")
        return
    old, message, branch, user = ROOT / ".git", f"Begin from deep-learning-starter {version}", "main", {}
    if old.exists():
        message += f", commit {git('rev-parse', '--short', 'HEAD')}"
        branch = git("symbolic-ref", "--short", "HEAD", check=False) or branch
        user = {key: git("config", "--local", key, check=False) for key in ("user.name", "user.email")}
    aside = ROOT / ".git.new"
    git("init", "-q", str(aside))
    new = {"GIT_DIR": str(aside / ".git"), "GIT_WORK_TREE": str(ROOT)}
    git("symbolic-ref", "HEAD", f"refs/heads/{branch}", **new)
    for key, value in user.items():
        if value:
            git("config", key, value, **new)
    (aside / ".git" / "info" / "exclude").write_text("/.git.new/\n", encoding="utf-8")
    git("add", "-A", **new)
    try:
        git("commit", "-q", "-m", message, **new)
    except subprocess.CalledProcessError as error:
        remove(aside)
        way_out = "git checkout . brings all files back" if old.exists() else "the files are as they should be"
        refuse(f"no commit could be made ({' '.join(error.stderr.split())}); {way_out}")
    (aside / ".git" / "info" / "exclude").unlink()
    if old.exists():
        old.rename(aside / "old")
    (aside / ".git").rename(old)
    remove(aside)


def git(*arguments, check=True, **environment):
    """What a git command prints."""
    command, environment = ["git", *arguments], os.environ | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, check=check, capture_output=True, encoding="utf-8")
    return done.stdout.rstrip()


def remove(folder):
    """Delete a folder of git's, whose files are read-only, which on Windows keeps them from being deleted."""
    for path in folder.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def write(name, text):
    (ROOT / name).write_text(text, encoding="utf-8", newline="\n")


def refuse(why):
    """End with one line."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
