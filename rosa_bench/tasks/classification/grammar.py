"""Declaration of the generated grammar task, of all its phenomena or of some. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any

from rosa_bench.data.generators.grammar import PHENOMENA
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import setting
from rosa_bench.tasks.classification.task import TextTask


@dataclass(frozen=True, kw_only=True)
class GrammarTask(TextTask):
    """Acceptability of generated sentences; `rosa_bench.data.generators.grammar` says how many of each phenomenon."""

    phenomena: list[str] = setting(
        "what the sentences are about; []: everything", default_factory=list, choices=PHENOMENA, before=[]
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.phenomena)) < len(self.phenomena):
            raise UserError(f"task.phenomena=[{','.join(self.phenomena)}] names one twice; name each once")

    @property
    def generated_with(self) -> dict[str, Any]:
        return {"phenomena": tuple(self.phenomena) or PHENOMENA}
