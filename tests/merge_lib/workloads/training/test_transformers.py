"""Models of transformers in the training loop."""

import pytest
import torch

from flows.training_cases import WordLesson

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")


@pytest.fixture
def llama():
    """Two layers, the same values every time; with LoRA factors if asked for."""

    def make(*, lora=False):
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **sizes))
        if lora:
            settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            peft.inject_adapter_in_model(settings, model)
        return model

    return make


@pytest.fixture
def words():
    generator = torch.Generator().manual_seed(0)
    return WordLesson(torch.randint(32, (24, 8), generator=generator))


def train(fit, model, words, **settings):
    frozen = ["*.base_layer", "*embed*", "*norm*", "lm_head", "*mlp*", "*k_proj", "*o_proj"]
    lora = any("lora" in name for name, _ in model.named_parameters())
    return fit(model, words, freeze=frozen if lora else [], **settings)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    "settings", [{"gradient_checkpointing": True}, {"micro_batch": 3}], ids=["twice", "micro"]
)
def test_what_saves_memory_changes_no_more_than_rounding(fit, llama, words, lora, settings):
    plain, thrifty = llama(lora=lora), llama(lora=lora)
    expected = train(fit, plain, words)
    course = train(fit, thrifty, words, **settings)
    assert course.curves.loss == pytest.approx(expected.curves.loss, abs=2e-4)
    assert thrifty.config.use_cache
    assert not thrifty.is_activation_checkpointing
    changed = {
        name
        for name, value in llama(lora=lora).state_dict().items()
        if not torch.equal(value, thrifty.state_dict()[name])
    }
    assert changed
    assert not lora or all("lora" in name for name in changed)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # of torch's own
def test_the_compiled_model_is_the_model(fit, llama, words):
    plain, compiled = llama(), llama()
    fit(plain, words)
    with torch.compiler.set_stance(
        "force_eager"
    ):  # compiling itself is torch's business, and takes half a minute
        fit(compiled, words, compile=True)
    theirs = compiled.state_dict()
    assert theirs.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
