"""Findings of an audit, for datasets of all kinds: one printed line each, and the details in the folder audit/."""

import json
import logging
from dataclasses import dataclass, field

from toolkit.datasets.dataset_folder import write_folder
from utils import write_whole

GOOD, DOUBTFUL, BAD = "✓", "!", "✗"


@dataclass
class Finding:
    """The result of one check."""

    mark: str  # GOOD, DOUBTFUL or BAD
    name: str  # of the check
    text: str  # what was found and what to do
    details: dict = field(default_factory=dict)  # for audit.json, such as the files in question

    def __str__(self):
        return f"{self.mark} {self.name:<12} {self.text}"


def write_findings(data_dir, findings, draw=lambda folder: None):
    """Print findings, a list of Finding, and write them to the folder `audit` of the dataset, where `draw` may draw."""
    print(*findings, sep="\n")
    content = {finding.name: {"mark": finding.mark, "text": finding.text} | finding.details for finding in findings}
    with write_folder(data_dir / "audit") as folder:
        write_whole(folder / "audit.json", json.dumps(content, indent=2) + "\n")
        draw(folder)
    logging.info("Written to %s", data_dir / "audit")


def log_findings(findings, script, data_dir):
    """Log the findings at the end of a build by `script`; --quiet hides the good ones."""
    for finding in findings:
        logging.log(logging.INFO if finding.mark == GOOD else logging.WARNING, str(finding))
    logging.info("For details and contact sheets: python %s --audit %s", script, data_dir)
