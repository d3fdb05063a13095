"""The Penn Treebank tokenizer of the caption metrics."""
