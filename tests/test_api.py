"""The front door: what a notebook calls, and what the command line is made of."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image
from torch import nn

import privbench
from privbench.core import ATTACKS, Case, LocalTraining, Observation, Reconstruction, ThreatModel, UserError
from privbench.core.attack import EFFORTS
from privbench.resolving.options import OPTIONS, SETTINGS, RunOptions, choices_of
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import load_case
from privbench.store.case_folder import repeatable

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> privbench.Results:
    return privbench.run(
        defense="none,mjp",
        attack="closed-form,adjoint-matching:steps=1",
        limit=1,
        output=tmp_path_factory.mktemp("runs"),
        download=False,
    )


def observed(**options: str) -> Observation:
    (case,) = resolve_cases(RunOptions(defense="none", attack="closed-form", limit=1, **options))  # type: ignore[typeddict-item]
    return load_case(case, torch.device("cpu")).observe(0)[0]


# Imports


def test_the_import_brings_nothing_heavy_and_every_name_is_found() -> None:
    code = (
        "import sys, privbench; heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'timm'} & sys.modules.keys(); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert all(getattr(privbench, name) for name in privbench.__all__)


def test_no_room_has_the_name_of_a_function_of_the_front_door() -> None:
    # Importing such a room would put the module in the place of the function.
    rooms = {path.stem for path in (ROOT / "privbench").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not rooms & set(privbench.__all__)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"it offers .*load_results"):
        privbench.atack  # noqa: B018


# Runs


def test_a_run_has_a_case_for_every_attack_and_defense(results: privbench.Results) -> None:
    assert results.labels == [
        "none, closed-form",
        "mjp, closed-form",
        "none, adjoint-matching:steps=1",
        "mjp, adjoint-matching:steps=1",
    ]
    assert [record.case.attack.name for record in results] == [
        "closed-form",
        "closed-form",
        "adjoint-matching",
        "adjoint-matching",
    ]
    rows = results.leaderboard()
    assert set(rows["case"]) == {record.case_id for record in results}
    assert results.comparison is not None
    assert results.comparison.startswith(b"\x89PNG")


def test_results_are_found_again_and_are_only_these(results: privbench.Results, tmp_path: Path) -> None:
    found = privbench.load_results(str(results.place))
    assert {record.case_id for record in found} == {record.case_id for record in results}
    again = privbench.run(defense="none", attack="closed-form", limit=1, output=str(results.place), download=False)
    # The folder has four cases; this run has one of them, which was not computed again.
    assert list(again.leaderboard()["case"]) == [again[0].case_id]
    assert again[0].provenance.finished == results[0].provenance.finished


def test_finished_cases_of_a_folder_of_ones_own_are_shown_again(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
    (tmp_path / "mine").mkdir()
    Image.fromarray(pixels).save(tmp_path / "mine" / "one.png")
    options = {
        "defense": "none,no-pe",
        "attack": "adjoint-matching:steps=1",
        "data": str(tmp_path / "mine"),
        "limit": 1,
        "download": False,
    }
    first = privbench.run(output=tmp_path / "runs", **options)  # type: ignore[arg-type]
    # Records name no paths, and yet the picture of both needs the images.
    again = privbench.run(output=tmp_path / "runs", **options)  # type: ignore[arg-type]
    assert again.comparison == first.comparison


def test_defenses_are_compared_with_none(results: privbench.Results) -> None:
    table = results.compare()
    row = table[table["attack"] == "closed-form"].iloc[0]
    none, mjp = results[0].images[0].scores["psnr"], results[1].images[0].scores["psnr"]
    assert row["difference"] == pytest.approx(mjp - none)
    assert row["n"] == 1
    with pytest.raises(UserError, match="the defenses there: mjp, none"):
        results.compare(baseline="zzz")


def test_results_show_their_numbers_and_pictures_in_a_notebook(results: privbench.Results) -> None:
    page = results._repr_html_()
    assert f"{results[0].summary['psnr'].mean:.2f}" in page
    assert 'src="data:image/png;base64,' in page
    assert "<script" not in page


def test_results_make_a_page_and_figures(results: privbench.Results, tmp_path: Path) -> None:
    page = results.report(tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert all(record.case_id in page for record in results)
    drawn = results.figure("gallery", width="single", captioned=False)
    assert drawn.figure.get_axes()
    picture, caption = drawn.save(tmp_path / "gallery.pdf")
    assert picture.read_bytes().startswith(b"%PDF")
    assert caption.read_text(encoding="utf-8").startswith("Reconstructions with their PSNR")
    with pytest.raises(UserError, match="unknown figure 'frnt'; did you mean front"):
        results.figure("frnt")


def test_a_plan_computes_nothing(results: privbench.Results) -> None:
    planned = privbench.plan(defense="none,mjp", attack="closed-form", limit=2, output=str(results.place))
    assert [one.state for one in planned] == ["new", "new"]
    (finished,) = privbench.plan(defense="none", attack="closed-form", limit=1, output=str(results.place))
    assert (finished.state, finished.case) == ("finished", results[0].case)


def test_settings_are_a_mapping_or_texts() -> None:
    (one,) = privbench.plan(attack="gradvit", defense="none", limit=1, settings={"attack.steps": 7})
    (other,) = privbench.plan(attack="gradvit", defense="none", limit=1, settings=["attack.steps=7"])
    assert one.case == other.case
    assert one.case.attack.parameters["steps"] == 7


def test_a_setting_reaches_each_attack_that_has_it_and_is_refused_where_none_has() -> None:
    planned = privbench.plan(attack="gradvit,closed-form", defense="none", limit=1, settings={"attack.steps": 7})
    assert planned[0].case.attack.parameters["steps"] == 7
    assert "steps" not in planned[1].case.attack.parameters
    with pytest.raises(UserError, match=r"unknown setting 'attack\.stepps'"):
        privbench.plan(attack="gradvit,closed-form", defense="none", limit=1, settings={"attack.stepps": 7})


def test_an_unknown_option_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="unknown option 'defence'; did you mean defense"):
        privbench.plan(defence="mjp")  # type: ignore[call-arg]


# A module of the user's


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 64, 5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)  # type: ignore[no-any-return]


def test_a_module_is_a_victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.manual_seed(0)
    module = Tiny().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    options = {"defense": "none", "attack": "dlg", "limit": 1, "output": tmp_path / "runs", "download": False}
    results = privbench.run(model=module, image_size=32, settings={"attack.steps": 2}, **options)  # type: ignore[arg-type]
    (record,) = results
    assert record.case.victim.model.num_classes == 5
    assert record.case.victim.model.image_size == 32
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    case = repeatable(tmp_path / "runs" / record.case.folder, record).case
    observation, _ = load_case(case, torch.device("cpu")).observe(0)
    assert torch.equal(observation.model_state["network.body.0.weight"], before["body.0.weight"])
    with pytest.raises(UserError, match="pass image_size"):
        privbench.plan(model=module)


# Attacks


def test_a_loop_over_all_attacks_needs_no_table_of_presets() -> None:
    for name in privbench.ATTACKS.names():
        component = ATTACKS.get(name)
        for effort in EFFORTS:
            built = component.from_preset(effort, {})
            expected = component.presets.get(effort, next(iter(component.presets.values()), {}))
            assert built == component.configured(dict(expected))
        with pytest.raises(UserError, match="unknown preset 'no-such'"):
            component.from_preset("no-such", {})


def test_an_attack_takes_an_observation_or_its_file_and_saves_what_it_found(tmp_path: Path) -> None:
    observation = observed()
    observation.save(tmp_path / "update.safetensors")
    found = privbench.attack(observation, "closed-form", preset="quick", device="cpu")
    again = privbench.attack(tmp_path / "update.safetensors", "closed-form", device="cpu")
    assert torch.equal(found.images, again.images)
    files = found.save(tmp_path / "found")
    assert [path.name for path in files] == ["image-0.png", "images.safetensors", "reconstruction.json"]
    # The exact floats come back through the scorer, and so do the eight bits.
    assert privbench.score(tmp_path / "found" / "images.safetensors", found.images).summary["mse"].mean == 0
    with Image.open(files[0]) as picture:
        assert picture.size == (32, 32)
    assert 'src="data:image/png;base64,' in found._repr_html_()


def test_flags_cannot_write_html() -> None:
    found = Reconstruction(torch.zeros(1, 3, 4, 4), flags=("<script>alert(1)</script>",))
    assert "<script" not in found._repr_html_()


# Options


def leaves(model: type, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        kind = field.annotation
        if hasattr(kind, "model_fields"):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_field_of_a_case_has_an_option() -> None:
    # Hashes, and whether the server is honest, follow from what is chosen.
    followed = {"schema_version", "victim.weights_sha256", "data.sha256", "threat_model.server", "prior_weights"}
    found = {"attack" if name.startswith("attack.") else name for name in leaves(Case)}
    assert found - followed <= set(SETTINGS)
    assert get_args(Case.model_fields["local"].annotation)[0] is LocalTraining


def test_the_choices_of_an_option_are_those_of_the_case() -> None:
    for name in ThreatModel.model_fields.keys() - {"server"}:
        assert choices_of(name) == get_args(ThreatModel.model_fields[name].annotation)
    assert choices_of("lpips_net") == get_args(Case.model_fields["lpips"].annotation)
    assert not choices_of("attack")
    assert set(OPTIONS) == set(RunOptions.__annotations__) - {"config", "settings"}
