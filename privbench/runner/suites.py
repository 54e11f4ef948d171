"""The metrics of a series of cases."""

from functools import cached_property
from pathlib import Path

from privbench.core import Record, UserError
from privbench.models import file_sha256
from privbench.runner.context import CaseContext
from privbench.scoring import MetricSuite, metric_suite

__all__ = ["Suites"]


class Suites:
    """The metrics of a series of cases: each suite is built once, so that a download is tried once.

    Args:
        lpips_weights: A local file with the trunk of LPIPS; None takes the one of the package, or torchvision's cache.
        download: Whether a missing trunk may be fetched.
    """

    def __init__(self, lpips_weights: Path | None = None, *, download: bool = True) -> None:
        self._lpips_weights = lpips_weights
        self._download = download
        self._built: dict[tuple[int | None, int, str], MetricSuite] = {}

    def require_trunk(self, recorded: str | None) -> None:
        """Checks that LPIPS's trunk is read from the file behind a record.

        Args:
            recorded: `Record.lpips_weights_sha256`; None allows any, such as torchvision's own where no cache is.

        Raises:
            UserError: It is another file, or there is none.
        """
        if recorded is None or (found := self._given_sha256) == recorded:
            return
        given = "no file is given" if found is None else f"that of {self._lpips_weights} is {found[:12]}"
        raise UserError(
            f"the record's LPIPS has the trunk of a file whose sha256 is {recorded[:12]}, {given}; give it with --lpips-weights"
        )

    def require_for_finished(self, record: Record) -> None:
        """Checks that a finished case, which is not scored again, was scored by the file that is given now, if one is.

        Raises:
            UserError: It has the trunk of another file.
        """
        recorded, found = record.lpips_weights_sha256, self._given_sha256
        if found is None or recorded is None or found == recorded:
            return
        raise UserError(
            f"case {record.case_id} is finished, and its LPIPS has the trunk of a file whose sha256 is {recorded[:12]}, that "
            f"of {self._lpips_weights} is {found[:12]}; give that one or none, or choose another --output"
        )

    @cached_property
    def _given_sha256(self) -> str | None:
        # Once: a study may have thousands of finished cases, and VGG's trunk hundreds of megabytes.
        file = self._lpips_weights
        if file is not None and not file.is_file():
            raise UserError(f"there is no LPIPS weights file {file}")
        return None if file is None else file_sha256(file)

    def suite(self, context: CaseContext) -> MetricSuite:
        """The metrics for one case.

        Raises:
            UserError: The weights of LPIPS are not what they should be.
        """
        victim, net = context.victim, context.case.lpips
        key = (victim.patch_size, victim.image_size, net)
        if key not in self._built:
            self._built[key] = metric_suite(
                patch_size=victim.patch_size,
                image_size=victim.image_size,
                lpips_net=net,
                lpips_weights=self._lpips_weights,
                download=self._download,
            )
        return self._built[key]
