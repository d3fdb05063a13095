"""The whole life of mPLUG-Owl2 on a laptop: a language model, both stages of the paper on easy-VQA, measured."""
