"""Small models with heads that predict further ahead, as MTP, Medusa and EAGLE have them, and their losses."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = [
    "IDS",
    "LABELS",
    "SHORTER",
    "Draft",
    "Eagle",
    "Medusa",
    "Mtp",
    "Shorter",
    "ce",
    "draft_loss",
    "eagle_loss",
    "later",
    "medusa_loss",
    "mtp_loss",
]

V, D = 128, 32
IDS = torch.randint(4, V, (2, 24), generator=torch.Generator().manual_seed(1))
LABELS = IDS.clone()
LABELS[:, :8] = -100


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes))


def ce(logits, target):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))


def later(labels, far):
    """The label ``far`` positions later, and none past the end."""
    return F.pad(labels[:, far:], (0, far), value=-100)


class Mtp(nn.Module):
    """One depth of DeepSeek's design: a row has read the next token too, and gives the one after it."""

    def __init__(self):
        super().__init__()
        self.main = llama()
        self.join, self.mtp_head = nn.Linear(2 * D, D), nn.Linear(D, V, bias=False)

    def forward(self, input_ids):
        body = self.main.model
        hidden = body(input_ids=input_ids).last_hidden_state
        following = body.embed_tokens(F.pad(input_ids[:, 1:], (0, 1)))
        return self.main.lm_head(hidden), self.mtp_head(torch.tanh(self.join(torch.cat([hidden, following], -1))))


class Shorter(Mtp):
    """As it is published: a row for each token that another one follows, through the main head or one of its own."""

    def __init__(self, *, tied=False):
        super().__init__()
        self.mtp_head = self.main.lm_head if tied else self.mtp_head

    def forward(self, input_ids):
        body = self.main.model
        hidden = body(input_ids=input_ids).last_hidden_state
        row = torch.cat([hidden[:, :-1], body.embed_tokens(input_ids[:, 1:])], -1)
        return self.main.lm_head(hidden), self.mtp_head(torch.tanh(self.join(row)))


#: At every door: whether the head of ``Shorter`` is tied, the name of its stream, what is trained, and what is told.
SHORTER = [
    (False, "head[mtp_head]", "right", []),
    (False, "head[mtp_head]", "prompt trained", ["LA202"]),
    (True, "text call 2", "right", []),
    (True, "text call 2", "shifted once more", ["LA104"]),
]


TARGETS = {
    "right": lambda ids, labels: later(labels, 2),
    "shifted once more": lambda ids, labels: later(labels, 3),
    "one short": lambda ids, labels: later(labels, 1),
    "prompt trained": lambda ids, labels: later(ids, 2),
    "mask one ahead": lambda ids, labels: later(ids, 2).masked_fill(later(labels, 3) == -100, -100),
    "wraps round": lambda ids, labels: torch.cat([labels[:, 2:], ids[:, :2]], 1),
}


def mtp_loss(kind):
    def loss(model, batch):
        main, extra = model(batch["input_ids"])
        target = TARGETS[kind](batch["input_ids"], batch["labels"])
        return ce(main, later(batch["labels"], 1)) + 0.3 * ce(extra, target[:, : extra.shape[1]])

    return loss


class Medusa(nn.Module):
    """Heads of layers of their own on the last hidden state: two ahead, three ahead."""

    def __init__(self):
        super().__init__()
        self.base = llama()
        self.medusa = nn.ModuleList(
            nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, V, bias=False)) for _ in range(2)
        )

    def forward(self, input_ids):
        hidden = self.base.model(input_ids=input_ids).last_hidden_state
        return self.base.lm_head(hidden), [head(hidden) for head in self.medusa]


def medusa_loss(kind):
    def loss(model, batch):
        base, heads = model(batch["input_ids"])
        labels, short = batch["labels"], kind == "heads one short"
        total = ce(base, labels if kind == "base not shifted" else later(labels, 1))
        return total + sum(0.2 * ce(one, later(labels, far - short)) for far, one in enumerate(heads, 2))

    return loss


class Draft(nn.Module):
    """EAGLE: a frozen model's features and the next token, through a layer of the draft's own."""

    def __init__(self):
        super().__init__()
        self.main = llama().requires_grad_(False)
        self.draft, self.draft_head = nn.Linear(2 * D, D), nn.Linear(D, V, bias=False)

    def forward(self, input_ids):
        body = self.main.model
        hidden = body(input_ids=input_ids).last_hidden_state
        following = body.embed_tokens(F.pad(input_ids[:, 1:], (0, 1)))
        return self.main.lm_head(hidden), self.draft_head(self.draft(torch.cat([hidden, following], -1)))


class Eagle(Draft):
    """EAGLE as it is trained: the model runs without gradients, the draft gives a row less than there are ids."""

    def forward(self, input_ids):
        with torch.no_grad():
            out = self.main(input_ids=input_ids, output_hidden_states=True)
        following = self.main.model.embed_tokens(input_ids)
        row = torch.cat([out.hidden_states[-1][:, :-1], following[:, 1:]], -1)  # has read the token after its own
        return out.logits, self.draft_head(self.draft(row))


def eagle_loss(far, *, soft=False, whole=False):
    """On the token ``far`` after the feature of a row: 2, where 1 is the token that the row has read."""

    def loss(model, batch):
        teacher, student = model(batch["input_ids"])
        target = batch["input_ids" if whole else "labels"][:, far:]
        student = student[:, : target.shape[1]]
        if not soft:
            return ce(student, target)
        wanted = teacher[:, far - 1 : far - 1 + target.shape[1]].softmax(-1)
        return F.cross_entropy(student[target != -100], wanted[target != -100])

    return loss


def draft_loss(far, *, soft=False):
    def loss(model, batch):
        teacher, student = model(batch["input_ids"])
        if soft:
            rows = later(batch["labels"], far) != -100
            return F.cross_entropy(student[:, :-1][rows[:, :-1]], teacher[:, 1:][rows[:, :-1]].softmax(-1))
        return ce(student, later(batch["labels"], far))

    return loss
