"""The processes of a run: a script in this one, those that it or a command starts, and what all of them tell as one."""
