"""Several cases in one go: checked first, computed one after another, shown in one table and one picture."""

import hashlib
from collections.abc import Sequence

import click
import torch

from privbench.analysis.tables import case_table, defenses_table, footnotes, members_table
from privbench.cli.console import notes_console, results_console
from privbench.cli.progress import LiveProgress, PlainProgress, QuietProgress
from privbench.core import Case, ComputeOptions, Record
from privbench.core.labels import defense_label, guarantee_text
from privbench.plots.drawing import draw_case, draw_defenses
from privbench.runner.ensemble import run
from privbench.runner.execute import Suites, check_case
from privbench.runner.listener import Listener
from privbench.runner.pictures import shown_case
from privbench.store.base import Store
from privbench.store.case_folder import CaseFolder

__all__ = ["Session", "print_cases"]


def print_cases(cases: Sequence[Case], output: Store) -> None:
    """Prints resolved cases as YAML documents, each after a comment that says where it would go."""
    documents = []
    with output.open(everything=False) as local:
        for case in cases:
            folder = CaseFolder(local, case)
            state = "finished" if folder.record() else "begun" if folder.has_progress() else "new"
            documents.append(f"# {output / case.folder} ({state})\n{case.to_yaml()}")
    click.echo("---\n".join(documents), nl=False)


class Session:
    """The cases of one command.

    Args:
        cases: At least one.
        output: Where cases go.
        devices: Where to compute.
        suites: What to score by.
        group: How many client batches are attacked together; None: what the attack finds best.
        compute: How attacks compute.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        output: Store,
        devices: Sequence[torch.device],
        suites: Suites,
        group: int | None,
        compute: ComputeOptions,
    ) -> None:
        self.cases = cases
        self.output = output
        self.devices = devices
        self.suites = suites
        self.group = group
        self.options = compute
        self.labels = {case.identity: defense_label(case) for case in cases}

    def compute(self, *, force: bool, quiet: bool, checkpoint_interval: float) -> list[Record]:
        """Computes what is not finished.

        Raises:
            UserError: A case cannot run; with several cases this is found before the first one starts.
            Interrupted: Stopped by a signal.
        """
        pending = [case for case in self.cases if force or self._record(case) is None]
        if len(pending) > 1:
            for case in pending:
                check_case(case, device=self.devices[0], suites=self.suites)
        console = notes_console()
        display = QuietProgress if quiet else LiveProgress if console.is_terminal else PlainProgress
        with display(console, self._label) as listener:
            return [self._compute(case, listener, force=force, checkpoint_interval=checkpoint_interval) for case in self.cases]

    def _record(self, case: Case) -> Record | None:
        found = self.output.find(case)
        return found if isinstance(found, Record) else None

    def _compute(self, case: Case, listener: Listener, *, force: bool, checkpoint_interval: float) -> Record:
        if not force and (found := self._record(case)) is not None:
            listener.reused(found)
            return found
        record = run(
            case,
            output=self.output.working,
            devices=self.devices,
            force=force,
            listener=listener,
            suites=self.suites,
            checkpoint_interval=checkpoint_interval,
            draw=draw_case,
            group=self.group,
            compute=self.options,
        )
        self.output.publish(case, replace=force)
        return record

    def _label(self, case: Case) -> str:
        """What the progress display calls a case: its defense, and for the member of an ensemble also its attack."""
        known = self.labels.get(case.identity)
        return known or f"{defense_label(case)}, {case.attack.name} ({case.threat_model.adversary})"

    def show(self, records: Sequence[Record]) -> None:
        """Prints the table, what must be known about it, and what was written."""
        labels = [self.labels[record.case_id] for record in records]
        console = results_console()
        several = len(records) > 1
        console.print(defenses_table(records, labels) if several else case_table(records[0], labels[0]))
        for record, label in zip(records, labels, strict=True):
            if record.members:
                console.print(members_table(record, label))
        guarantees = {label: guarantee_text(record.case.defense) for record, label in zip(records, labels, strict=True)}
        for label, guarantee in guarantees.items():
            click.echo(f"guarantee of {label}: {guarantee}")
        for line in footnotes(records, labels):
            click.echo(line)
        for record in records:
            kept = "members/" if record.members else "trace.csv"
            click.echo(f"{self.output / record.case.folder}: record.json, case.yaml, {kept}, comparison.png, reconstructions/")
        if several:
            click.echo(self._draw(records, labels))

    def _draw(self, records: Sequence[Record], labels: Sequence[str]) -> str:
        shown = []
        for record in records:
            with self.output.open(record.case.folder) as local:
                shown.append(shown_case(record, folder=local / record.case.folder, device=self.devices[0]))
        identity = hashlib.sha256("".join(record.case_id for record in records).encode()).hexdigest()[:12]
        name = f"comparison-{identity}.png"
        self.output.write({name: draw_defenses(shown, labels)})
        return self.output / name
