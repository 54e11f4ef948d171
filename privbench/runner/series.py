"""Several cases in one go: what is not finished is loaded and checked first, then computed one case after another."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from privbench.core import Case, ComputeOptions, Record
from privbench.runner.context import CaseContext, load_case
from privbench.runner.ensemble import run
from privbench.runner.listener import Listener
from privbench.runner.pictures import Draw, ShownCase, shown_results
from privbench.runner.suites import Suites
from privbench.store.base import Store

__all__ = ["CaseSeries"]


@dataclass(frozen=True)
class CaseSeries:
    """The cases of one command.

    Attributes:
        cases: At least one.
        output: Where cases go.
        compute: Where and how.
        suites: What to score by.
        draw: Makes the comparison picture of a case; None for none.
    """

    cases: Sequence[Case]
    output: Store
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    suites: Suites = field(default_factory=Suites)
    draw: Draw | None = None
    _contexts: dict[str, CaseContext] = field(default_factory=dict, init=False)

    def run(self, *, force: bool, listener: Listener) -> list[Record]:
        """Computes what is not finished.

        Args:
            force: Compute finished cases again.
            listener: Who watches.

        Raises:
            UserError: A case cannot run; with several cases this is found before the first one starts.
            AttackError: An attack broke.
            Interrupted: Stopped by a signal.
        """
        listener.planned(self.cases)
        finished = {} if force else {case.identity: found for case in self.cases if (found := self._record(case)) is not None}
        for record in finished.values():
            self.suites.require_for_finished(record)
        pending = [case for case in self.cases if case.identity not in finished]
        if len(pending) > 1:
            for case in pending:
                context = self._context(case)
                context.require()
                self.suites.suite(context)
        return [self._run(case, listener, force=force) for case in self.cases]

    def shown(self, record: Record) -> ShownCase:
        """What a comparison picture shows of a finished case; the client's side is not stored and may be computed for it.

        Raises:
            UserError: Data, weights or pictures of the case are gone.
        """
        with self.output.open(record.case.folder) as local:
            # A record names data and weights without their paths; the case that was asked for knows where they lie.
            case = next(case for case in self.cases if case.identity == record.case_id)
            return shown_results(self._context(case), record.images, local / record.case.folder)

    def _context(self, case: Case) -> CaseContext:
        if case.identity not in self._contexts:
            self._contexts[case.identity] = self._sharing(case) or load_case(case, self.compute.device)
        return self._contexts[case.identity]

    def _sharing(self, case: Case) -> CaseContext | None:
        """The context of a case with the same client, if there is one: other attacks face the same update."""
        for context in self._contexts.values():
            other = context.case
            client = (other.victim, other.defense, other.server, other.seed, other.data)
            if client == (case.victim, case.defense, case.server, case.seed, case.data):
                return context.of(case)
        return None

    def _record(self, case: Case) -> Record | None:
        found = self.output.find(case)
        return found if isinstance(found, Record) else None

    def _run(self, case: Case, listener: Listener, *, force: bool) -> Record:
        if not force and (found := self._record(case)) is not None:
            listener.reused(found)
            return found
        record = run(
            case,
            output=self.output.working,
            compute=self.compute,
            force=force,
            listener=listener,
            suites=self.suites,
            draw=self.draw,
            context=self._context(case),
        )
        self.output.publish(case, replace=force)
        return record
