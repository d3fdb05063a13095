"""LoRA adapters: on a model, in a folder, continued, merged; weights in 4 bits."""
