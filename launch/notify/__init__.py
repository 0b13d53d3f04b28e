"""Notifications of what an operator should know: what is told (messages), how (senders), once (delivery)."""
