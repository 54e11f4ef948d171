"""The vocabulary of the suite: values, contracts and registries. Imports nothing else of the project.

A name is imported when it is first used, so that what only reads records does not wait for torch.
"""

from typing import TYPE_CHECKING

from privbench.core.lazy import imported_on_use

if TYPE_CHECKING:
    from privbench.core.attack import Attack, GroupAttack
    from privbench.core.attacker_view import AttackerView, GradientTransform, InputTransform, ScrambledPixels, Undo
    from privbench.core.case import Case, DataSpec, VictimSpec, generator_for
    from privbench.core.choices import ChoiceRole, InferredChoices
    from privbench.core.component import Component
    from privbench.core.composition import build_defense, resolve_defense
    from privbench.core.compute import ComputeOptions
    from privbench.core.defense import Defense, Effect, ProtectedInput, TrainingRule
    from privbench.core.ensemble import Ensemble, adversaries_up_to, ensemble_members, image_priors, is_ensemble
    from privbench.core.errors import AttackError, BusyError, ImageError, StoreError, UserError, unknown_name
    from privbench.core.feature_observation import FeatureObservation
    from privbench.core.local_training import LocalTraining, UpdateDtype
    from privbench.core.logger import Logger
    from privbench.core.metric import Metric
    from privbench.core.model_input import ModelInput, Normalisation
    from privbench.core.model_spec import ModelSpec
    from privbench.core.observation import Observation, Secret, UpdateKind
    from privbench.core.parameter_names import canonical_names, short_name, without_wrapper
    from privbench.core.reconstruction import Failure, Progress, Reconstruction
    from privbench.core.record import (
        FailedCase,
        ImageResult,
        Interval,
        MemberResult,
        PluginOrigin,
        Provenance,
        Record,
        mean_explained,
    )
    from privbench.core.reference_scores import Calibration, Identification
    from privbench.core.registry import ATTACKS, DATASETS, DEFENSES, ENSEMBLES, LOGGERS, METRICS, MODELS, SERVERS, Registry
    from privbench.core.server import Server, build_server
    from privbench.core.spec import ComponentSpec, Spec, parse_spec, parse_specs
    from privbench.core.threat_model import ADVERSARIES, Adversary, ThreatModel
    from privbench.core.utility_report import Training, UtilityReport
    from privbench.core.weight_delta import gradient_of_delta

__all__ = [
    "ADVERSARIES",
    "ATTACKS",
    "DATASETS",
    "DEFENSES",
    "ENSEMBLES",
    "LOGGERS",
    "METRICS",
    "MODELS",
    "SERVERS",
    "Adversary",
    "Attack",
    "AttackError",
    "AttackerView",
    "BusyError",
    "Calibration",
    "Case",
    "ChoiceRole",
    "Component",
    "ComponentSpec",
    "ComputeOptions",
    "DataSpec",
    "Defense",
    "Effect",
    "Ensemble",
    "FailedCase",
    "Failure",
    "FeatureObservation",
    "GradientTransform",
    "GroupAttack",
    "Identification",
    "ImageError",
    "ImageResult",
    "InferredChoices",
    "InputTransform",
    "Interval",
    "LocalTraining",
    "Logger",
    "MemberResult",
    "Metric",
    "ModelInput",
    "ModelSpec",
    "Normalisation",
    "Observation",
    "PluginOrigin",
    "Progress",
    "ProtectedInput",
    "Provenance",
    "Reconstruction",
    "Record",
    "Registry",
    "ScrambledPixels",
    "Secret",
    "Server",
    "Spec",
    "StoreError",
    "ThreatModel",
    "Training",
    "TrainingRule",
    "Undo",
    "UpdateDtype",
    "UpdateKind",
    "UserError",
    "UtilityReport",
    "VictimSpec",
    "adversaries_up_to",
    "build_defense",
    "build_server",
    "canonical_names",
    "ensemble_members",
    "generator_for",
    "gradient_of_delta",
    "image_priors",
    "is_ensemble",
    "mean_explained",
    "parse_spec",
    "parse_specs",
    "resolve_defense",
    "short_name",
    "unknown_name",
    "without_wrapper",
]

_NAMES = {
    "attack": ("Attack", "GroupAttack"),
    "attacker_view": ("AttackerView", "GradientTransform", "InputTransform", "ScrambledPixels", "Undo"),
    "case": ("Case", "DataSpec", "VictimSpec", "generator_for"),
    "choices": ("ChoiceRole", "InferredChoices"),
    "component": ("Component",),
    "composition": ("build_defense", "resolve_defense"),
    "compute": ("ComputeOptions",),
    "defense": ("Defense", "Effect", "ProtectedInput", "TrainingRule"),
    "ensemble": ("Ensemble", "adversaries_up_to", "ensemble_members", "image_priors", "is_ensemble"),
    "errors": ("AttackError", "BusyError", "ImageError", "StoreError", "UserError", "unknown_name"),
    "feature_observation": ("FeatureObservation",),
    "local_training": ("LocalTraining", "UpdateDtype"),
    "logger": ("Logger",),
    "metric": ("Metric",),
    "model_input": ("ModelInput", "Normalisation"),
    "model_spec": ("ModelSpec",),
    "observation": ("Observation", "Secret", "UpdateKind"),
    "parameter_names": ("canonical_names", "short_name", "without_wrapper"),
    "utility_report": ("Training", "UtilityReport"),
    "reconstruction": ("Failure", "Progress", "Reconstruction"),
    "record": (
        "FailedCase",
        "ImageResult",
        "Interval",
        "MemberResult",
        "PluginOrigin",
        "Provenance",
        "Record",
        "mean_explained",
    ),
    "registry": ("ATTACKS", "DATASETS", "DEFENSES", "ENSEMBLES", "LOGGERS", "METRICS", "MODELS", "SERVERS", "Registry"),
    "server": ("Server", "build_server"),
    "spec": ("ComponentSpec", "Spec", "parse_spec", "parse_specs"),
    "threat_model": ("ADVERSARIES", "Adversary", "ThreatModel"),
    "weight_delta": ("gradient_of_delta",),
    "reference_scores": ("Calibration", "Identification"),
}
"""Module to what it holds; a test compares it with the imports above."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = imported_on_use(__name__, _NAMES)
