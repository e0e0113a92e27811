import pytest

from quantpipe.training.rates import Rates, warmup_length

RATES = Rates(
    total_steps=100,
    warmup_steps=10,
    lr=0.01,
    final_lr_fraction=0.01,
    momentum=0.937,
    warmup_momentum=0.8,
    warmup_bias_lr=0.1,
)


def test_cosine_is_halfway_at_half_time_and_ends_at_its_fraction() -> None:
    assert RATES.weight_lr(50) == pytest.approx(0.01 * (1 + 0.01) / 2)
    assert RATES.weight_lr(100) == pytest.approx(0.01 * 0.01)
    assert RATES.bias_lr(50) == RATES.weight_lr(50)


def test_warm_up_starts_where_it_should_and_is_linear() -> None:
    assert (RATES.weight_lr(0), RATES.bias_lr(0)) == (0.0, 0.1)
    assert RATES.momentum_at(0) == 0.8
    assert RATES.momentum_at(5) == pytest.approx((0.8 + 0.937) / 2)


def test_warm_up_meets_the_cosine() -> None:
    just_before, just_after = RATES.weight_lr(9), RATES.weight_lr(10)
    assert just_before < just_after < 0.01
    assert RATES.bias_lr(10) == just_after
    assert RATES.momentum_at(10) == 0.937


def test_no_warm_up() -> None:
    rates = Rates(**{**vars(RATES), "warmup_steps": 0})
    assert rates.weight_lr(0) == rates.bias_lr(0) == 0.01
    assert rates.momentum_at(0) == 0.937


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(3, 1000, 1000), (3, 100, 300), (0, 0, 0), (3, 10**6, 4000)],
)
def test_warm_up_is_the_longer_wish_within_a_fraction(
    epochs: int, steps: int, expected: int
) -> None:
    length = warmup_length(
        epochs=epochs, steps=steps, steps_per_epoch=100, total_steps=40000, max_fraction=0.1
    )
    assert length == expected
