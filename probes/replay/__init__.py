"""The second witness: the loss run again with other inputs, and which rows moved. It knows nothing of the first."""
