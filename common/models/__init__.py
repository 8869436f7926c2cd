"""Language models: the bundled ones, and loading of any Llama, Mistral, Qwen2 or Qwen3 model (see `loading`)."""
