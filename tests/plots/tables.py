"""Tables of cases made by hand, as `privbench.analysis.cases.case_table` makes them of records."""

from typing import Any

import pandas as pd

GRADVIT: dict[str, Any] = {
    "steps": 1200,
    "trials": 1,
    "schedule": "gradvit",
    "residual": "observed",
    "layers": "first-block",
    "gradient": 1.0,
    "position_matching": 0.3,
    "position_error": 0.1,
    "bn_prior": 2e-5,
    "patch_prior": 1e-4,
    "registration": 1e-2,
    "total_variation": 0.8,
    "total_variation_end": 0.06,
    "squared_norm": 0.0,
    "relocation": True,
    "relocation_every": 40,
    "relocation_until": 0.2,
}
"""Parameters of an attack, as a record of version 0.1 has them."""

_SETTING = {
    "model": "vit",
    "image_size": 32,
    "weights": "embedded",
    "dataset": "cifar10",
    "split": "test",
    "images": "0,1",
    "batch_size": 1,
    "labels": "recovered",
    "model_mode": "eval",
    "local": "",
    "trains": "",
    "server": "",
    "lpips_net": "alex",
    "seed": 0,
}


def case(psnr: float, *, attack: str = "gradvit", parameters: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """One row; of `gradvit` the parameters that differ from the defaults are given."""
    fields = {**GRADVIT, **(parameters or {})} if attack == "gradvit" else dict(parameters or {})
    changed = ",".join(f"{key}={value}" for key, value in (parameters or {}).items())
    row = {
        **_SETTING,
        "attack": attack,
        "attack_params": str(fields),
        "attack_fields": fields,
        "attack_label": f"{attack}:{changed}" if changed else attack,
        "defense": "none",
        "defense_params": "",
        "defense_label": "none",
        "adversary": "unaware",
        "mask_ratio": None,
        "n_images": 2,
        "psnr_mean": psnr,
        "psnr_ci_low": psnr - 1,
        "psnr_ci_high": psnr + 2,
        **changes,
    }
    return {**row, "case": str(hash(str(row)))}


def mjp(psnr: float, ratio: float, **changes: Any) -> dict[str, Any]:
    """One row under MJP."""
    label = f"mjp:mask_ratio={ratio}"
    return case(psnr, defense="mjp", defense_params=label, defense_label=label, mask_ratio=ratio, **changes)


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows as a table."""
    return pd.DataFrame(list(rows))


LADDER = (
    case(10.0, parameters={"trials": 1, "schedule": "constant", "bn_prior": 0.0, "patch_prior": 0.0, "relocation": False}),
    case(12.0, parameters={"trials": 1, "schedule": "constant", "patch_prior": 0.0, "relocation": False}),
    case(13.0, parameters={"trials": 1, "schedule": "constant", "relocation": False}),
    case(13.5, parameters={"trials": 2, "schedule": "constant", "relocation": False}),
    case(15.0, parameters={"trials": 2, "relocation": False}),
    case(22.0, parameters={"trials": 2}),
)
"""The objective, term by term, upon what all have in common."""

CONTROL = case(9.0, parameters={"gradient": 0.0, "position_matching": 0.0, "position_error": 0.0, "relocation": False})
"""The priors alone."""
