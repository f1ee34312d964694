"""Print the commands of the runs that ask when a resampled subspace beats LoRA at an equal number of parameters.

    python -m scripts.studies.capacity tiny | sh         # a decoder of 27,000 weights
    python -m scripts.studies.capacity methods | sh      # the same decoder and book, with other methods
    python -m scripts.studies.capacity smollm2 | sh      # SmolLM2-135M, attention matrices
    python -m scripts.studies.capacity small_book | sh   # SmolLM2-135M, the values of ten layers, 250 passes
    python -m scripts.studies.capacity parts | sh        # the small decoder learns its book in four parts, on a CPU
    python -m scripts.studies.capacity parts_smollm2 | xargs -P6 -I{} sh -c {}   # SmolLM2-135M does, six runs at a time

Each line sweeps learning rates and seeds of one arm. The phone book in docs/findings.md comes from these runs, with
``rosa-bench tables`` and ``rosa-bench figures``. Cost: ``tiny`` is 252 and ``methods`` 90 runs of about 10 s on a GPU
that 16 processes share; ``smollm2`` is about 40 runs of 3 minutes on an H200 that three share, and ``small_book`` 133
runs of 80 s that three share. The first four lines of ``smollm2`` are a book that rank 1 can hold. ``parts`` is 18
runs of a minute on one core, and ``parts_smollm2`` 36 of a minute that six share.
"""

from collections.abc import Iterator

from rosa_bench.system.errors import UserError
from scripts.arguments import one_of, start

RESAMPLED = "method.resample_unit=steps method.last_resample=0.8"
REWARM = {10: 5, 25: 10, 50: 10, 100: 20, 200: 20}  # steps from one draw to the next -> steps of re-warm-up
A_ALONE = "method=rosa method.train=a method.init=zero"
TINY_BOOK = (
    "task=phonebook model=tiny_llama +model.random.initializer_range=0.2 task.pairs=512 task.digits=4 "
    "task.passes=40 epochs=6 batch_size=64 seed=0,1,2"
)


def every(steps: int, *, rewarm: bool = True) -> str:
    """Return the settings that draw every so many steps."""
    rewarmed = f" method.rewarm_steps={REWARM[steps]}" if rewarm else ""
    return f"{RESAMPLED} method.resample_every={steps}{rewarmed}"


def tiny() -> Iterator[str]:
    """Yield the commands for a decoder with random weights, and a book of 3.3 bits per parameter of rank 2."""
    yield f"{TINY_BOOK} method=ft lr=6e-4,2e-3,6e-3"
    arms = [
        "method=lora rank=1,2,4,8",
        *(f"method=lora rank=2 {every(steps)}" for steps in (10, 25, 100)),
        "method=rosa rank=2 method.init=svd,balanced method.resample_every=0",
        f"method=rosa rank=2 method.init=balanced {every(10)}",
        *(f"method=rosa rank=2 method.init=svd,balanced {every(steps)}" for steps in (25, 50, 100, 200)),
        *(f"{A_ALONE} rank=4 method.basis=random,gradient {every(steps)}" for steps in (25, 100)),
        *(
            f"{A_ALONE} rank=4 method.basis=random method.moments=rotate {every(steps, rewarm=False)}"
            for steps in (10, 25, 100)
        ),
        *(
            f"method=rosa rank=2 method.init=balanced method.stagger=true {every(steps, rewarm=False)}"
            for steps in (50, 200)
        ),
    ]
    yield from (f"{TINY_BOOK} {arm} lr=6e-3,2e-2,6e-2" for arm in arms)


def methods() -> Iterator[str]:
    """Yield the commands for other methods that learn the book of `tiny`, at rank 2."""
    yield f"{TINY_BOOK} method=galore,fira,apollo,flora rank=2 lr=2e-3,6e-3,2e-2"
    yield f"{TINY_BOOK} method=lora_fa,dora,pissa,rslora,hira,randlora rank=2 lr=6e-3,2e-2,6e-2"


def small_book() -> Iterator[str]:
    """Yield the commands for SmolLM2-135M with so small a book that it is read 250 times: 3.5 bits per parameter."""
    book = "task=phonebook task.pairs=1024 task.passes=25 epochs=10 batch_size=128"
    values = r"method.targets=layers\.1\d\.self_attn\.v_proj"
    yield f"{book} method=ft lr=2e-4"
    arms = [
        "method=lora rank=1,2,4,8",
        f"method=lora rank=1 {every(25)}",
        "method=rosa rank=1 method.init=balanced method.resample_every=0",
        *(f"method=rosa rank=1 method.init=svd {every(steps)}" for steps in (10, 25)),
        *(f"method=rosa rank=1 method.init=balanced {every(steps)}" for steps in (25, 100)),
        *(
            f"{A_ALONE} rank=4 method.basis=random method.moments=rotate {every(steps, rewarm=False)}"
            for steps in (25, 100)
        ),
    ]
    for rates_and_seeds in ("lr=2e-3,6e-3,2e-2,6e-2,2e-1 seed=0", "lr=2e-2,6e-2,2e-1 seed=1,2"):
        yield from (f"{book} {arm} '{values}' {rates_and_seeds}" for arm in arms)


def smollm2() -> Iterator[str]:
    """Yield the commands for SmolLM2-135M: a book of 0.4 bits per parameter of rank 1, and one of 3.8."""
    yield "task=phonebook method=ft lr=6e-5,2e-4,6e-4"
    yield "task=phonebook method=lora rank=1 method.targets=all-linear,attention lr=2e-3,6e-3,2e-2"
    yield "task=phonebook method=rosa rank=1 method.resample_every=0 lr=6e-3"
    yield (
        "task=phonebook method=rosa rank=1 method.targets=all-linear,attention method.resample_unit=steps "
        "method.resample_every=25 lr=2e-3,6e-3,2e-2"
    )
    book = "task=phonebook task.pairs=16384 epochs=6"
    yield f"{book} method=ft lr=2e-4,6e-4"
    arms = [
        "method=lora rank=1,4,8",
        *(f"method=lora rank=1 {every(steps)}" for steps in (25, 100)),
        *(f"method=rosa rank=1 method.init=svd,balanced {every(steps)}" for steps in (25, 100)),
        *(f"{A_ALONE} rank=2 method.basis=random {every(steps)}" for steps in (25, 100)),
    ]
    yield from (f"{book} {arm} method.targets=attention lr=2e-3,6e-3" for arm in arms)


def in_parts(period: float) -> dict[str, str]:
    """Return the arms that learn a book part by part, by name. ``period`` is a fraction of the run.

    In the tiny decoder LoRA and ROSA of rank 1 and RSO of rank 2 train equally many parameters. Draws go on to the end.
    """
    drawn = f"method.resample_unit=run method.resample_every={period:g} method.last_resample=1"
    return {
        "ft": "method=ft",
        "lora": "method=lora rank=1",
        "lora of rank 4": "method=lora rank=4",
        "rosa": f"method=rosa rank=1 method.init=balanced method.rewarm_steps=10 {drawn}",
        "rso": f"method=rso rank=2 {drawn}",
        "relora": f"method=relora rank=1 method.rewarm_steps=10 {drawn}",
    }


def parts() -> Iterator[str]:
    """Yield the commands for the decoder and book of `tiny`, learned in four parts of 480 steps each.

    Rates are those that are best for the whole book (of ReLoRA's, for a period of 25 steps). Only full fine-tuning is
    better at 6e-3.
    """
    book = (
        "task=phonebook model=tiny_llama +model.random.initializer_range=0.2 task.pairs=512 task.digits=4 "
        "task.passes=40 task.parts=4 epochs=24 batch_size=64"
    )
    lrs = {"ft": 2e-3, "relora": 6e-2}
    for seeds in ("0", "1,2"):
        yield from (f"{book} seed={seeds} lr={lrs.get(name, 2e-2):g} {arm}" for name, arm in in_parts(0.0125).items())


def parts_smollm2() -> Iterator[str]:
    """Yield the commands for SmolLM2-135M and a book that it learns in four parts of 200 steps each."""
    book = "task=phonebook task.parts=4 task.pairs=1024 task.passes=25 epochs=16 batch_size=128"
    for seeds in ("0", "1,2"):
        for name, arm in in_parts(0.03125).items():
            lrs = "6e-5,2e-4" if name == "ft" else "2e-3,6e-3"
            yield f"{book} seed={seeds} lr={lrs} {arm}"


STUDIES = {
    "tiny": tiny, "methods": methods, "smollm2": smollm2, "small_book": small_book, "parts": parts,
    "parts_smollm2": parts_smollm2,
}  # fmt: skip


def main(*studies: str) -> None:
    """Print the commands of the studies that are named."""
    if not studies:
        raise UserError(f"name one or more of: {', '.join(STUDIES)}")
    for name in studies:
        for command in STUDIES[name]():
            print("rosa-bench -m", command)


if __name__ == "__main__":
    start(main, __doc__, rest=one_of(*STUDIES))
