"""Fine-tuning: training examples from the serving templates, losses over the catalog's trie, on TRL and PEFT.

The command is `llmgen train`; from Python, `llmgen.training.sft.run`. It needs the extra `llmgen[train]`.
"""
