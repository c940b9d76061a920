"""The machine and the process: leave no trace, write whole files, refuse what cannot fit."""
