"""What both kinds of recipes share: settings, checkpoints bound to what made them, a log of what ran, the way up."""

from hf_inspect.training.checkpoints import (
    bound_checkpoints,
    content_of,
    differences,
    made_from,
    newest_whole_checkpoint,
    resume_from,
    torn,
    train,
)
from hf_inspect.training.publish import Publication, publication
from hf_inspect.training.recipe import (
    LOG,
    augmentation,
    check_classes,
    check_processes,
    parsed,
    run,
    write_training_log,
)

__all__ = [
    "LOG", "Publication", "augmentation", "bound_checkpoints", "check_classes", "check_processes", "content_of",
    "differences", "made_from", "newest_whole_checkpoint", "parsed", "publication", "resume_from", "run", "torn",
    "train", "write_training_log",
]  # fmt: skip
