"""Settings that hold for every test."""

import gc
import logging
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from warm import Warm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tensors of tests are small: threads of several workers wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("GITHUB_ACTIONS", None)  # where a workflow runs these tests, their findings are none of its own

# pytest puts this folder on the path, where ``alignment/`` and ``probes/`` hold the tests of the packages
# of these names: found first, they would hide an editable installation.
sys.path.insert(0, str(Path(__file__).parents[1]))

# No deadline: the first example of a process pays for its imports. The quick profile draws the same examples in
# every run, so that CI does not turn red by chance; the deep one looks for new ones.
settings.register_profile("quick", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure():
    """Plainer kernels forced on a processor with AVX-512: torch's fused attention in half precision refuses to run."""
    if os.environ.get("ATEN_CPU_CAPABILITY") in {"default", "avx2"}:
        import torch

        torch.backends.cuda.enable_flash_sdp(False)


#: What depends on no version of transformers: where two environments are run, one is enough.
ONCE = (
    "probes/checks/test_blind_spots.py",
    "probes/checks/test_causality.py",
    "probes/checks/test_causality_doors.py",
    "probes/checks/test_cut_off.py",
    "probes/checks/test_floor.py",
    "probes/checks/test_further_heads.py",
    "probes/checks/test_looked_at.py",
    "probes/checks/test_mtp_layers.py",
    "probes/checks/test_penalised.py",
    "probes/checks/test_plain_modules.py",
    "probes/checks/test_reduction.py",
    "probes/checks/test_rule_examples.py",
    "probes/checks/test_tied_calls.py",
    "probes/checks/test_windows.py",
    "probes/commands",
    "probes/finder",
    "probes/fuzzing/test_fuzz.py",
    "probes/host",
    "probes/line",
    "probes/live/test_again.py",
    "probes/live/test_beside.py",
    "probes/live/test_codebooks_run.py",
    "probes/live/test_declared_reduction.py",
    "probes/live/test_declared_run.py",
    "probes/live/test_doors.py",
    "probes/live/test_eagerly.py",
    "probes/live/test_frozen.py",
    "probes/live/test_further_run.py",
    "probes/live/test_joined.py",
    "probes/live/test_kept_back.py",
    "probes/live/test_later.py",
    "probes/live/test_launch.py",
    "probes/live/test_lines_run.py",
    "probes/live/test_observed.py",
    "probes/live/test_observed_nothing.py",
    "probes/live/test_observed_steps.py",
    "probes/live/test_observed_styles.py",
    "probes/live/test_observed_unlabelled.py",
    "probes/live/test_own_heads.py",
    "probes/live/test_own_loops.py",
    "probes/live/test_padding_unlabelled.py",
    "probes/live/test_public_scripts.py",
    "probes/live/test_random_runs.py",
    "probes/live/test_roles_run.py",
    "probes/live/test_run.py",
    "probes/live/test_search.py",
    "probes/live/test_several_models.py",
    "probes/live/test_stretched_logits.py",
    "probes/live/test_teachers.py",
    "probes/live/test_threads.py",
    "probes/live/test_trainer_callback.py",
    "probes/live/test_watcher.py",
    "probes/live/test_whole_step.py",
    "probes/live/test_zoo_run.py",
    "probes/models/test_codebooks.py",
    "probes/models/test_declaration.py",
    "probes/models/test_declared.py",
    "probes/models/test_declared_keys.py",
    "probes/models/test_head_by_size.py",
    "probes/models/test_loss_masks.py",
    "probes/models/test_rows.py",
    "probes/models/test_speech_models.py",
    "probes/processes",
    "probes/ranks",
    "probes/records",
    "probes/replay",
    "probes/report",
    "probes/sweep",
    "probes/witness/test_delayed.py",
    "probes/witness/test_detached_logits.py",
    "probes/witness/test_label_rules.py",
    "probes/witness/test_lengths.py",
    "probes/witness/test_let_go.py",
    "probes/witness/test_masked_ids.py",
    "probes/witness/test_numbered.py",
    "probes/witness/test_own_labels.py",
    "probes/witness/test_penalties.py",
    "probes/witness/test_random_losses.py",
    "probes/witness/test_skipped_product.py",
    "probes/witness/test_turned.py",
    "test_action.py",
    "test_layering.py",
    "test_pytest_plugin.py",
    "test_release.py",
)


@pytest.fixture(autouse=True)
def _compiled_afresh():
    """What a test has compiled counts towards torch's limit of compilations a function, for every test behind it."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


@pytest.fixture(autouse=True)
def _logs_as_before():
    """A script that a test runs here may turn all logs off for what it prints itself: the next test reads them."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Mark what is enough to run once; skip what needs a Higgs model that is not here, and say how to install it."""
    here = Path(__file__).parent
    once = {path for path in {item.path for item in items} if any(path.is_relative_to(here / one) for one in ONCE)}
    for item in items:
        if item.path in once and not item.get_closest_marker("versions"):
            item.add_marker("once")
    for family in ("higgs", "higgs_v2"):
        marked = [item for item in items if item.get_closest_marker(family)]
        reason = why_unavailable(family) if marked else None
        if reason is not None:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    """What collecting has made stays for good: no sweep of the garbage collector goes through it again."""
    gc.freeze()


def why_unavailable(family):
    from probes.models import higgs, higgs_v2

    return {"higgs": higgs, "higgs_v2": higgs_v2}[family].why_unavailable()


@pytest.fixture(scope="session")
def warm():
    """Starts processes whose imports are done; of each worker's own."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def no_lines(monkeypatch):
    """The lines of code behind a finding take a third of a check, or more, and are tested in their own room."""
    for place in ("probes.checks.check", "probes.line"):
        monkeypatch.setattr(f"{place}.with_lines", lambda findings, *_: findings)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps one state a process: what a Trainer sets, others would inherit."""
    from accelerate import state

    yield
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


#: Where torch keeps them: ``torch.compile`` warns of them, and the next watched run meets them.
GLOBAL_HOOKS = (
    ("torch.nn.modules.module", "_global_"),
    ("torch.optim.optimizer", "_global_optimizer_"),
)


def _left_in_torch():
    """Hooks that hold for every module and every optimizer of the process, by the registry that holds them."""
    rooms = [(sys.modules.get(name), prefix) for name, prefix in GLOBAL_HOOKS]
    registries = {name: vars(room)[name] for room, prefix in rooms if room for name in vars(room) if prefix in name}
    return {name: hooks for name, hooks in registries.items() if isinstance(hooks, dict) and hooks}


def _left_modes():
    """Our modes on torch's stack, where every later function would pass through them; they are taken off."""
    overrides = sys.modules.get("torch.overrides")
    if overrides is None:
        return []
    stack = [overrides._pop_mode() for _ in range(overrides._len_torch_function_stack())]
    ours = [type(mode).__name__ for mode in stack if type(mode).__module__.startswith(("probes", "alignment"))]
    for mode in reversed(stack):
        if type(mode).__name__ not in ours:
            overrides._push_mode(mode)
    return ours


@pytest.fixture(autouse=True)
def no_global_hooks_left():
    """No test leaves a hook, or a mode, of the whole process behind, whatever ended what it watched."""
    yield
    left = {name: list(hooks) for name, hooks in _left_in_torch().items()}
    for hooks in _left_in_torch().values():
        hooks.clear()
    modes = _left_modes()
    assert (left, modes) == ({}, [])
    torch = sys.modules.get("torch.nn")
    assert torch is None or not hasattr(torch.Module.__call__, "__wrapped__")
