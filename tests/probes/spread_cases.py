"""Models spread over processes, and what a check must say of them and leave behind; run by torchrun or in one process.

``torchrun --nproc-per-node 2 tests/probes/spread_cases.py NAME...`` prints one line of JSON per case and process.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lm_batches import text_batch
from lm_tiny import LENGTH, tiny_model
from narrow import narrow_batch, narrow_model
from torch import distributed, nn

from probes import check_loss
from probes.checks.preflight import Plan, preflight
from probes.models import adapter_for
from probes.witness.loss_file import load_loss

#: ``cuda`` runs the cases of FSDP2 and DDP on nccl, a process to a device.
DEVICE = os.environ.get("DEVICE", "cpu")
#: Of Higgs's own forward, which gives a view of its audio logits.
HIGGS_WARNS = r"FSDP2-wrapped module \(FSDPHiggsAudioModel\) returned a view"
TRAINERS = Path(__file__).parents[2] / "fixtures" / "trainers"


# -- losses ---------------------------------------------------------------------------------------------


def own(model, batch):
    return model(**batch).loss


def copied(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten())


def own_but_for_rank_1(model, batch):
    return copied(model, batch) if distributed.get_rank() == 1 else own(model, batch)


def decoded_twice(model, batch):
    """A second shift behind decoder ids that are the labels already shifted."""
    return F.cross_entropy(model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def trainer(where):
    return load_loss(f"{TRAINERS}/{where}")


# -- models ---------------------------------------------------------------------------------------------


def llama(**extra):
    return tiny_model("LlamaForCausalLM", **extra).to(DEVICE)


def fused(shift):
    """As Liger patches a model: its forward hands the head's weight to a fused loss, and there are no logits."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state[:, : LENGTH - shift]
        loss = F.linear_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, labels[:, shift:].flatten())
        return type("Output", (), {"loss": loss, "logits": None})()

    model = llama()
    model.__class__ = type("Fused", (type(model),), {"forward": forward})
    return model


def sharded(model, layers=None, **policy):
    """Every layer a group of its own, and the rest, heads included, at the root: as FSDP2 is used."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(DEVICE, (distributed.get_world_size(),))
    for layer in layers or model.model.layers:
        fully_shard(layer, mesh=mesh, **policy)
    return fully_shard(model, mesh=mesh, **policy)


def half():
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def with_lora(model):
    import peft

    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(model, config)


def lora_sharded():
    model = with_lora(llama())
    return sharded(model, model.base_model.model.model.layers)


def encoder_decoder():
    model = tiny_model("BartForConditionalGeneration").to(DEVICE)
    return sharded(model, [*model.model.encoder.layers, *model.model.decoder.layers])


def higgs():
    model = narrow_model()
    return sharded(model, model.layers)


def ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def accelerated(model):
    from accelerate import Accelerator

    return Accelerator(cpu=True, mixed_precision="bf16").prepare(model)


# -- cases ----------------------------------------------------------------------------------------------


def of_text():
    return {key: value.to(DEVICE) for key, value in text_batch().items()}


@dataclass(frozen=True)
class Case:
    """A model, a loss, and the codes that every process must name; ``codes`` by rank where they differ."""

    make: Callable[[], nn.Module]
    loss: Callable[..., Any] = own
    codes: tuple[str, ...] = ()
    batch: Callable[[], dict[str, Any]] = of_text
    train: Callable[..., Any] = own
    preflight: bool = False
    only_rank_1: bool = False


def higgs_case(where, *codes, **options):
    batch = partial(narrow_batch, 2, length=96)
    return Case(higgs, trainer(where), codes, batch, trainer("correct.py:loss"), **options)


CASES = {
    "fsdp2": Case(lambda: sharded(llama())),
    "fsdp2, copy": Case(lambda: sharded(llama()), copied, ("LA102",)),
    "fsdp2, fused": Case(lambda: sharded(fused(1))),
    "fsdp2, fused copy": Case(lambda: sharded(fused(0)), own, ("LA102",)),
    "fsdp2, tied head": Case(lambda: sharded(llama(tie_word_embeddings=True)), copied, ("LA102",)),
    "fsdp2, bfloat16": Case(lambda: sharded(llama(), mp_policy=half())),
    "fsdp2, bfloat16 fused copy": Case(lambda: sharded(fused(0), mp_policy=half()), own, ("LA102",)),
    "fsdp2, lora": Case(lora_sharded),
    "fsdp2, encoder and decoder": Case(encoder_decoder),
    "fsdp2, encoder and decoder, double shift": Case(encoder_decoder, decoded_twice, ("LA103",)),
    "fsdp2, preflight": Case(lambda: sharded(llama()), preflight=True),
    "fsdp2, preflight of a copy": Case(lambda: sharded(llama()), copied, ("LA102",), preflight=True),
    "ddp": Case(lambda: ddp(llama())),
    "ddp, copy": Case(lambda: ddp(llama()), copied, ("LA102",)),
    "ddp, preflight": Case(lambda: ddp(llama()), preflight=True),
    "accelerate": Case(lambda: accelerated(llama())),
    "accelerate, copy": Case(lambda: accelerated(llama()), copied, ("LA102",)),
    "accelerate, lora": Case(lambda: accelerated(with_lora(llama()))),
    "accelerate, preflight": Case(lambda: accelerated(llama()), preflight=True),
}
HIGGS = {
    "higgs, fsdp2": higgs_case("correct.py:loss"),
    "higgs, fsdp2, audio copy": higgs_case("copy_audio.py:loss", "LA102"),
    "higgs, fsdp2, fused": higgs_case("correct_fused.py:both_heads"),
    "higgs, fsdp2, fused audio copy": higgs_case("fused_audio.py:audio_copy", "LA102"),
    "higgs, fsdp2, preflight": higgs_case("correct.py:loss", preflight=True),
}
#: Only where there are two processes: what one of them trains must neither hang the other nor be said of it.
APART = {
    "fsdp2, one process copies": Case(lambda: sharded(llama()), own_but_for_rank_1, ("LA102",), only_rank_1=True),
    "ddp, one process copies": Case(lambda: ddp(llama()), own_but_for_rank_1, ("LA102",), only_rank_1=True),
}


# -- running --------------------------------------------------------------------------------------------


def whole_state(model):
    tensors = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    return {key: (v.full_tensor() if hasattr(v, "full_tensor") else v).clone() for key, v in tensors.items()}


def outside(model):
    """What a check could leave behind, besides changed values."""
    return {
        "kinds": [type(parameter).__name__ for parameter in model.parameters()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is not None for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "patched": [name for name, module in model.named_modules() if "forward" in vars(module)],
    }


def trained(model, case, steps=2):
    """The losses of a few steps of training."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(steps):
        loss = case.train(model, case.batch())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def run_case(case):
    """Check one model, then train it, beside a twin that was never checked."""
    model, twin = case.make(), case.make()
    seen, state = outside(model), whole_state(model)
    if case.preflight:
        report = preflight(Plan(model, adapter_for(model), case.batch(), case.loss))
    else:
        report = check_loss(model, case.batch(), case.loss)
    now, after = outside(model), whole_state(model)
    losses = trained(model, case)
    return {
        "codes": [finding.code for finding in report.findings if finding.is_error],
        "failed": [check.id for check in report.checks if check.status in ("fail", "error")],
        "causality": [report.check("causality").status, *(f.code for f in report.findings if f.code == "LA805")],
        "left": [key for key in seen if seen[key] != now[key]],
        "changed": [key for key in state if not torch.equal(state[key], after[key])],
        "trains as before": losses == trained(twin, case) and len(set(losses)) == len(losses),
    }


def expected(case, rank):
    """What ``run_case`` must say, but for the checks that fail: those are the codes' own."""
    named = case.codes if rank == 1 or not case.only_rank_1 else ()
    return {"codes": list(named), "left": [], "changed": [], "trains as before": True}


def main():
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        for kernels in (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_mem_efficient_sdp):
            kernels(False)  # their gradients differ from run to run, and two trainings are compared bit for bit
    distributed.init_process_group("nccl" if DEVICE == "cuda" else "gloo", timeout=timedelta(seconds=60))
    every = {**CASES, **HIGGS, **APART}
    for name in sys.argv[1:]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=HIGGS_WARNS)
            told = {"name": name, "rank": distributed.get_rank(), **run_case(every[name])}
        sys.stdout.write(json.dumps(told) + "\n")  # one write: the lines of two processes must not mix
        sys.stdout.flush()
    distributed.barrier()  # and no way out of Python's own: gloo's threads outlive what they belong to


if __name__ == "__main__":
    main()
