"""Parameters that FSDP2 shards over two ranks, under ``run``: what is trained is judged, causality said not to be."""

import json
import os
from pathlib import Path

import forked_ranks
import pytest

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[3]

SCRIPT = """\
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

SHIFT = {shift}
sizes = {{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}}
dist.init_process_group("gloo")
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).train()
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
torch.manual_seed(dist.get_rank())
for _ in range(3):
    ids = torch.randint(0, 64, (2, 12))
    logits = model(input_ids=ids, use_cache=False).logits
    loss = F.cross_entropy(logits[:, : 12 - SHIFT].flatten(0, 1), ids[:, SHIFT:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item())
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("shift", "ignored", "verdict", "found"),
    [
        (1, (), "incomplete", ["LA805"]),
        (1, ("--ignore", "LA805:all"), "pass", []),
        (0, (), "fail", ["LA102"]),
        (2, (), "fail", ["LA103"]),
    ],
)
def test_what_sharded_ranks_train(shift, ignored, verdict, found, tmp_path, warm):
    script, out = tmp_path / "train.py", tmp_path / "r.json"
    script.write_text(SCRIPT.format(shift=shift))

    def ranks(*before):
        environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return warm.python(forked_ranks.__file__, *before, script, cwd=tmp_path, env=environ)

    alone, ours = ranks(), ranks("-m", "loss_align", "run", "--json", out, *ignored)
    assert sorted(alone.stdout.split()) == sorted(ours.stdout.split()), "losses of all steps, bit for bit"
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["verdict"], [one["code"] for one in report["findings"]]) == (verdict, found), ours.stderr
    assert len(report["ranks"]) == 2
    assert bool(ours.returncode) is (verdict == "fail")
    assert "its parameters are sharded over processes, which would have to run along" in ours.stderr
