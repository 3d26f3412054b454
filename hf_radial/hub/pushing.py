"""Pushes of a `Trainer` that report failures, never stop training, and are repeated at the end if they failed.

`Trainer` pushes its checkpoints in the background and never looks at the results. It pushes the final model once. This mixin
does not change how `Trainer` saves, what it uploads and when.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import RevisionNotFoundError
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import logging
from transformers.utils.hub import hf_api

from hf_radial.hub.retry import HubError, cause, make_branch, make_repo, with_retries

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

logger = logging.get_logger(__name__)


@dataclass
class _Push:
    """A checkpoint to push. It has no jobs if it was skipped because the previous push was still running."""

    step: int
    folder: Path
    jobs: list[Future[Any]] = field(default_factory=list)
    failed: bool = False
    done: bool = False


class PushingMixin(_Base):
    """Put it before a class derived from `Trainer`, whose `train()` must call `begin_pushing` and `finish_pushing`."""

    _pushes: list[_Push] | None = None  # this run's pushes; None before the first run

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As the base class: find or create the repository.

        Raises:
            HubError: that fails. `Trainer.__init__` calls this method, so the error comes before training.
        """
        repo = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        find = partial(super().init_hf_repo, *args, **kwargs)
        with_retries(partial(make_repo, find), f"finding or creating the repository {repo!r} to push to")

    # While training ---------------------------------------------------------------------------------------------------

    def begin_pushing(self) -> None:
        """Forget the pushes of earlier runs, and create the branch for checkpoints."""
        self._pushes = []
        if self._pushes_checkpoints():
            self._make_branch(self.args.hub_revision, self.args.hub_token)

    def _pushes_checkpoints(self) -> bool:
        args = self.args
        return bool(args.push_to_hub) and args.hub_strategy != HubStrategy.END and self.is_world_process_zero()

    def _make_branch(self, revision: str | None, token: str | None) -> None:
        if revision is None or revision == "main" or revision.startswith("refs/"):
            return
        make = partial(make_branch, hf_api(), str(self.hub_model_id), revision, token=token)
        with_retries(make, f"creating the branch {revision!r} of {self.hub_model_id}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the base class, but every error becomes a warning. The checkpoint is on disk, and training continues."""
        self.report_pushes()
        if self._pushes is None or not self._pushes_checkpoints():
            return super()._push_from_checkpoint(checkpoint_folder)
        push, before = _Push(self.state.global_step, Path(checkpoint_folder)), self._jobs()
        self._pushes.append(push)
        if not self.args.hub_always_push and not all(job.done() for job in before):
            return  # like the base class, but before any write to files that the running push reads
        try:
            self.write_progress_card()
            super()._push_from_checkpoint(checkpoint_folder)
        except Exception as error:
            self._report(push, error)
        push.jobs = [job for job in self._jobs() if job not in before]

    def write_progress_card(self) -> None:
        """Write the card into the folder that is pushed; for classes that have their own card."""

    def _jobs(self) -> list[Future[Any]]:
        return [] if self.push_in_progress is None else list(self.push_in_progress.jobs)

    def report_pushes(self) -> None:
        """Warn about pushes that failed since the last call."""
        for push in self._pushes or []:
            if push.jobs and not push.failed and all(job.done() for job in push.jobs):
                error = next(filter(None, (job.exception() for job in push.jobs)), None)
                push.done = error is None
                if error is not None:
                    self._report(push, error)

    def _report(self, push: _Push, error: BaseException) -> None:
        push.failed = True
        logger.warning(
            "pushing step %d to %s failed. Training continues. %s is complete, and the push is repeated at the end (%s)",
            push.step,
            self.hub_model_id,
            push.folder,
            cause(error),
        )

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Report failed pushes, then log as the base class does."""
        self.report_pushes()
        super().log(*args, **kwargs)

    # At the end -------------------------------------------------------------------------------------------------------

    def finish_pushing(self) -> None:
        """After training: wait for running pushes, then repeat those that failed or were skipped.

        If that fails too, it is a warning, so that the result of `train()` is not lost.
        """
        if not self._pushes:
            return
        self._finish_current_push()
        self.report_pushes()
        missing, last = self._missing_pushes(), self._pushes[-1]
        try:
            if last in missing:
                with_retries(partial(self._push_now, super()._push_from_checkpoint, last), *self._names(last))
            for push in missing:
                if push is not last:
                    self._push_checkpoint(push)
        except Exception as error:
            logger.warning("training is complete, but %s", error)

    def _missing_pushes(self) -> list[_Push]:
        """The pushes that failed or were skipped and that no later push replaces."""
        pushes = self._pushes or []
        each = self.args.hub_strategy == HubStrategy.ALL_CHECKPOINTS
        return [push for push in (pushes if each else pushes[-1:]) if not push.done]

    def _names(self, push: _Push) -> tuple[str, Path]:
        return f"pushing step {push.step} to {self.hub_model_id}", push.folder

    def _push_now(self, push_from_checkpoint: Callable[[str], None], push: _Push) -> None:
        """Push a checkpoint and its model, and wait. Errors are raised."""
        self.push_in_progress = None
        self.write_progress_card()
        push_from_checkpoint(str(push.folder))
        for job in self._jobs():
            job.result()
        push.done = True

    def _push_checkpoint(self, push: _Push) -> None:
        """Push a checkpoint's folder to the base class's place, for strategies that push whole checkpoints."""
        places: dict[Any, str] = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: push.folder.name}
        place = places.get(self.args.hub_strategy)
        if place is None:
            return
        if not push.folder.is_dir():
            logger.warning("%s was deleted (save_total_limit) before it could be pushed to %s", push.folder, self.hub_model_id)
            return
        upload = partial(
            hf_api().upload_folder,
            repo_id=str(self.hub_model_id),
            folder_path=push.folder,
            path_in_repo=place,
            commit_message=f"Training in progress, step {push.step}, checkpoint",
            token=self.args.hub_token,
            revision=self.args.hub_revision,
        )
        with_retries(upload, *self._names(push))
        push.done = True

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, but the upload is repeated while that can help, and a missing branch is created.

        Raises:
            HubError: the push failed for good. The output directory holds the complete model, tokenizer and card.
        """
        given = inspect.signature(Trainer.push_to_hub).bind(self, *args, **kwargs)
        given.apply_defaults()
        options, output_dir = given.arguments, str(self.args.output_dir)
        token = options["token"] or self.args.hub_token
        revision = options["revision"] or self.args.hub_revision
        if self.hub_model_id is None:
            try:
                self.init_hf_repo(**{name: options[name] for name in ("token", "private") if name in options})
            except HubError as error:
                self.save_model(_internal_call=True)
                self.create_model_card()
                raise HubError(f"{error} Nothing is lost: all of it is in {output_dir}.") from error
        push = super().push_to_hub
        if not self.is_world_process_zero():
            return push(*args, **kwargs)

        def upload() -> Any:
            # The last part of the base class. All processes saved the model together, so one alone must not save it again.
            self._make_branch(revision, token)
            return hf_api().upload_folder(
                repo_id=str(self.hub_model_id),
                folder_path=output_dir,
                commit_message=options["commit_message"],
                token=token,
                ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
                revision=revision,
            )

        blocking = options["blocking"]
        first: Any = partial(push, *args, **kwargs)
        if not blocking:
            first = first().result
        attempts = chain([first], repeat(upload))

        def attempt() -> Any:
            try:
                return next(attempts)()
            except RevisionNotFoundError:
                return upload()

        push_all = partial(with_retries, attempt, f"pushing {output_dir} to {self.hub_model_id}", output_dir)
        if not blocking:
            return hf_api().run_as_future(push_all)
        pushed = push_all()
        for missing in self._missing_pushes():
            self._push_checkpoint(missing)
        return pushed
