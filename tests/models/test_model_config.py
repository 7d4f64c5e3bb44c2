import pytest

from tune_newllm.models import ModelConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", 0),
        ("hidden_dim", 1.5),
        ("ctx_dim", True),
        ("num_layers", -1),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("family", "lstm"),
        ("init", "xavier"),
        ("ffn", "dense"),
        ("tied", "yes"),
    ],
)
def test_refuses_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=rf"model\.{field} must .*got {value!r}"):
        ModelConfig(**{field: value})


def test_defaults_are_the_sizes_of_the_original_baseline_with_what_trains_at_any_depth():
    config = ModelConfig()
    assert (config.embed_dim, config.hidden_dim, config.ctx_dim, config.num_layers) == (256, 512, 256, 6)
    assert (config.dropout, config.init, config.ffn, config.tied) == (0.0, "orthogonal", "plain", False)
