"""What every defense keeps to, checked on clients of the embedded architecture with random weights."""

import torch
from torch import Tensor, nn

from privbench.adversary import simulate
from privbench.conformance.composition_rules import COMPOSITION_RULES
from privbench.conformance.defense_probes import (
    EXPLAINED,
    built,
    must_simulate_exactly,
    prepared,
    protects_gradients,
    relative_error,
    same_inputs,
)
from privbench.conformance.harness import client_update, simulated_gradients, some_images
from privbench.conformance.rules import (
    NotApplicableError,
    Rule,
    check_class,
    check_parameters,
    global_state_stays,
    keep,
)
from privbench.conformance.seal import holds_image
from privbench.core import ADVERSARIES, DEFENSES, AttackerView, Defense, ModelInput
from privbench.models import client_loss
from privbench.undo import undone

__all__ = ["DEFENSE_RULES"]

_CHANGED = 1e-3
_MOST_WORDS = 60


# Parameters and words


def _class(spec: str) -> None:
    name = spec.partition(":")[0]
    check_class(name, DEFENSES.get(name), Defense)


def _parameters(spec: str) -> None:
    check_parameters(built(spec))


def _guarantee(spec: str) -> None:
    text = built(spec).guarantee()
    words = len(text.split())
    keep(text[:1].isupper() and text.endswith(".") and "\n" not in text, f"guarantee() is no sentence on one line: '{text}'")
    keep(1 < words <= _MOST_WORDS, f"guarantee() has {words} words; accepted: 2 to {_MOST_WORDS}")


def _victim(spec: str) -> None:
    name, found = spec.partition(":")[0], built(spec).trained_as()
    keep(found in {"none", name}, f"trained_as() is '{found}'; accepted: 'none', '{name}'")


# What the client does


def _batch(spec: str) -> None:
    update, images = client_update(spec), some_images(max(2, built(spec).smallest_batch()))
    copy = images.clone()
    fed = prepared(update.defense, update.victim, images, seed=1).model_input
    keep(
        (fed.images.shape, fed.images.dtype) == (images.shape, images.dtype), "prepare_batch changes the batch's shape or type"
    )
    low, high = float(fed.images.min()), float(fed.images.max())
    keep(0 <= low <= high <= 1, f"prepare_batch returns pixels from {low:.3g} to {high:.3g}; accepted: 0 to 1")
    keep(torch.equal(images, copy), "prepare_batch changes the batch in place")
    shape = tuple(update.victim(*fed.arguments).shape)
    keep(shape == (len(images), 10), f"of its batch the model makes logits {shape}, expected {(len(images), 10)}")


def _choices(spec: str) -> None:
    update, images = client_update(spec), some_images(max(2, built(spec).smallest_batch()))
    with global_state_stays():
        first = prepared(update.defense, update.victim, images, seed=0)
    keep(same_inputs(first, prepared(update.defense, update.victim, images, seed=0)), "equal generators give different batches")
    others = (prepared(update.defense, update.victim, images, seed) for seed in range(1, 8 if first.choices else 2))
    if first.choices:
        keep(any(not same_inputs(first, other) for other in others), "all generators give the same choices")
        wrong = [name for name in first.choices if name.partition(".")[0] != update.defense.name]
        keep(not wrong, f"a choice is called '{wrong[0] if wrong else ''}'; expected '{update.defense.name}.CHOICE'")
    else:
        keep(
            all(same_inputs(first, other) for other in others),
            "generators give different batches, and choices name no difference",
        )


def _disclosed(spec: str) -> None:
    update = client_update(spec, adversary="oracle")
    disclosed = update.observation.disclosed
    keep(not holds_image(disclosed, update.secret), "a choice holds a private image")
    other = client_update(spec, adversary="oracle", images=1 - update.secret.images).observation.disclosed
    keep(all(torch.equal(disclosed[key], other[key]) for key in disclosed), "a choice depends on the images")


def _gradients(spec: str) -> None:
    update = client_update(spec)
    gradients = {name: value.clone() for name, value in update.observation.gradients.items()}
    sent = update.defense.protect_gradients(gradients, torch.Generator().manual_seed(1))
    same = {name: value.shape for name, value in sent.items()} == {name: value.shape for name, value in gradients.items()}
    keep(same, "protect_gradients changes names or shapes")
    keep(all(torch.isfinite(value).all() for value in sent.values()), "protect_gradients returns what is not finite")


def _sending(spec: str) -> None:
    with global_state_stays():
        one, other = (client_update(spec, batch=2).observation.gradients for _ in range(2))
    keep(all(torch.equal(one[name], other[name]) for name in one), "equal generators send different gradients")


def _in_place(spec: str) -> None:
    update = client_update(spec)
    given = {name: torch.randn(2, *value.shape) for name, value in update.observation.gradients.items()}
    copies = {name: value.clone() for name, value in given.items()}
    update.defense.protect_samples(given, torch.Generator().manual_seed(1))
    update.defense.protect_gradients({name: value[0] for name, value in given.items()}, torch.Generator().manual_seed(1))
    keep(all(torch.equal(given[name], copies[name]) for name in given), "the gradients that it is given are changed in place")


def _training(spec: str) -> None:
    for progress in (0.0, 0.5, 1.0):
        update, images = client_update(spec), some_images(max(2, built(spec).smallest_batch()))
        victim, generator = update.victim, torch.Generator().manual_seed(3)
        batch = update.defense.training_batch(victim, ModelInput(images), generator, progress).model_input
        keep(batch.images.shape == images.shape, "training_batch changes the batch's shape")
        loss = client_loss(victim, batch, torch.arange(len(images)))
        extra = update.defense.extra_loss(victim)
        if extra is not None:
            added = extra(victim, batch, progress)
            keep(added.shape == () and float(added.detach()) >= 0, "extra_loss is no scalar of 0 or more")
            loss = loss + added
        gradients = torch.autograd.grad(loss, list(victim.parameters()), allow_unused=True)
        found = [value for value in gradients if value is not None]
        keep(all(torch.isfinite(value).all() for value in found), "a training step has a gradient that is not finite")
        keep(any(value.any() for value in found), "a training step moves no weight")


# What the attacker simulates


def _forward(spec: str) -> None:
    for adversary in ADVERSARIES:
        update = client_update(spec, batch=2, adversary=adversary)
        count = len(update.secret.images)
        images = some_images(count, seed=9).requires_grad_(True)
        simulation = simulate(update.observation)
        chosen, view = update.defense.scored_choices(update.secret.choices), simulation.view
        keep(view.inferred.roles <= chosen.roles, f"{adversary}: it infers what the client did not choose")
        keep(view.movable is None or chosen.order is not None, f"{adversary}: patches are movable, and no order is in `scored`")
        keep(chosen.order is None or chosen.order.dtype == torch.int64, "the order in `scored` is not int64")
        logits = simulation.logits(images)
        keep(logits.shape == (count, 10), f"{adversary}: logits {tuple(logits.shape)}, expected {(count, 10)}")
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.arange(count)), [images])
        # A simulation that drops some of the candidate could not recover it.
        share = float((gradient != 0).flatten(1).double().mean())
        keep(share > 0.99, f"{adversary}: only {100 * share:.0f} % of the candidate's pixels count")


def _oracle(spec: str) -> None:
    for batch in (1, 2):
        update = client_update(spec, batch=batch, adversary="oracle")
        must_simulate_exactly(spec, update)
        error = relative_error(
            simulated_gradients(update.observation, update.secret.images, update.secret.labels), update.observation
        )
        keep(error < EXPLAINED, f"at the private images the simulated gradient differs by {error:.1e} from the observed one")


def _undone(spec: str) -> None:
    update = client_update(spec, adversary="oracle")
    if torch.equal(update.secret.fed, update.secret.images):
        raise NotApplicableError("it does not change the images")
    view = simulate(update.observation).view
    found = undone(view, update.secret.fed)
    keep(view.undo is None or found.complete, "its way back, undo, does not lead to images that are fed so")
    if not found.complete:
        raise NotApplicableError("its transform_input has no way back; closed forms will call their rows lower bounds")
    error = float((found.images - update.secret.images).abs().max())
    if error > 1 / 255:
        raise NotApplicableError(f"several images are fed alike: what is found differs by {error:.2f}")


def _unaware(spec: str) -> None:
    # Of two images mixup may mix each with itself.
    update = client_update(spec, batch=4 if built(spec).smallest_batch() > 1 else 1, adversary="unaware")
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    fed = prepared(update.defense, update.victim, update.secret.images, seed=11).model_input
    untouched = not update.secret.choices and not protects_gradients(update.defense) and not fed.layer_noise
    error = relative_error(ours, update.observation)
    if untouched and torch.equal(update.secret.fed, update.secret.images):
        keep(error < EXPLAINED, f"it changes nothing, and the plain gradient differs by {error:.1e} from what is sent")
    else:
        keep(error > _CHANGED, f"the undefended pass explains the update (error {error:.1e}): nothing is defended")


def _single_pass(spec: str) -> None:
    for adversary in ADVERSARIES:
        update = client_update(spec, adversary=adversary)
        view = simulate(update.observation).view
        if not update.observation.threat_model.knows_defense:
            plain = view.transform_gradient is None and view.entries_are_exact and not view.expected(["network.pos_embed"])
            keep(plain, "unaware: it simulates what happens to the gradient")
        if view.transform_gradient is None:
            continue
        transform = view.transform_gradient
        observed = {name: value for name, value in update.observation.gradients.items() if "blocks.0" in name}
        simulated = {name: torch.randn(2, *value.shape) for name, value in observed.items()}

        def product(
            gradients: dict[str, Tensor],
            transform: object = transform,
            observed: dict[str, Tensor] = observed,
            view: AttackerView = view,
        ) -> Tensor:
            sent = transform(gradients, observed, view.known)  # type: ignore[operator]
            return torch.stack([(value * observed[name]).sum() for name, value in sent.items()]).sum()

        slopes = torch.func.vmap(torch.func.grad(product))(simulated)
        keep(all(torch.isfinite(slope).all() for slope in slopes.values()), f"{adversary}: a derivative is not finite")
        moved = any(slope[0].any() and slope[1].any() for slope in slopes.values())
        keep(moved, f"{adversary}: what is sent has no derivative")
        for name, slope in torch.func.grad(product)({name: value[1] for name, value in simulated.items()}).items():
            close = torch.allclose(slopes[name][1], slope, rtol=1e-4, atol=1e-6)
            keep(close, f"{adversary}: in a pass over several clients the derivative of {name} is another one")


DEFENSE_RULES = (
    Rule("is a documented class with its registered name", _class),
    Rule("has frozen, keyword-only parameters that are stored unchanged", _parameters),
    Rule("says what it guarantees in a sentence", _guarantee),
    Rule("names the victim that it runs on", _victim),
    Rule("feeds a batch of the same shape, range and type, and leaves the original alone", _batch),
    Rule("draws from its generator alone, and its choices name what it drew", _choices),
    Rule("discloses choices that are no images and do not depend on images", _disclosed),
    Rule("sends finite gradients of the same names and shapes", _gradients),
    Rule("sends the same for the same generator and leaves global state alone", _sending),
    Rule("does not change the gradients that it is given", _in_place),
    Rule("lets every training step move weights", _training),
    Rule("has a differentiable forward pass for every adversary", _forward),
    Rule("lets the oracle compute the observed gradient from the private images", _oracle),
    Rule("is undone for the oracle where it changes images", _undone),
    Rule("is not explained by the undefended pass", _unaware),
    Rule("lets several clients be simulated in one pass", _single_pass),
    *COMPOSITION_RULES,
)
"""In the order in which they are checked: what is cheap and what others rest on comes first."""
