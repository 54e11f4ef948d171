"""What a user asks for becomes complete cases; what cannot be meant is refused with what could be."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from privbench.core import ATTACKS, Case, LocalTraining, UserError
from privbench.models import prior_sha256
from privbench.resolving.components import split_names
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import parse_indices, resolve_cases

SMALL = {"attack": "test-walk", "model": "test-vit", "weights": "random"}


def cases(**options: object) -> list[Case]:
    return resolve_cases(cast(RunOptions, {**SMALL, **options}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mjp", ["mjp"]),
        ("none, no-pe ,mjp", ["none", "no-pe", "mjp"]),
        ("mjp:mask_ratio=0.27,dal_weight=0", ["mjp:mask_ratio=0.27,dal_weight=0"]),
        ("none,mjp:mask_ratio=0.27,dal_weight=0,no-pe", ["none", "mjp:mask_ratio=0.27,dal_weight=0", "no-pe"]),
        ("mjp:mask_ratio=0.1,mjp:mask_ratio=0.5", ["mjp:mask_ratio=0.1", "mjp:mask_ratio=0.5"]),
        ("none,naive-shuffle+mjp:mask_ratio=0.1,dal_weight=0", ["none", "naive-shuffle+mjp:mask_ratio=0.1,dal_weight=0"]),
        ("a:x=1,y=2+b:z=3,none", ["a:x=1,y=2+b:z=3", "none"]),
    ],
)
def test_a_comma_separates_defenses_and_parameters(text: str, expected: list[str]) -> None:
    assert split_names(text) == expected


def test_lists_say_the_same_as_commas() -> None:
    listed = cases(defense=["none", "naive-shuffle:ratio=0.5"], indices=[0, 2])
    assert listed == cases(defense="none,naive-shuffle:ratio=0.5", indices="0,2")
    assert cases(indices=range(2, 4)) == cases(indices="2-3")


def test_several_values_are_refused_where_there_is_one() -> None:
    with pytest.raises(UserError, match=r"adversary is \['aware', 'oracle'\]; accepted: one value; call once for each"):
        cases(adversary=["aware", "oracle"])


@pytest.mark.parametrize("text", ["", "none,,mjp", "none,", "mask_ratio=0.5,mjp"])
def test_a_list_with_holes_or_a_leading_parameter_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="accepted: NAME"):
        split_names(text)


@pytest.mark.parametrize(("text", "expected"), [("3", (3,)), ("0,3,5-7", (0, 3, 5, 6, 7)), ("[1, 2]", (1, 2))])
def test_indices(text: str, expected: tuple[int, ...]) -> None:
    assert parse_indices(text) == expected


@pytest.mark.parametrize("text", ["a", "1,,2", "-1", "5-3", "1-", "1.5"])
def test_bad_indices(text: str) -> None:
    with pytest.raises(UserError, match="accepted: whole numbers and ranges"):
        parse_indices(text)


def test_one_case_per_defense_and_all_else_equal() -> None:
    resolved = cases(defense="none,no-pe,naive-shuffle,mjp")
    assert [case.defense_name for case in resolved] == ["none", "no-pe", "naive-shuffle", "mjp"]
    assert len({case.identity for case in resolved}) == 4
    assert len({case.model_copy(update={"defense": resolved[0].defense}).identity for case in resolved}) == 1


def test_defaults_are_those_of_the_main_job() -> None:
    (case,) = cases()
    assert case.defense_name == "mjp"
    assert case.data.source == "photos"
    assert case.data.indices == (0, 1, 2, 3)
    assert (case.batch_size, case.seed, case.lpips) == (1, 0, "alex")
    assert case.threat_model.model_dump() == {
        "labels": "recovered",
        "model_mode": "eval",
        "adversary": "unaware",
        "training": "known",
        "server": "honest",
    }
    assert case.local is None


def test_local_training_is_read_and_is_part_of_the_identity() -> None:
    (plain,) = cases(defense="none")
    (trained,) = cases(defense="none", local="adamw:epochs=2,batches=3,lr=1e-3,dtype=float16")
    assert trained.local == LocalTraining(optimiser="adamw", steps=6, batches=3, learning_rate=1e-3, dtype="float16")
    assert plain.identity != trained.identity
    assert cases(defense="none", local="none")[0].identity == plain.identity


def test_what_is_trained_is_part_of_the_identity_and_all_is_the_default() -> None:
    (plain,) = cases(defense="none")
    (part,) = cases(defense="none", trains="attention+norms")
    assert (plain.trains, part.trains) == (None, "attention+norms")
    assert plain.identity != part.identity
    assert cases(defense="none", trains="all")[0].identity == plain.identity


@pytest.mark.parametrize("text", ["sgd:steps=0", "adam", "sgd:rate=1", "none:steps=2", "sgd:steps=2,epochs=2", "sgd:steps=1.5"])
def test_local_training_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"accepted: none, or sgd.*sgd:steps=5,lr=0\.01"):
        cases(defense="none", local=text)


@pytest.mark.parametrize(("batch_size", "count"), [(1, 4), (2, 4), (3, 3), (4, 4), (5, 5), (8, 8)])
def test_without_a_limit_there_are_about_four_images_in_whole_batches(batch_size: int, count: int) -> None:
    (case,) = cases(batch_size=batch_size)
    assert len(case.data.indices) == count


def test_every_parameter_is_resolved() -> None:
    (case,) = cases(defense="mjp:mask_ratio=0.27")
    assert case.defense[0].parameters["mask_ratio"] == 0.27
    assert {"dal_weight", "warm_up", "probability"} < set(case.defense[0].parameters)
    assert case.attack.parameters == {"steps": 4, "pause": 0.0, "largest_batch": 64}


def test_set_reaches_every_part_of_the_case() -> None:
    settings = (
        "attack.steps=9",
        "defense.mask_ratio=0.5",
        "threat_model.labels=known",
        "threat_model.adversary=oracle",
        "seed=3",
        "batch_size=2",
        "data.indices=4-7",
        "lpips=squeeze",
        "victim.model.num_classes=9",
    )
    (case,) = cases(settings=settings)
    assert case.attack.parameters["steps"] == 9
    assert case.defense[0].parameters["mask_ratio"] == 0.5
    assert case.threat_model.labels == "known"
    assert case.threat_model.adversary == "oracle"
    assert (case.seed, case.batch_size, case.data.indices, case.lpips) == (3, 2, (4, 5, 6, 7), "squeeze")
    assert case.victim.model.num_classes == 9


def test_a_defense_setting_changes_the_defenses_that_have_it() -> None:
    none, mjp = cases(defense="none,mjp", settings=("defense.mask_ratio=0.5",))
    assert none.defense[0].parameters == {}
    assert mjp.defense[0].parameters["mask_ratio"] == 0.5
    (named,) = cases(defense="mjp", settings=("defense.mjp.mask_ratio=0.5",))
    assert named == mjp


def test_a_preset_and_what_is_set_on_top() -> None:
    (case,) = cases(preset="long", settings=("attack.pause=1",))
    assert (case.attack.parameters["steps"], case.attack.parameters["pause"]) == (60, 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": ("attack.stepps=3",)}, ["unknown parameter of attack test-walk 'stepps'", "did you mean steps"]),
        ({"settings": ("defense.mask_ratoi=3",)}, ["'defense.mask_ratoi'", "did you mean defense.mask_ratio"]),
        ({"settings": ("sead=3",)}, ["unknown setting 'sead'", "did you mean seed"]),
        ({"settings": ("threat_model.label=known",)}, ["did you mean threat_model.labels"]),
        ({"settings": ("threat_model.labels=guessed",)}, ["threat_model.labels", "'recovered' or 'known'", "'guessed'"]),
        ({"settings": ("seed",)}, ["cannot read --set 'seed'", "KEY=VALUE"]),
        ({"settings": ("seed=",)}, ["cannot read --set 'seed='"]),
        ({"settings": ("seed=one",)}, ["seed is 'one'", "whole number"]),
        ({"settings": ("seed=1", "seed=2")}, ["seed is given twice"]),
        ({"settings": ("seed=1",), "seed": 2}, ["seed is given twice"]),
        ({"attack": "test-walk:steps=3", "settings": ("attack.steps=4",)}, ["attack.steps is given twice"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0"]),
        ({"settings": ("lpips=alexnet",)}, ["lpips", "'alex', 'vgg' or 'squeeze'", "'alexnet'"]),
        ({"batch_size": 0}, ["batch_size is 0"]),
        ({"batch_size": 16}, ["16 is larger than the data", "8 images"]),
        ({"limit": 3, "batch_size": 2}, ["3 images do not fill batches of 2"]),
        ({"limit": 0}, ["--limit 0"]),
        ({"indices": "9"}, ["no image 9", "0 to 7"]),
        ({"defense": "mpj"}, ["unknown defense 'mpj'", "did you mean mjp"]),
        ({"defense": "mjp:mask_ratio=2"}, ["mask_ratio", "less than or equal to 1", "'2'"]),
        ({"defense": "mjp,mjp"}, ["given twice"]),
        ({"attack": "test-wolk"}, ["unknown attack 'test-wolk'", "did you mean test-walk"]),
        ({"preset": "quik"}, ["unknown preset 'quik'", "short, long"]),
        ({"data": "photo"}, ["unknown dataset 'photo'", "did you mean photos"]),
        ({"split": "tset"}, ["split of photos 'tset'"]),
        ({"model": "vit_mini_patch4_23"}, ["unknown model", "did you mean vit_mini_patch4_32"]),
        ({"settings": ("victim.model.image_size=0",)}, ["victim.model.image_size is 0"]),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        cases(**options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_setting_that_means_two_defenses_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from privbench.core import DEFENSES
    from privbench.defenses.mjp import MaskedJigsawPuzzle

    class Other(MaskedJigsawPuzzle):
        name = "other"

    DEFENSES.register("other", Other)
    try:
        with pytest.raises(UserError, match=r"defense\.mjp\.mask_ratio or defense\.other\.mask_ratio"):
            cases(defense="mjp+other", settings=("defense.mask_ratio=0.5",))
    finally:
        DEFENSES.unregister("other")


# --config


def written(case: Case, folder: Path) -> Path:
    path = folder / "case.yaml"
    path.write_text(case.to_yaml(), encoding="utf-8")
    return path


def test_a_case_file_gives_the_same_case(tmp_path: Path) -> None:
    (case,) = cases(
        defense="mjp:mask_ratio=0.5", preset="long", indices="5,2", batch_size=2, labels="known", adversary="oracle", seed=7
    )
    assert resolve_cases(RunOptions(config=written(case, tmp_path))) == [case]


def test_options_and_settings_override_a_case_file(tmp_path: Path) -> None:
    (case,) = cases(defense="mjp:mask_ratio=0.5", preset="long", limit=2, seed=7)
    path = written(case, tmp_path)
    (seeded,) = resolve_cases(RunOptions(config=path, seed=1))
    assert seeded == case.model_copy(update={"seed": 1})
    (changed,) = resolve_cases(RunOptions(config=path, settings=("attack.pause=2", "defense.dal_weight=0")))
    assert changed.attack.parameters == {**case.attack.parameters, "pause": 2.0}
    assert changed.defense[0].parameters == {**case.defense[0].parameters, "dal_weight": 0.0}
    (other,) = resolve_cases(RunOptions(config=path, defense="none"))
    assert other.defense_name == "none"
    assert other.attack == case.attack
    assert other.data == case.data


def test_a_preset_over_a_case_file_starts_from_the_preset(tmp_path: Path) -> None:
    (case,) = cases(settings=("attack.pause=2",))
    (changed,) = resolve_cases(RunOptions(config=written(case, tmp_path), preset="long"))
    assert changed.attack.parameters == {"steps": 60, "pause": 0.0, "largest_batch": 64}


def test_a_case_file_whose_images_changed_is_refused(tmp_path: Path) -> None:
    (case,) = cases()
    data = case.data.model_copy(update={"sha256": "0" * 64})
    path = written(case.model_copy(update={"data": data}), tmp_path)
    with pytest.raises(UserError, match="images of 'photos' are not those of the case"):
        resolve_cases(RunOptions(config=path))
    (renewed,) = resolve_cases(RunOptions(config=path, data="photos"))
    assert renewed.data == case.data


def test_a_case_file_whose_weights_changed_is_refused(tmp_path: Path) -> None:
    (case,) = cases()
    victim = case.victim.model_copy(update={"weights_sha256": "0" * 64})
    path = written(case.model_copy(update={"victim": victim}), tmp_path)
    with pytest.raises(UserError, match="weights 'random' are not those of the case"):
        resolve_cases(RunOptions(config=path))


def test_the_weights_of_an_image_prior_are_part_of_a_case_where_it_has_a_weight() -> None:
    digest = prior_sha256("cnn_mini_32")
    for attack in ("gradvit", "relocation-matching", "gradinversion", "inverting-gradients:bn_prior=1"):
        (case,) = cases(attack=attack)
        assert case.prior_weights == {"cnn_mini_32": digest}
    for attack in ("gradvit:bn_prior=0", "inverting-gradients", "closed-form"):
        (case,) = cases(attack=attack)
        assert case.prior_weights == {}
    (ensemble,) = cases(attack="standard")
    assert ensemble.prior_weights == {"cnn_mini_32": digest}


def test_every_attack_that_has_a_prior_says_so() -> None:
    with_prior = [name for name in ATTACKS.names() if "prior" in ATTACKS.get(name).model_fields]
    assert len(with_prior) >= 4
    for name in with_prior:
        parameters = {"prior": "resnet18", "bn_prior": 1.0}
        assert ATTACKS.get(name).configured(parameters).image_priors() == ("resnet18",)


def test_a_prior_in_a_file_is_known_by_content(tmp_path: Path) -> None:
    def prior(folder: str, content: bytes) -> Case:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "w.pth").write_bytes(content)
        (case,) = cases(attack="gradvit", settings=(f"attack.prior=resnet18:{tmp_path / folder / 'w.pth'}",))
        return case

    assert prior("one", b"weights").identity == prior("two", b"weights").identity
    assert prior("one", b"other weights").identity != prior("two", b"weights").identity
    with pytest.raises(UserError, match=r"cannot read the weights of the prior 'resnet18:none\.pth'") as caught:
        cases(attack="gradvit", settings=("attack.prior=resnet18:none.pth",))
    assert "\n" not in str(caught.value)


def test_a_case_file_whose_prior_changed_is_refused(tmp_path: Path) -> None:
    (case,) = cases(attack="gradvit", settings=("attack.steps=3",))
    path = written(case.model_copy(update={"prior_weights": {"cnn_mini_32": "0" * 64}}), tmp_path)
    with pytest.raises(UserError, match="weights of the prior cnn_mini_32 are not those of the case"):
        resolve_cases(RunOptions(config=path))
    (renewed,) = resolve_cases(RunOptions(config=path, attack="gradvit", settings=("attack.steps=3",)))
    assert renewed.prior_weights == case.prior_weights
    (without,) = resolve_cases(RunOptions(config=path, settings=("attack.bn_prior=0",)))
    assert without.prior_weights == {}


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "schema_version: 9", "schema_version: 1\nsead: 2"])
def test_a_broken_case_file_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"case\.yaml") as caught:
        resolve_cases(RunOptions(config=path))
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_data_set_does_not_change_the_case(small_case: Callable[..., Case], tmp_path: Path) -> None:
    from PIL import Image

    for place in ("here", "there"):
        folder = tmp_path / place / "images"
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40), "teal").save(folder / "a.png")
    one, two = (small_case(data=str(tmp_path / place / "images"), limit=1) for place in ("here", "there"))
    assert one != two
    assert one.identity == two.identity
