"""The search table of the closed forms: what the command prints for one image, one ratio and one round."""

from click.testing import CliRunner

from benchmarks.closed_forms import main


def test_the_search_finds_more_than_the_moments_and_says_so() -> None:
    arguments = ["search", "--images", "1", "--ratio", "0.1", "--rounds", "0", "--rounds", "1"]
    answer = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    header, without, searched = (line.split(" | ") for line in answer.output.splitlines())
    assert len(header) == len(without) == len(searched) == 7
    assert without[:3] == ["0.1", "0", "-"]
    assert searched[:3] == ["0.1", "1", "1 of 1"]
    for column in (3, 4):
        assert float(searched[column].split()[0]) > float(without[column].split()[0]) + 20
