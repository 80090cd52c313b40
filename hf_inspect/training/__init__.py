"""What the recipes share: settings, checkpoints bound to what made them, a log of what ran, the way up, and steps."""

from hf_inspect.training.checkpoints import (
    bound_checkpoints,
    content_of,
    differences,
    fit_made_from,
    made_from,
    newest_whole_checkpoint,
    resume_from,
    torn,
    train,
)
from hf_inspect.training.evaluation import WholeEvaluation
from hf_inspect.training.precision import Products
from hf_inspect.training.publish import Publication, publication
from hf_inspect.training.recipe import (
    LOG,
    augmentation,
    check_classes,
    check_processes,
    check_splits,
    parsed,
    recipe_log,
    run,
    write_training_log,
)
from hf_inspect.training.sharding import whole_again
from hf_inspect.training.steps import INSPECT, LAUNCH, Step, do, perform

__all__ = [
    "INSPECT", "LAUNCH", "LOG", "Products", "Publication", "Step", "WholeEvaluation", "augmentation",
    "bound_checkpoints", "check_classes", "check_processes", "check_splits", "content_of", "differences", "do",
    "fit_made_from", "made_from", "newest_whole_checkpoint", "parsed", "perform", "publication", "recipe_log",
    "resume_from", "run", "torn", "train", "whole_again", "write_training_log",
]  # fmt: skip
