"""`--push_to_hub` of a recipe -> the one way up, `hub.push`, tried before the training and gone when it is done."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect import hub
from hf_inspect.errors import DataError, InspectError

if TYPE_CHECKING:
    from transformers import TrainingArguments


@dataclass(frozen=True, slots=True)
class Publication:
    """The repository (org/name) that a finished model goes to, who may read it, and the token where one was given."""

    repository: str
    private: bool
    token: str | None = None

    def send(self, folder: Path) -> None:
        """Push the finished folder, checked. An error of ours says that the model is whole here, and how to go on."""
        try:
            made = hub.push(folder, self.repository, private=self.private, token=self.token)
        except InspectError as error:
            command = f"hf-inspect push {folder} {self.repository}{'' if self.private else ' --public'}"
            raise type(error)(
                f"{error} The model is not on the Hub; it lies whole in {folder}: when that is mended, run '{command}'."
            ) from None
        print(made or f"{self.repository} holds all of it already; nothing was sent.")


def publication(training: "TrainingArguments") -> Publication | None:
    """Where the model is to go, None unless `push_to_hub` is set, which the Trainer finds unset from here on.

    Its own pushing takes pickles and checkpoints along, writes a card of its own and is public. The repository is made
    and tried now: HubError when the model could not go there, DataError for settings that say how a Trainer pushes.
    """
    if not training.push_to_hub:
        return None
    training.push_to_hub = False
    defaults = {"hub_strategy": "every_save", "hub_always_push": False, "hub_revision": None}
    if other := [name for name, value in defaults.items() if getattr(training, name) != value]:
        raise DataError(f"{', '.join(other)}: a model goes up once, when it is finished; leave that out.")
    private = training.hub_private_repo is not False
    name = training.hub_model_id or Path(training.output_dir).resolve().name
    if training.process_index == 0:
        name = hub.open_repository(name, private=private, token=training.hub_token)
    return Publication(name, private, training.hub_token)
