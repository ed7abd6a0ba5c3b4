"""The compiled data plane: worker loop, forwarding, FDB, output, drop reasons."""
