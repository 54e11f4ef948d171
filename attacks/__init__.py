"""Attacks, one file each; a new one is a file, a line here, and a card in cards/."""

BUILT_IN = {
    "adjoint-matching": "privbench.attacks.adjoint_matching:AdjointMatching",
    "april": "privbench.attacks.april:April",
    "april-optimisation": "privbench.attacks.april_optimisation:AprilOptimisation",
    "closed-form": "privbench.attacks.closed_form:ClosedForm",
    "dlg": "privbench.attacks.dlg:DeepLeakage",
    "fishing": "privbench.attacks.fishing:ReadFished",
    "gradinversion": "privbench.attacks.gradinversion:GradInversion",
    "gradvit": "privbench.attacks.gradvit:GradViT",
    "idlg": "privbench.attacks.idlg:ImprovedDeepLeakage",
    "imprint": "privbench.attacks.imprint:ReadImprint",
    "inverting-gradients": "privbench.attacks.inverting_gradients:InvertingGradients",
    "local-steps": "privbench.attacks.local_steps:LocalSteps",
    "relocation-matching": "privbench.attacks.relocation_matching:RelocationMatching",
    "subspace": "privbench.attacks.subspace:Subspace",
    "token-search": "privbench.attacks.token_search:TokenSearch",
}
"""Registered name to `module:class`."""
