"""Language models of checkpoints, and the tokenizer beside them."""

from functools import cached_property
from typing import Any

import torch
from torch import nn

from merge_lib.workloads.language.encoding import Encoder, Limits
from merge_lib.workloads.pretrained.config import Precision, TuningConfig
from merge_lib.workloads.pretrained.loading import load_model, load_tokenizer
from merge_lib.workloads.pretrained.locating import Located
from merge_lib.workloads.pretrained.models import PretrainedModels


class LanguageModels(PretrainedModels):
    """A pretrained language model, and how it is tuned.

    Args:
        located: its folder.
        tuning: what checkpoints hold.
        limits: on the lengths of texts.
        precision: as of `PretrainedModels`.
    """

    def __init__(
        self, located: Located, tuning: TuningConfig, limits: Limits, precision: Precision = "fp32"
    ) -> None:
        super().__init__(self._of_folder, tuning, precision)
        self.located, self.limits = located, limits

    @cached_property
    def encoder(self) -> Encoder:
        """The model's tokenizer."""
        start = self._config.decoder_start_token_id if self._config.is_encoder_decoder else None
        return Encoder(load_tokenizer(self.located), start, self.limits)

    def _of_folder(self, dtype: torch.dtype) -> nn.Module:
        """The model as in the folder, answering greedily whatever its own generation settings say."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

        cls = AutoModelForSeq2SeqLM if self._config.is_encoder_decoder else AutoModelForCausalLM
        model = load_model(self.located, cls, dtype=dtype)
        model.generation_config = GenerationConfig()
        return model

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.located.folder, local_files_only=True)
