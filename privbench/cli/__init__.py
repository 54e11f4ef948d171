"""The command line: one file per command, thin, imported when it is used, so that `--help` and `--version` answer at once."""

import click

from privbench import __version__
from privbench.cli.group import LazyGroup

__all__ = ["main"]

_COMMANDS = {
    "run": ("privbench.cli.run:run", "Attack private images under one or several defenses and score what comes back."),
    "audit": ("privbench.cli.audit:audit", "Say what one client's update gives away: a gradient or a weight delta."),
    "sweep": ("privbench.cli.sweep:sweep", "Compute all cases of a study; resumes, shards, spreads over machines."),
    "status": ("privbench.cli.status:status", "Say where the cases of a folder stand."),
    "show": ("privbench.cli.show:show", "Show one case: numbers, flags, pictures, or why it failed."),
    "list": (
        "privbench.cli.listing:list_components",
        "List attacks, ensembles, defenses, models, metrics, datasets or loggers.",
    ),
    "check": ("privbench.cli.check:check", "Check a plug-in, an attack or a defense, against the rules of its kind."),
    "leaderboard": ("privbench.cli.leaderboard:leaderboard", "Make a leaderboard of all records below a folder."),
    "site": ("privbench.cli.site:site", "Write the report as a static site, with a guide for rows of others."),
    "report": ("privbench.cli.report:report", "Make one HTML page of all records below a folder."),
    "compare": ("privbench.cli.compare:compare", "Compare defenses on the same images, with interval and test."),
    "claims": ("privbench.cli.claims:claims", "Judge claims of the field by records: a page with a verdict for each."),
    "calibrate": ("privbench.cli.reference_scores:calibrate", "Score noise, other photos and JPEGs: what do the numbers mean?"),
    "identify": ("privbench.cli.reference_scores:identify", "Find the true image among candidates by its reconstruction."),
    "pack": ("privbench.cli.pack:pack", "Pack the records of a folder into one file that all other commands read."),
    "verify": ("privbench.cli.verify:verify", "Compute a row of a leaderboard again and say whether it holds."),
    "schema": ("privbench.cli.schema:schema", "Print the JSON Schema of records and other files."),
    "score": ("privbench.cli.score:score", "Score the reconstructions of any tool."),
    "figure": ("privbench.cli.figure:figure", "Draw a figure from all records below a folder."),
    "evaluate": ("privbench.cli.evaluate:evaluate", "Measure what a victim can still do under a defense: its utility report."),
    "features": ("privbench.cli.features:features", "Invert the features behind a block, with and without a defense."),
    "train": ("privbench.cli.train:train", "Train a victim under a defense and write its weights and card."),
}


@click.group(cls=LazyGroup, commands_at=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="privbench")
def main() -> None:
    """How much of a private image a vision transformer's gradient gives away, and what each defense is worth.

    Start with: privbench run --defense mjp
    """
