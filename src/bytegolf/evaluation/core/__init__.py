"""CORE: 22 tasks that a language model answers without having been trained for them.

Li et al. 2024 (DataComp-LM, https://arxiv.org/abs/2406.11794), in the form of nanochat
(https://github.com/karpathy/nanochat): its bundle of tasks, its prompts, its draws and its baselines.
"""
