"""Remove what your own project does not need: examples, benchmarks, what is about the template only, and chosen tools.

make mine                                      # python -m toolkit.mine
make mine WITHOUT="export preflight"           # python -m toolkit.mine export preflight

It asks first, and only deletes files in the working tree: commits, branches and remotes stay as they are.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE_ONLY = ["examples", "tests/examples", "benchmarks", "tests/template", "toolkit/mine", "tests/mine"]
TEMPLATE_ONLY += ["CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"]
TOOLS = {  # what belongs to each tool besides toolkit/<tool>/ and tests/<tool>/
    "cs230": ["docs/from_cs230.md"],
    "datasets": ["build_dataset.py", "docs/your_own_images.md"],
    "evaluation_report": [],
    "export": ["export.py"],
    "predict": ["predict.py"],
    "preflight": ["preflight.py"],
    "results": ["synthesize_results.py"],
    "sweep": ["search_hyperparams.py", "docs/sweeps.md"],
    "verify": ["verify.py"],
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", nargs="*", metavar="tool", help=f"tools to remove: {', '.join(TOOLS)}")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    args = parser.parse_args(argv)
    unknown = [tool for tool in args.tools if tool not in TOOLS]
    if unknown:
        refuse(f"there is no tool {unknown[0]}; the tools are {', '.join(TOOLS)}")
    paths = TEMPLATE_ONLY + [path for tool in args.tools for path in files_of(tool)]
    paths = [path for path in paths if (ROOT / path).exists()]
    refuse_uncommitted(paths)
    print(f"To be removed from {ROOT}:", *paths, sep="\n  ")
    if not args.yes and not (sys.stdin.isatty() and input("Remove these? [y/N] ").strip().lower() in ("y", "yes")):
        refuse("nothing was removed; --yes removes without asking")
    for path in paths:
        shutil.rmtree(ROOT / path) if (ROOT / path).is_dir() else (ROOT / path).unlink()
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    texts = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in pages if page.exists()}
    mentioning = [page for page, text in texts.items() if any(path in text for path in paths)]
    print(f"Removed. Next: run `make test`, then commit. Edit what still mentions them: {', '.join(mentioning)}")


def files_of(tool):
    """Return the paths of a tool: its folder, its tests, its script and its page."""
    return [f"toolkit/{tool}", f"tests/{tool}", *TOOLS[tool]]


def refuse_uncommitted(paths):
    """End if git could not bring back what is in `paths`: changed files, and files that are not committed."""
    command = ["git", "status", "--porcelain", "--ignored", "--untracked-files=all", "--", *paths]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        refuse("git is not installed; delete the files by hand")
    if done.returncode:
        refuse(f"{ROOT} is not a git repository; run git init and commit everything first")
    changed = [line[3:] for line in done.stdout.splitlines() if "__pycache__" not in line]
    if changed:
        refuse(f"{changed[0]} ({len(changed)} files in all) is not committed; commit or move it first")


def refuse(why):
    """End with one line on stderr and exit code 2."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
