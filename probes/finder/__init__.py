"""The finder: which tensors of a loss are logits over tokens, and which integers of the batch they are trained on."""
