"""What the audits of all kinds of data share: findings, a line each, and the folder that they are written to."""

import json
import logging
from dataclasses import dataclass, field

from toolkit.datasets.folders import whole_folder
from utils import write_whole

GOOD, DOUBTFUL, BAD = "✓", "!", "✗"
FOLDER = "audit"  # within the dataset's


@dataclass
class Finding:
    """What a check found: `mark`, GOOD, DOUBTFUL or BAD; `text`, what there is and what to do; more for audit.json."""

    mark: str
    name: str
    text: str
    details: dict = field(default_factory=dict)


def report(data_dir, findings, draw=None):
    """Print the findings of an audit, a line each, and write them in full to the folder `audit` of the dataset.

    Args:
        data_dir: path of the dataset's folder; what an earlier audit wrote there is replaced.
        findings: list of Finding.
        draw: function that writes pictures into the folder that it is given.

    Raises:
        UserError: it cannot be written.
    """
    for finding in findings:
        print(line_of(finding))
    with whole_folder(data_dir / FOLDER) as aside:
        content = {f.name: {"mark": f.mark, "text": f.text} | f.details for f in findings}
        write_whole(aside / "audit.json", json.dumps(content, indent=2) + "\n")
        if draw is not None:
            draw(aside)
    logging.info("Written to %s", data_dir / FOLDER)


def say(findings, script, data_dir):
    """Log findings at the end of a build by `script`; --quiet hides those that are good."""
    for finding in findings:
        logging.log(logging.INFO if finding.mark == GOOD else logging.WARNING, line_of(finding))
    logging.info("More of this, with lists and pictures: python %s --audit %s", script, data_dir)


def line_of(finding):
    return f"{finding.mark} {finding.name:<12} {finding.text}"


def some(names, most=3):
    """The first of some names, and how many more there are, in words."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
