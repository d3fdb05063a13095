"""The thread that computes: transformers' manager of continuous batching, its results and its crashes."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import ContinuousBatchingConfig

from . import paged_attention
from .paged_model import PagedOwl2

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0
_SAFETY_MARGIN = 0.15  # the manager's own


@dataclass(frozen=True)
class WorkerOptions:
    """The sizes that the manager works with.

    Attributes:
        max_requests: Answers in one step.
        max_batch_tokens: Tokens in one step; a longer prompt is read in pieces, between the tokens of others.
        cache_tokens: Tokens of the paged cache; None leaves it to the free memory of the GPU.
        page_tokens: Tokens of a block, the unit of the prefix cache.
    """

    max_requests: int
    max_batch_tokens: int
    cache_tokens: int | None
    page_tokens: int = 32
    shares_prefixes: bool = True


@dataclass(frozen=True)
class RequestProgress:
    """The manager's report on a request.

    Attributes:
        tokens: Tokens of the answer so far.
        error: The reason why it failed, if it did.
    """

    request_id: str
    tokens: list[int]
    is_finished: bool
    error: str | None


class Worker:
    """Starts the manager, and starts it again.

    Args:
        on_progress: Called in a thread of the worker for every new token.
        on_crash: Called there when the manager has ended without being told to.
    """

    def __init__(
        self,
        model: PagedOwl2,
        options: WorkerOptions,
        end_tokens: Sequence[int],
        on_progress: Callable[[RequestProgress], None],
        on_crash: Callable[[str], None],
    ) -> None:
        self.model = model
        self.options = options
        self.end_tokens = list(end_tokens)
        self._on_progress = on_progress
        self._on_crash = on_crash
        self._manager: Any = None
        self._stopping = False
        self._watcher: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self._manager is not None and bool(self._manager.is_running())

    @property
    def free_cache(self) -> float:
        """Share of the paged cache that no request holds, blocks kept for their prefix counted as held."""
        processor = None if self._manager is None else self._manager.batch_processor
        if processor is None:
            return 1.0
        cache = processor.cache
        if hasattr(cache, "compute_free_capacity"):
            return float(cache.compute_free_capacity())
        return cache.get_num_free_blocks() / cache.num_blocks

    @property
    def cache_tokens(self) -> int:
        """Size of the paged cache, whole blocks."""
        page = self.options.page_tokens
        if self.options.cache_tokens is not None:
            return -(-self.options.cache_tokens // page) * page
        processor = None if self._manager is None else self._manager.batch_processor
        return 0 if processor is None else processor.cache.num_blocks * page

    def start(self) -> None:
        """Makes a manager with an empty cache, and waits until that is there.

        Raises:
            RuntimeError: The manager ended before.
        """
        self._stopping = False
        own_attention = paged_attention.is_better(self.model.config, self.model.device)
        if own_attention:
            self.model.language_model.set_attn_implementation("sdpa")  # what the manager knows
        self._manager = self.model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=self.end_tokens, max_new_tokens=1),
            continuous_batching_config=self._config(),
        )
        if own_attention:
            self.model.language_model.set_attn_implementation(paged_attention.NAME)
        # The manager counts only those processors that it converted itself.
        self._manager.logit_processor.tensors_required = 1
        self._manager.start()
        self._watcher = threading.Thread(target=self._watch, args=(self._manager,), name="owl2-results", daemon=True)
        self._watcher.start()
        while self._manager.batch_processor is None:
            if not self._manager.is_running():
                raise RuntimeError("the worker did not start; the log has the reason")
            time.sleep(_POLL_SECONDS / 10)

    def stop(self) -> None:
        """Ends the manager and what it still computes."""
        self._stopping = True
        if self._manager is None:
            return
        if self._manager.is_running():
            self._manager.stop(block=True, timeout=_STOP_SECONDS, hard_stop=True)
        if self._watcher is not None:
            self._watcher.join(timeout=_STOP_SECONDS)
        self._manager = self._watcher = None
        gc.collect()  # after a crash its error refers to it: the cache would stay beside that of the next manager

    def submit(self, request_id: str, ids: list[int], max_new_tokens: int) -> bool:
        """Queues a prompt; False if the manager has ended."""
        manager = self._manager
        if manager is None or not manager.is_running():
            return False
        accepted = manager.add_request(ids, request_id=request_id, max_new_tokens=max_new_tokens, streaming=True)
        return accepted is not None

    def cancel(self, request_id: str) -> None:
        """Frees the memory of a request, if it is there, before the next step."""
        if self._manager is not None:
            self._manager.cancel_request(request_id)

    def _watch(self, manager: Any) -> None:
        """Passes on results as they arrive, until the manager ends."""
        while manager.is_running() or not manager.output_router.output_queue.empty():
            output = manager.get_result(timeout=_POLL_SECONDS)
            if output is not None:
                self._on_progress(
                    RequestProgress(
                        output.request_id, list(output.generated_tokens), output.is_finished(), output.error
                    )
                )
        if not self._stopping:
            error = manager.background_thread_status.fatal_error
            self._on_crash(f"{type(error).__name__}: {error}" if error is not None else "it ended")

    def _config(self) -> ContinuousBatchingConfig:
        options = self.options
        known = {field.name for field in fields(ContinuousBatchingConfig)}
        page = "page_size" if "page_size" in known else "block_size"  # the name up to transformers 5.17
        settings: dict[str, Any] = {
            page: options.page_tokens,
            "max_batch_tokens": options.max_batch_tokens,
            "max_requests_per_batch": options.max_requests,
            "allow_block_sharing": options.shares_prefixes,
            # The sampler looks at each step from Python: it can be neither captured nor run a step late.
            "use_async_batching": False,
            "use_cuda_graph": False,
            "per_request_processors": False,
        }
        if options.cache_tokens is not None:
            settings["num_blocks"] = self.cache_tokens // options.page_tokens
            # Under the margin, blocks that are kept for their prefix are given up: what a step needs is always there.
            needed = options.max_batch_tokens + options.max_requests * options.page_tokens
            settings["safety_margin"] = min(1.0, max(_SAFETY_MARGIN, needed / self.cache_tokens))
        if "auto_switch_to_flash" in known:
            settings["auto_switch_to_flash"] = self.model.dtype in (torch.float16, torch.bfloat16)
        return ContinuousBatchingConfig(**settings)
