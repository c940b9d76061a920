"""Training loops that are judged in this process, and what is said of them."""

from live_runs import batches, llama, loop, mean, watched

__all__ = ["UNTOLD", "codes", "right", "run", "unlabelled"]

#: A loop that keeps its labels to itself, on a part of the rows: nobody says which must be trained.
UNTOLD = ["LA804 blind"]


def right(model, batch):
    return mean(model(**batch).logits, batch["labels"])


def codes(report):
    return sorted({f"{found.code} {found.severity}" for found in report.findings})


def run(loss, data=None, *, model=None, **options):
    model = llama() if model is None else model
    accumulate = options.pop("accumulate", 1)
    report, code = watched(lambda: loop(model, loss, data or batches(4), accumulate=accumulate), **options)
    assert report is not None
    return report, code


def unlabelled(loss):
    """The loop takes the labels out of its batch before it calls the model."""

    def popped(model, batch):
        labels = batch.pop("labels")
        return loss(model(**batch).logits, labels)

    return popped
