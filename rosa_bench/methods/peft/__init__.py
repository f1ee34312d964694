"""Methods that Hugging Face PEFT implements, with our head, loop, checkpoints, merging and records.

Most of them are a yaml alone: `tuner.PeftTuner` takes those that change layers, `virtual_tokens.PeftTokens` those that
put vectors before the text, and `by_type.PeftByType` any other by its type. AdaLoRA and prompt tuning need more.
"""
