"""Names in the adapter files of Hugging Face PEFT."""

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# Before the names of tensors: what PEFT calls the model that it wraps, by a tuner of layers or by virtual tokens.
WRAPPED = "base_model.model"
WITH_TOKENS = "base_model"
