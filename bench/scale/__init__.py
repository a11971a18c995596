"""What stays fast however long the history and the queues are: measured at a million, with the plans."""
