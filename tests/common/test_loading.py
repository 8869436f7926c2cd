"""Loading models: what is asked for is what one gets, or one clear line."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from common.errors import ConfigError, DataUnavailable
from common.models import loading
from common.models.loading import ModelSpec, load, wrap

CONFIG = LlamaConfig(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def test_random_weights_are_the_seeds_and_disturb_nobody() -> None:
    before = torch.random.get_rng_state()
    spec = ModelSpec("random_tiny", "random", device="cpu")
    one, same, other = load(spec), load(spec), load(dataclasses.replace(spec, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    weights = [loaded.model.lm_head.weight for loaded in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not one.model.training
    assert not any(parameter.requires_grad for parameter in one.model.parameters())
    # 2 (K, V) * 4 layers * 2 heads * 16 channels * 4 bytes
    assert one.kv_bytes_per_token == 1024
    assert load(dataclasses.replace(spec, dtype="bfloat16")).kv_bytes_per_token == 512
    assert load(dataclasses.replace(spec, dtype="bfloat16")).fingerprint != one.fingerprint
    ids = torch.tensor([[5, 999, 7]])
    assert torch.isfinite(one.model(ids).logits).all()


def test_kv_sizes_of_the_papers_models() -> None:
    # Mistral-7B in 16 bits: 128 KiB per token.
    mistral = {"num_hidden_layers": 32, "num_key_value_heads": 8, "num_attention_heads": 32, "hidden_size": 4096}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**mistral, vocab_size=8), dtype=torch.bfloat16)
    loaded = loading.LoadedModel(ModelSpec("m", "random"), model, None, "", "")
    assert loaded.kv_bytes_per_token == 128 * 1024


def test_a_local_folder_round_trips(tmp_path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_config(CONFIG)
    model.save_pretrained(tmp_path)
    vocabulary = {"<bos>": 0, "<eos>": 1, "a": 2}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="a")), bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(tmp_path)
    spec = ModelSpec("mine", "local", path=str(tmp_path), dtype="float64", device="cpu")
    loaded = load(spec)
    assert loaded.dtype == torch.float64
    assert torch.equal(loaded.model.lm_head.weight, model.lm_head.weight.double())
    assert loaded.tokenizer.bos_token_id == 0
    assert loaded.tokenizer_fingerprint
    assert load(spec).fingerprint == loaded.fingerprint
    # One changed weight is another model.
    model.lm_head.weight.data[3, 3] += 1
    model.save_pretrained(tmp_path)
    assert load(spec).fingerprint != loaded.fingerprint


def test_wrap_fingerprints_what_it_is_given() -> None:
    model = AutoModelForCausalLM.from_config(CONFIG)
    before = wrap(model).fingerprint
    assert wrap(model).fingerprint == before
    model.lm_head.weight.data[0, 0] += 1
    assert wrap(model).fingerprint != before


def test_what_cannot_be_had_is_one_line(tmp_path, monkeypatch) -> None:
    def line(error: pytest.ExceptionInfo) -> str:
        text = str(error.value)
        assert "\n" not in text
        return text

    with pytest.raises(ConfigError) as error:
        load(ModelSpec("nope", "bundled"))
    assert "'nope'" in line(error)
    with pytest.raises(ConfigError) as error:
        load(ModelSpec("nope", "random"))
    assert "random_8x1024" in line(error)
    with pytest.raises(DataUnavailable) as error:
        load(ModelSpec("mine", "local", path=str(tmp_path)))
    assert "config.json" in line(error)
    with pytest.raises(ConfigError, match="path"):
        ModelSpec("mine", "hf")
    with pytest.raises(ConfigError, match="source"):
        ModelSpec("mine", "torrent")
    with pytest.raises(ConfigError, match="dtype"):
        ModelSpec("mine", dtype="int3")
    with pytest.raises(ConfigError, match="device"):
        load(ModelSpec("random_tiny", "random", device="toaster"))
    with pytest.raises(ConfigError, match="model=small"):
        ModelSpec.from_settings({"name": "none", "source": "none"})
    with pytest.raises(ConfigError, match="colour"):
        ModelSpec.from_settings({"name": "x", "source": "random", "colour": "red"})
    with pytest.raises(ConfigError, match="gpt2"):
        wrap(AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)))

    def no_hub(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nCheck your connection.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", no_hub)
    with pytest.raises(DataUnavailable) as error:
        load(ModelSpec("mistral", "hf", path="mistralai/Mistral-7B-v0.1", device="cpu"))
    assert "mistralai/Mistral-7B-v0.1" in line(error)
    assert "model.source=local" in line(error)


def test_settings_of_a_run_make_a_spec() -> None:
    settings = {"name": "small", "source": "bundled", "path": None, "revision": None, "dtype": "float32"}
    assert ModelSpec.from_settings(settings | {"device": "auto", "attention": "sdpa"}) == ModelSpec("small")


def test_a_device_that_is_not_supported_is_refused_before_torch_tries() -> None:
    with pytest.raises(ConfigError, match="device 'mps' is not supported"):
        loading.resolve_device("mps")


def test_two_threads_may_load_at_once() -> None:
    with ThreadPoolExecutor(2) as pool:
        spec = ModelSpec("small", device="cpu")
        one, other = pool.map(load, [spec, spec])
    assert one.fingerprint == other.fingerprint
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name])
