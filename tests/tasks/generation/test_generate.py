"""Generation: the output for a prompt depends only on the prompt, the model and the settings."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.generation.generate import generate, pad_left
from rosa_bench.tasks.generation.task import Decoding

TOKENIZER = byte_tokenizer(max_length=512)
END, PAD = 2, 1
PROMPTS = [
    TOKENIZER(text, add_special_tokens=False)["input_ids"]
    for text in ("name[Aa] ||", "a", "name[The Long One], food[none at all], area[somewhere] ||", "xyz ||", "a b c d")
]


def decoded(tokens: list[int]) -> str:
    [text] = TOKENIZER.batch_decode([tokens], skip_special_tokens=True)
    return text.strip()


def decoding(**changes: float) -> Decoding:
    return Decoding(**{"beams": 1, "no_repeat_ngram": 0, "max_new_tokens": 12, "length_penalty": 1.0, **changes})  # pyrefly: ignore[bad-argument-type]


def write(model: PreTrainedModel, prompts: list[list[int]], how: Decoding, batch_size: int = 64) -> list[str]:
    return generate(
        model, TOKENIZER, prompts, how, end=END, padding=PAD, batch_size=batch_size, autocast=nullcontext
    )  # fmt: skip


Tiny = Callable[..., PreTrainedModel]
Loud = Callable[[PreTrainedModel], PreTrainedModel]


@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize(
    "how", [decoding(), decoding(beams=5), decoding(beams=3, no_repeat_ngram=2, max_new_tokens=30)]
)
def test_an_output_does_not_depend_on_its_batch(tiny_model: Tiny, kind: str, how: Decoding, loud: Loud) -> None:
    model = loud(tiny_model(kind))
    alone = [write(model, [prompt], how)[0] for prompt in PROMPTS]
    assert len(set(alone)) > 1  # the output depends on the prompt
    for batch_size in (2, 5):
        assert write(model, PROMPTS, how, batch_size) == alone
    assert write(model, PROMPTS[::-1], how, 3) == alone[::-1]


@pytest.mark.parametrize("kind", ["tiny_gpt2", "tiny_llama"])
def test_greedy_decoding_takes_the_likeliest_token(tiny_model: Tiny, kind: str, loud: Loud) -> None:
    model = loud(tiny_model(kind))
    for prompt, text in zip(PROMPTS, write(model, PROMPTS, decoding()), strict=True):
        tokens = list(prompt)
        with torch.inference_mode():
            while len(tokens) < len(prompt) + 12 and tokens[len(prompt) :][-1:] != [END]:
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert text == decoded(tokens[len(prompt) :])


@pytest.mark.parametrize("penalty", [1.0, -3.0])
def test_beam_search_finds_an_output_at_least_as_likely(tiny_model: Tiny, loud: Loud, penalty: float) -> None:
    model = loud(tiny_model("tiny_gpt2"))
    two = decoding(max_new_tokens=2, beams=200, length_penalty=penalty)  # of 261 x 261 pairs: all that can win
    prompt = PROMPTS[0]
    with torch.inference_mode():
        first = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        seconds = model(torch.tensor([[*prompt, token] for token in range(261)])).logits[:, -1].log_softmax(-1)
    pairs = (first.unsqueeze(-1) + seconds) / 2**penalty  # transformers divides by a power of the length
    pairs[END] = first[END]
    best = divmod(int(pairs.argmax()), 261)
    tokens = [END] if best[0] == END else list(best)
    assert write(model, [prompt], two) == [decoded(tokens)]


def test_beam_search_ends_once_as_many_outputs_have_ended_as_there_are_beams(tiny_model: Tiny, loud: Loud) -> None:
    """As the authors' runs do. Going on could find a longer output that scores better."""
    model = loud(tiny_model("tiny_gpt2"))
    with torch.no_grad():
        model.get_parameter("lm_head.weight")[END].mul_(3)
    found = write(model, PROMPTS, decoding(beams=3, length_penalty=2.0))

    def expected(early_stopping: bool) -> list[str]:
        how = GenerationConfig(
            num_beams=3, max_new_tokens=12, length_penalty=2.0, early_stopping=early_stopping, do_sample=False,
            eos_token_id=END, pad_token_id=PAD,
        )  # fmt: skip
        texts = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            [tokens] = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)  # pyrefly: ignore[not-callable]
            texts.append(decoded(tokens[len(prompt) :].tolist()))
        return texts

    assert found == expected(True)
    assert found != expected(False)


HABITS = {
    "do_sample": True, "temperature": 0.3, "top_k": 3, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1, "min_new_tokens": 5, "max_length": 20, "bad_words_ids": [[50]],
    "suppress_tokens": list(range(100, 200)), "begin_suppress_tokens": list(range(3, 261)), "forced_eos_token_id": 50,
    "exponential_decay_length_penalty": (2, 3.0), "num_return_sequences": 2, "return_dict_in_generate": True,
    "length_penalty": -5.0, "early_stopping": False, "eos_token_id": 50, "num_beams": 2,
}  # fmt: skip


@pytest.mark.parametrize("how", [decoding(), decoding(beams=3, no_repeat_ngram=3)])
def test_a_models_generation_config_is_ignored_and_kept(tiny_model: Tiny, how: Decoding, loud: Loud) -> None:
    model = loud(tiny_model("tiny_gpt2"))
    plain = write(model, PROMPTS, how)
    for habit, value in HABITS.items():
        assert model.generation_config is not None
        before = getattr(model.generation_config, habit)
        setattr(model.generation_config, habit, value)
        assert write(model, PROMPTS, how) == plain, habit
        assert getattr(model.generation_config, habit) == value
        setattr(model.generation_config, habit, before)


class Numbers:
    """Stands in for a tokenizer: decodes an output to its token ids up to EOS."""

    def batch_decode(self, rows: torch.Tensor, *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        cut = [row[: row.index(END)] if END in row else row for row in rows.tolist()]
        return [" ".join(map(str, row)) for row in cut]


def tokens_of(model: PreTrainedModel, prompts: list[list[int]], how: Decoding) -> list[list[int]]:
    written = generate(
        model, Numbers(), prompts, how, end=END, padding=PAD, batch_size=3, autocast=nullcontext  # pyrefly: ignore[bad-argument-type]
    )  # fmt: skip
    return [[int(number) for number in text.split()] for text in written]


def test_no_ngram_is_repeated_within_an_output(tiny_model: Tiny) -> None:
    model = tiny_model("tiny_gpt2")  # without the constraint, it repeats itself
    free, held = (tokens_of(model, PROMPTS, decoding(no_repeat_ngram=size, max_new_tokens=30)) for size in (0, 3))
    assert any(repeats(tokens, 3) for tokens in free)
    assert not any(repeats(tokens, 3) for tokens in held)


def test_an_output_may_repeat_the_prompt(tiny_model: Tiny) -> None:
    """transformers' own processor would forbid this, and with it every name of that many tokens."""
    model = always_saying(tiny_model("tiny_gpt2"), 50)
    prompt = [50] * 9
    assert tokens_of(model, [prompt], decoding(max_new_tokens=4, no_repeat_ngram=4)) == [[50] * 4]
    [longer] = tokens_of(model, [prompt], decoding(max_new_tokens=5, no_repeat_ngram=4))
    assert longer[:4] == [50] * 4 and longer[4] != 50  # but not repeat itself


def always_saying(model: PreTrainedModel, token: int) -> PreTrainedModel:
    """The model with a head that prefers one token for every input."""
    head = torch.nn.Linear(32, 261)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[token] = 5.0
    model.lm_head = head
    return model


def repeats(tokens: list[int], size: int) -> bool:
    runs = [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
    return len(set(runs)) < len(runs)


@pytest.mark.parametrize("beams", [1, 4])
def test_generation_stops_at_eos_and_at_max_new_tokens(tiny_model: Tiny, beams: int) -> None:
    model = tiny_model("tiny_gpt2")
    assert {len(tokens) for tokens in tokens_of(model, PROMPTS, decoding(beams=beams))} == {12}
    assert write(always_saying(model, END), PROMPTS, decoding(beams=beams)) == [""] * len(PROMPTS)


def test_prompts_are_left_padded() -> None:
    ids, mask = pad_left([[7, 8], [9]], PAD)
    assert ids.tolist() == [[7, 8], [PAD, 9]]
    assert mask.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"no_repeat_ngram": -1}, {"max_new_tokens": 0}])
def test_settings_out_of_range_are_an_error(wrong: dict) -> None:
    [key] = wrong
    with pytest.raises(UserError, match=f"task.decoding.{key}"):
        decoding(**wrong)
