"""The Penn Treebank tokenizer that caption metrics stand on."""
