"""Loggers, one file each. A file is imported when its logger is used; other packages add theirs to `privbench.loggers`."""

__all__ = ["BUILT_IN"]

BUILT_IN = {
    "mlflow": "privbench.loggers.mlflow:MlflowLogger",
    "tensorboard": "privbench.loggers.tensorboard:TensorBoardLogger",
    "wandb": "privbench.loggers.wandb:WandbLogger",
}
"""Name to `module:attribute`."""
