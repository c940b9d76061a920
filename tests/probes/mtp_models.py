"""transformers' own layers for multi-token prediction: small random instances beside their main model, and losses."""

import torch
import torch.nn.functional as F
import transformers
from further_models import ce, later
from lm_tiny import VOCAB, tiny_model
from torch import nn

try:
    from transformers.modeling_layers import MtpModel
except ImportError:  # came with transformers 5
    MtpModel = None

__all__ = ["BATCH", "CLASSES", "Predicting", "mtp_loss"]

#: Classes whose configuration says how many such layers a checkpoint has, and can be small; none trains them itself.
CLASSES = {
    name: key
    for name, key in {
        "DeepseekV3ForCausalLM": "num_nextn_predict_layers",
        "Glm4MoeForCausalLM": "num_nextn_predict_layers",
        "InklingForCausalLM": "num_mtp_layers",
    }.items()
    if MtpModel is not None and hasattr(transformers, name)
}
_IDS = torch.randint(8, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": _IDS, "labels": torch.cat([torch.full((2, 3), -100), _IDS[:, 3:]], 1)}


class Predicting(nn.Module):
    """A main model, and layers that each read one token more and call the main head again for the one after it."""

    def __init__(self, name, layers):
        super().__init__()
        self.main = tiny_model(name, **{CLASSES[name]: layers})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.mtp = MtpModel(self.main, layers)
            for weight in self.mtp.layers.parameters():  # some are left as the memory was
                nn.init.normal_(weight, std=0.02)

    def forward(self, input_ids):
        hidden = self.main.get_decoder()(input_ids=input_ids).last_hidden_state
        logits, places = [self.main.lm_head(hidden)], torch.arange(input_ids.shape[1])[None]
        for number in range(self.mtp.num_mtp_layers):
            following = F.pad(input_ids[:, number + 1 :], (0, number + 1))
            hidden = self.mtp.forward_layer(number, hidden, places, None, input_ids=following)
            logits.append(self.mtp.shared_head(hidden))
        return logits


def mtp_loss(late=0):
    """The main loss and those of the layers, their labels ``late`` tokens too far ahead."""

    def loss(model, batch):
        main, *further = model(batch["input_ids"])
        extra = [ce(one, later(batch["labels"], far + late)) for far, one in enumerate(further, 2)]
        return ce(main, later(batch["labels"], 1)) + 0.3 * sum(extra)

    return loss
