"""Load a saved adapter with PEFT alone, in a process that cannot import rosa_bench, and write its logits.

python docs/examples/lora_without_rosa_bench.py BASE_FOLDER ADAPTER_FOLDER IDS.safetensors LOGITS.safetensors
"""

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class Blocker(MetaPathFinder):
    """Makes the import of rosa_bench fail, as on a machine without it."""

    def find_spec(self, fullname: str, *_: object) -> None:
        """Refuse rosa_bench and everything inside it; leave all others to Python."""
        if fullname.partition(".")[0] == "rosa_bench":
            raise ModuleNotFoundError(f"{fullname} is blocked in this process")


def main(base: str, adapter: str, ids: str, output: str) -> None:
    """Load the base model as its own config says, then the adapter, and answer the tokens."""
    sys.meta_path.insert(0, Blocker())
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    task = json.loads((Path(adapter) / "adapter_config.json").read_text())["task_type"]
    kind: Any = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    model = PeftModel.from_pretrained(kind.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with torch.no_grad():
        save_file({"logits": model(input_ids=load_file(ids)["ids"]).logits.contiguous()}, output)
    assert "rosa_bench" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
