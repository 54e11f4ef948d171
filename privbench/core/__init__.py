"""The vocabulary of the suite: values, contracts and registries. Imports nothing else of the project."""

from privbench.core.attack import Attack, GroupAttack
from privbench.core.attacker_view import AttackerView, GradientTransform, InputTransform, ScrambledPixels, Undo
from privbench.core.case import Case, DataSpec, VictimSpec, generator_for
from privbench.core.choices import ChoiceRole, InferredChoices
from privbench.core.component import Component
from privbench.core.composition import build_defense, resolve_defense
from privbench.core.compute import ComputeOptions
from privbench.core.defense import Defense, Effect, ProtectedInput, TrainingRule
from privbench.core.ensemble import Ensemble, adversaries_up_to, ensemble_members, is_ensemble
from privbench.core.errors import AttackError, BusyError, ImageError, StoreError, UserError, unknown_name
from privbench.core.feature_observation import FeatureObservation
from privbench.core.local_training import LocalTraining, UpdateDtype, gradient_of_delta
from privbench.core.metric import Metric
from privbench.core.model_input import ModelInput, ModelSpec, Normalisation
from privbench.core.observation import Observation, Secret, UpdateKind
from privbench.core.parameter_names import canonical_names, short_name
from privbench.core.price import Price, Training
from privbench.core.reconstruction import Failure, Progress, Reconstruction
from privbench.core.record import FailedCase, ImageResult, Interval, MemberResult, Provenance, Record
from privbench.core.registry import ATTACKS, DATASETS, DEFENSES, ENSEMBLES, METRICS, MODELS, Registry
from privbench.core.spec import ComponentSpec, Spec, parse_spec, parse_specs
from privbench.core.threat_model import Adversary, ThreatModel
from privbench.core.yardstick import Calibration, Identification

__all__ = [
    "ATTACKS",
    "DATASETS",
    "DEFENSES",
    "ENSEMBLES",
    "METRICS",
    "MODELS",
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
    "MemberResult",
    "Metric",
    "ModelInput",
    "ModelSpec",
    "Normalisation",
    "Observation",
    "Price",
    "Progress",
    "ProtectedInput",
    "Provenance",
    "Reconstruction",
    "Record",
    "Registry",
    "ScrambledPixels",
    "Secret",
    "Spec",
    "StoreError",
    "ThreatModel",
    "Training",
    "TrainingRule",
    "Undo",
    "UpdateDtype",
    "UpdateKind",
    "UserError",
    "VictimSpec",
    "adversaries_up_to",
    "build_defense",
    "canonical_names",
    "ensemble_members",
    "generator_for",
    "gradient_of_delta",
    "is_ensemble",
    "parse_spec",
    "parse_specs",
    "resolve_defense",
    "short_name",
    "unknown_name",
]
